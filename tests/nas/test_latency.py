import json

import numpy as np
import pytest

from nas.latency import LatencyPredictor
from search_spaces.errors import ConfigError, ShapeError, StateError

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


class SlowChip:
    """An imaginary device of known prices whose measurements err by 4 %, one in ten by a spike."""

    def __init__(self, seed: int, spikes: float = 0.1) -> None:
        self.rng, self.spikes = np.random.default_rng(seed), spikes

    def measure(self, students: list[Student]) -> np.ndarray:
        wrong = np.where(self.rng.random(len(students)) < self.spikes, self.rng.uniform(1.3, 2.0, len(students)), 1.0)
        return np.array([latency(each) for each in students]) * np.exp(self.rng.normal(0, 0.04, len(students))) * wrong


def fitted(chip: SlowChip, n: int = 50, seed: int = 0, **arguments: LatencyPredictor) -> LatencyPredictor:
    predictor = LatencyPredictor(arguments or None)
    seen = students(n, seed)
    predictor.fit(seen, chip.measure(seen), ["fp32"] * n)
    return predictor


def test_the_table_of_prices_is_recovered_though_one_measurement_in_ten_is_a_spike() -> None:
    predictor = fitted(SlowChip(0), 60)
    unseen = students(200, seed=1)
    misses = [predictor.predict(each, "fp32") / latency(each) - 1 for each in unseen]
    assert np.mean(np.abs(misses)) < 0.03
    weights = predictor._fitted["fp32"].model.weights
    price = dict(zip(("depth", "gflop", "attention", "bytes"), weights, strict=False))
    assert price["depth"] == pytest.approx(0.03, rel=0.2)
    assert price["gflop"] == pytest.approx(5, rel=0.1)


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9])
def test_intervals_cover_new_measurements_at_the_stated_rate(coverage: float) -> None:
    inside = []
    for seed in range(8):
        chip = SlowChip(seed)
        predictor, unseen = fitted(chip, 40, seed), students(100, seed=100 + seed)
        told = [predictor.foretell(each, "fp32", coverage) for each in unseen]
        pairs = zip(told, chip.measure(unseen), strict=True)
        inside += [one.low <= measured <= one.high for one, measured in pairs]
    assert np.mean(inside) == pytest.approx(coverage, abs=0.06)


def test_an_interval_holds_the_prediction_and_widens_with_the_coverage() -> None:
    predictor, student = fitted(SlowChip(0)), students(1, seed=3)[0]
    narrow, wide = (predictor.foretell(student, "fp32", coverage) for coverage in (0.5, 0.95))
    assert narrow.value == wide.value == predictor.predict(student, "fp32")
    assert wide.low < narrow.low <= narrow.value <= narrow.high < wide.high


def test_too_few_students_for_a_coverage_give_an_interval_without_end() -> None:
    predictor = fitted(SlowChip(0), 5)
    told = predictor.foretell(students(1, seed=3)[0], "fp32", 0.9)
    assert (told.low, told.high) == (0.0, np.inf)
    assert np.isfinite(predictor.foretell(students(1, seed=3)[0], "fp32", 0.8).high)
    assert fitted(SlowChip(0), 1).foretell(students(1)[0], "fp32").high == np.inf


@pytest.mark.parametrize("coverage", [0.0, 1.0, 90])
def test_a_coverage_out_of_range_is_refused(coverage: float) -> None:
    with pytest.raises(ConfigError, match=f"a coverage of {coverage} is out of range; between 0 and 1"):
        fitted(SlowChip(0), 5).foretell(students(1)[0], "fp32", coverage)


def test_a_student_outside_of_what_was_measured_is_told_in_words() -> None:
    predictor = fitted(SlowChip(0))
    assert all(predictor.foretell(each, "fp32").warning == "" for each in students(50))
    deep = {**students(1)[0], "depth": 24.0}
    assert predictor.foretell(deep, "fp32").warning == "depth 24 is outside of 1 to 6"
    free = {**deep, "gflop": 1.0}
    assert predictor.foretell(free, "fp32").warning.startswith("gflop 1 is outside of ")
    assert predictor.foretell(free, "fp32").warning.endswith("depth 24 is outside of 1 to 6")


def test_many_students_are_predicted_as_one_by_one() -> None:
    predictor, unseen = fitted(SlowChip(0)), students(30, seed=1)
    one_by_one = [predictor.predict(each, "fp32") for each in unseen]
    np.testing.assert_allclose(predictor.predict_all(unseen, "fp32"), one_by_one, rtol=1e-9)
    table = np.array([list(each.values()) for each in unseen])
    np.testing.assert_allclose(predictor.predict_all(table, "fp32"), one_by_one, rtol=1e-9)


def test_a_refreshed_predictor_is_the_one_that_saw_all_at_once() -> None:
    seen, times = students(30), SlowChip(0).measure(students(30))
    whole, grown = LatencyPredictor(), LatencyPredictor()
    whole.fit(seen, times, ["fp32", "int8", "int8"] * 10)
    grown.fit(seen[:12], times[:12], ["fp32", "int8", "int8"] * 4)
    grown.refresh(seen[12:21], times[12:21], ["fp32", "int8", "int8"] * 3)
    grown = LatencyPredictor.from_json(json.loads(json.dumps(grown.to_json())))
    grown.refresh(seen[21:], times[21:], ["fp32", "int8", "int8"] * 3)
    assert grown.to_json() == whole.to_json()


def test_a_refresh_may_bring_a_variant_and_leaves_the_others_alone() -> None:
    predictor = fitted(SlowChip(0), 12)
    before = predictor.predict(students(1)[0], "fp32")
    predictor.refresh(students(3), SlowChip(0).measure(students(3)), ["int8"] * 3)
    assert predictor.variants == ("fp32", "int8")
    assert predictor.predict(students(1)[0], "fp32") == before
    assert predictor.report.n == 15


def test_the_share_of_students_inside_of_intervals_made_without_them_is_near_the_stated_one() -> None:
    predictor = fitted(SlowChip(0), 60)
    shares = [predictor.covered(coverage)["fp32"] for coverage in (0.5, 0.8)]
    assert shares == [pytest.approx(0.5, abs=0.15), pytest.approx(0.8, abs=0.12)]
    assert fitted(SlowChip(0), 1).covered() == {"fp32": 1.0}


def test_the_model_that_was_chosen_is_said_in_words() -> None:
    alone, helped = fitted(SlowChip(0), 40), fitted(SlowChip(1), 10, old=fitted(SlowChip(0), 40))
    assert alone.models() == {"fp32": "4 prices"}
    assert helped.models()["fp32"].endswith("what is known of old")


def test_what_was_never_fitted_is_not_refreshed() -> None:
    with pytest.raises(StateError, match="knows no student yet"):
        LatencyPredictor().refresh(students(1), np.ones(1), ["fp32"])


def test_ten_measurements_and_an_old_device_are_worth_more_than_ten_measurements() -> None:
    rng = np.random.default_rng(0)
    prices = rng.uniform(1, 3, 16)
    shapes = [dict(zip("abcdefghijklmnop", row, strict=True)) for row in rng.uniform(0, 1, (290, 16)).tolist()]
    work = np.array([[*each.values()] for each in shapes])
    fast, slow = work @ prices, 1 + 3 * work @ (prices * rng.uniform(0.9, 1.1, 16))
    old, errors = LatencyPredictor(), {"alone": 0.0, "transferred": 0.0}
    old.fit(shapes[:80], fast[:80], ["fp32"] * 80)
    for name, known in (("alone", None), ("transferred", {"fast": old})):
        predictor = LatencyPredictor(known)
        predictor.fit(shapes[80:90], slow[80:90], ["fp32"] * 10)
        errors[name] = float(np.mean(np.abs(predictor.predict_all(shapes[90:], "fp32") / slow[90:] - 1)))
    assert errors["transferred"] < errors["alone"] / 2
    assert errors["transferred"] < 0.04


def test_a_transferred_predictor_survives_json_with_its_old_device() -> None:
    predictor = fitted(SlowChip(1), 10, old=fitted(SlowChip(0), 30))
    loaded = LatencyPredictor.from_json(json.loads(json.dumps(predictor.to_json())))
    assert loaded.to_json() == predictor.to_json()
    told = loaded.foretell(students(1, seed=9)[0], "fp32", 0.8)
    assert told == predictor.foretell(students(1, seed=9)[0], "fp32", 0.8)


def test_an_old_device_that_does_not_know_a_variant_is_refused_and_changes_nothing() -> None:
    predictor = fitted(SlowChip(1), 10, old=fitted(SlowChip(0), 12))
    before = predictor.to_json()
    with pytest.raises(StateError, match="'int8' is unknown; known: fp32"):
        predictor.refresh(students(3), np.ones(3), ["int8"] * 3)
    assert predictor.to_json() == before


def test_an_old_device_that_needs_other_features_is_refused() -> None:
    predictor = LatencyPredictor({"pi5": fitted(SlowChip(0), 12)})
    with pytest.raises(ShapeError, match=r"that of 'pi5' needs 'gflop'; here are depth\."):
        predictor.fit([{"depth": 1.0}], np.ones(1), ["fp32"])
