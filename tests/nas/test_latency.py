import json

import numpy as np
import pytest

from nas.latency import LatencyPredictor, _ranks, _spearman
from search_spaces.errors import ShapeError, StateError

Student = dict[str, float]


def students(n: int, seed: int = 0) -> list[Student]:
    """Return features of random encoders: depth, GFLOP of products and of attention, elementwise work."""
    rng = np.random.default_rng(seed)
    depth, hidden = rng.integers(1, 7, n), rng.choice([96, 192, 288, 384], n)
    ffn = rng.choice([128, 256, 512, 768, 1536], n)
    return [
        {
            "depth": float(d),
            "gflop": d * h * (4 * h + 2 * f) * 16e-9,
            "attention": d * h * 256e-9,
            "bytes": d * f * 1e-6,
        }
        for d, h, f in zip(depth.tolist(), hidden.tolist(), ffn.tolist(), strict=True)
    ]


def latency(student: Student, speed: float = 1.0) -> float:
    """Return the ms of an imaginary device that obeys a physical law."""
    return 0.02 + 0.03 * student["depth"] + 5 * student["gflop"] / speed + 30 * student["attention"]


def test_a_physical_law_is_recovered_from_few_students() -> None:
    seen, unseen = students(30), students(50, seed=1)
    predictor = LatencyPredictor()
    predictor.fit(seen, np.array([latency(each) for each in seen]), ["fp32"] * 30)
    predicted = np.array([predictor.predict(each, "fp32") for each in unseen])
    np.testing.assert_allclose(predicted, [latency(each) for each in unseen], rtol=0.01)
    assert predictor.report.mape < 0.01
    assert predictor.report.spearman > 0.99


def test_each_variant_has_its_own_model_and_its_own_error() -> None:
    seen = students(40)
    variants = ["fp32", "int8"] * 20
    measured = [latency(each, 4.0 if variant == "int8" else 1.0) for each, variant in zip(seen, variants, strict=True)]
    predictor = LatencyPredictor()
    predictor.fit(seen, np.array(measured), variants)
    assert predictor.variants == ("fp32", "int8")
    assert predictor.predict(seen[0], "int8") == pytest.approx(latency(seen[0], 4.0), rel=0.02)
    assert predictor.predict(seen[0], "fp32") == pytest.approx(latency(seen[0]), rel=0.02)
    assert {name: each["n"] for name, each in predictor.report.variants.items()} == {"fp32": 20, "int8": 20}
    assert predictor.report.n == 40


def test_the_reported_error_is_that_of_unseen_students() -> None:
    rng = np.random.default_rng(0)
    seen, unseen = students(40), students(400, seed=1)
    predictor = LatencyPredictor()
    predictor.fit(seen, np.array([latency(each) * np.exp(rng.normal(0, 0.1)) for each in seen]), ["int8"] * 40)
    noisy = np.array([latency(each) * np.exp(rng.normal(0, 0.1)) for each in unseen])
    predicted = np.array([predictor.predict(each, "int8") for each in unseen])
    assert predictor.report.mape == pytest.approx(np.mean(np.abs(predicted - noisy) / noisy), rel=0.3)


def test_pure_noise_is_not_reported_as_predictable() -> None:
    rng = np.random.default_rng(0)
    predictor = LatencyPredictor()
    predictor.fit(students(30), rng.lognormal(size=30), ["int8"] * 30)
    assert predictor.report.mape > 0.3
    assert predictor.report.spearman < 0.6


@pytest.mark.parametrize("n", [1, 2, 3])
def test_very_few_students_still_give_a_positive_prediction(n: int) -> None:
    seen = students(n)
    predictor = LatencyPredictor()
    predictor.fit(seen, np.array([latency(each) for each in seen]), ["int8"] * n)
    assert all(predictor.predict(each, "int8") > 0 for each in students(20, seed=1))
    assert np.isfinite(predictor.report.mape)


def test_a_shape_far_below_all_that_were_seen_is_not_free() -> None:
    predictor = LatencyPredictor()
    predictor.fit([{"gflop": 10.0}, {"gflop": 20.0}], np.array([1.0, 3.0]), ["fp32", "fp32"])
    assert predictor.predict({"gflop": 0.0}, "fp32") == pytest.approx(0.5, rel=1)
    assert predictor.predict({"gflop": 0.0}, "fp32") >= 0.5


def test_the_size_of_a_file_is_learnt_from_the_number_of_parameters() -> None:
    parameters = [4e6, 7e6, 11e6, 14e6, 20e6]
    predictor = LatencyPredictor()
    predictor.fit([{"parameters": each} for each in parameters], 4 * np.array(parameters) + 9000, ["fp32"] * 5)
    assert predictor.predict({"parameters": 9e6}, "fp32") == pytest.approx(36e6, rel=1e-3)


def test_a_predictor_survives_json() -> None:
    seen = students(12)
    predictor = LatencyPredictor()
    predictor.fit(seen, np.array([latency(each) for each in seen]), ["fp32", "int8"] * 6)
    loaded = LatencyPredictor.from_json(json.loads(json.dumps(predictor.to_json())))
    assert loaded.report == predictor.report
    assert [loaded.predict(each, "int8") for each in seen] == [predictor.predict(each, "int8") for each in seen]


def test_an_unknown_variant_is_answered_with_the_known_ones() -> None:
    predictor = LatencyPredictor()
    predictor.fit(students(3), np.ones(3), ["fp32", "int8", "int8"])
    with pytest.raises(StateError, match=r"'int4' is unknown; known: fp32, int8. Did you mean 'int8'\?"):
        predictor.predict(students(1)[0], "int4")


def test_a_predictor_that_was_not_fitted_says_so() -> None:
    predictor = LatencyPredictor()
    with pytest.raises(StateError, match="knows no student yet"):
        predictor.predict({}, "fp32")
    with pytest.raises(StateError, match="knows no student yet"):
        _ = predictor.report


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rejected_fit_changes_nothing(bad: float) -> None:
    predictor = LatencyPredictor()
    predictor.fit(students(3), np.ones(3), ["fp32"] * 3)
    before = predictor.to_json()
    with pytest.raises(ShapeError, match=f"a latency is {bad}"):
        predictor.fit(students(3), np.array([1.0, bad, 2.0]), ["int8"] * 3)
    with pytest.raises(ShapeError, match="3 features, 2 latencies, 3 variants"):
        predictor.fit(students(3), np.ones(2), ["int8"] * 3)
    assert predictor.to_json() == before


def test_ranks_and_their_correlation_are_those_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 30).astype(float), rng.random(30)
    np.testing.assert_array_equal(_ranks(a), stats.rankdata(a))
    assert _spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
