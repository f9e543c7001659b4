"""Latencies that others published, predicted from few of them: the figures they got must be reached."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.latency_data import HAT_PUBLISHED, load_hat, load_nb201
from nas.goodness import errors
from nas.latency import LatencyPredictor

DATA = Path(__file__).parents[3] / "shared" / "data" / "nas"
needs_data = pytest.mark.skipif(not DATA.exists(), reason=f"the data folder {DATA} is not there")


@needs_data
@pytest.mark.parametrize("name", ["iwslt14deen_gpu_titanxp", "wmt14ende_cpu_raspberrypi"])
def test_two_hundred_measurements_predict_better_than_the_released_predictor_of_hat(name: str) -> None:
    data = load_hat(DATA / "hat_latency", name)
    rows = np.random.default_rng(0).permutation(len(data.table))
    predictor, learnt, held_out = LatencyPredictor(), rows[200:400], rows[:200]
    predictor.fit(data.features(learnt), data.latency_ms[name][learnt], ["fp32"] * 200)
    found = errors(predictor.predict_all(data.table[held_out], "fp32"), data.latency_ms[name][held_out])
    assert found["mape"] < HAT_PUBLISHED[name][0]
    assert found["spearman"] > 0.94
    assert predictor.report.mape == pytest.approx(found["mape"], rel=0.3)


@needs_data
def test_ten_measurements_rank_the_cells_of_an_fpga() -> None:
    data = load_nb201(DATA / "nb201")
    rows = np.random.default_rng(0).permutation(len(data.table))[:10]
    predictor = LatencyPredictor()
    predictor.fit(data.features(rows), data.latency_ms["fpga"][rows], ["fp32"] * 10)
    assert errors(predictor.predict_all(data.table, "fp32"), data.latency_ms["fpga"])["spearman"] > 0.98


@needs_data
def test_what_a_cell_does_not_use_is_not_on_the_way() -> None:
    data = load_nb201(DATA / "nb201")
    counts, on_the_way = data.table[:, :4], data.table[:, 4:8]
    assert (on_the_way <= counts).all()
    is_connected = data.table[:, 8] == 1
    assert (on_the_way[~is_connected] == 0).all()
    assert (on_the_way[is_connected].sum(axis=1) >= 1).all()
