import json

import numpy as np

from nas.columns import Columns
from nas.latency_model import LatencyModel, fit_model, folds, hold_out


def encoders(n: int, seed: int = 0) -> np.ndarray:
    """Return layers and megabytes of weights of random encoders."""
    rng = np.random.default_rng(seed)
    layers = rng.integers(1, 7, n)
    return np.stack([layers, layers * rng.uniform(0.5, 6, n)], axis=1)


def test_weights_that_miss_the_cache_are_recognised() -> None:
    table = encoders(40)
    weights_mb = table[:, 1]
    target = 0.02 * table[:, 0] + 0.05 * weights_mb * np.where(weights_mb > 12, 2, 1)
    with_cache = fit_model(table, target, ("layers", "weights_mb"))
    without = fit_model(table, target, ("layers", "weights"))
    assert with_cache.columns.cache_mb is not None
    assert without.columns.cache_mb is None
    errors = [np.abs(model.predict(table) / target - 1).mean() for model in (with_cache, without)]
    assert errors[0] < errors[1] / 2


def test_a_law_without_a_cliff_needs_no_cache_to_be_exact() -> None:
    table = encoders(20)
    target = 0.1 + 0.02 * table[:, 0] + 0.05 * table[:, 1]
    model = fit_model(table, target, ("layers", "weights_mb"))
    np.testing.assert_allclose(model.predict(table), target, rtol=1e-3)
    np.testing.assert_allclose(hold_out(table, target, ("layers", "weights_mb"))[0], target, rtol=1e-2)


def test_a_price_that_jumps_with_the_size_of_a_block_makes_a_table() -> None:
    rng = np.random.default_rng(0)
    table = rng.choice([1.0, 2.0, 3.0, 4.0], (60, 2))
    price = {1.0: 1.0, 2.0: 3.0, 3.0: 3.2, 4.0: 6.0}
    target = 0.5 + np.array([price[a] + price[b] / 2 for a, b in table])
    model = fit_model(table, target, ("first", "second"))
    assert model.columns.entries
    np.testing.assert_allclose(model.predict(table), target, rtol=0.01)


def test_a_model_survives_json() -> None:
    rng = np.random.default_rng(0)
    table = rng.uniform(0, 1, (40, 2))
    for target in (1 + table[:, 0], 2 + np.sin(9 * table[:, 0])):
        model = fit_model(table, target, ("a", "b"))
        assert LatencyModel.from_json(json.loads(json.dumps(model.to_json()))) == model


def test_no_held_out_row_helps_to_predict_itself() -> None:
    rng = np.random.default_rng(0)
    table, target = rng.random((30, 2)), rng.lognormal(size=30)
    before, _ = hold_out(table, target, ("a", "b"))
    for fold in folds(30)[:3]:
        other = target.copy()
        other[fold] *= 7
        after, models = hold_out(table, other, ("a", "b"))
        np.testing.assert_array_equal(after[fold], before[fold])
        assert len(models) == 10


def test_no_prediction_falls_below_half_of_the_smallest_value_seen() -> None:
    model = LatencyModel(Columns((0,)), weights=(-1.0, 0.0), floor=0.25)
    assert model.predict(np.array([[3.0]])).tolist() == [0.25]


def test_prices_are_positive_where_the_errors_cannot_tell() -> None:
    has_negative = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        table = rng.uniform(0.1, 1, (16, 5))
        cost = (table @ np.array([1.0, 0.3, 0.0, 0.1, 0.5])) * np.exp(rng.normal(0, 0.1, 16))
        has_negative.append(min(fit_model(table, cost, tuple("abcde")).weights) < 0)
    assert sum(has_negative) <= 3  # the smallest error alone takes one of negative prices for 11
