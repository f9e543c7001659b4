import numpy as np
import pytest

from nas.latency_model import LatencyModel, _non_negative, _normal_equations, fit_model, hold_out


def encoders(n: int) -> np.ndarray:
    """Return layers and megabytes of weights of random encoders."""
    rng = np.random.default_rng(0)
    layers = rng.integers(1, 7, n)
    return np.stack([layers, layers * rng.uniform(0.5, 6, n)], axis=1)


def test_the_non_negative_solution_is_that_of_scipy() -> None:
    nnls = pytest.importorskip("scipy.optimize").nnls
    rng = np.random.default_rng(0)
    for _ in range(50):
        table = rng.random((20, 8))
        table[:, 3] = 2 * table[:, 2]
        table /= (table @ rng.normal(1, 1, 8)).clip(0.3)[:, None]
        penalty = (_normal_equations(table, 1e-4)[0] - table.T @ table)[0, 0]
        augmented = np.vstack([table, np.sqrt(penalty) * np.eye(8)])
        expected = nnls(augmented, np.concatenate([np.ones(20), np.zeros(8)]))[0]
        np.testing.assert_allclose(_non_negative(table, 1e-4), expected, atol=1e-6)


def test_weights_that_miss_the_cache_are_recognised() -> None:
    table = encoders(40)
    weights_mb = table[:, 1]
    target = 0.02 * table[:, 0] + 0.05 * weights_mb * np.where(weights_mb > 12, 2, 1)
    with_cache = fit_model(table, target, ("layers", "weights_mb"))
    without = fit_model(table, target, ("layers", "weights"))
    assert with_cache.cache_mb is not None
    assert without.cache_mb is None
    errors = [np.abs(model.predict(table) / target - 1).mean() for model in (with_cache, without)]
    assert errors[0] < errors[1] / 2


def test_a_law_without_a_cliff_needs_no_cache_to_be_exact() -> None:
    table = encoders(20)
    target = 0.1 + 0.02 * table[:, 0] + 0.05 * table[:, 1]
    model = fit_model(table, target, ("layers", "weights_mb"))
    np.testing.assert_allclose(model.predict(table), target, rtol=1e-3)
    np.testing.assert_allclose(hold_out(table, target, ("layers", "weights_mb")), target, rtol=1e-2)


def test_no_prediction_falls_below_half_of_the_smallest_value_seen() -> None:
    model = LatencyModel(weights=(-1.0, 0.0), names=("layers",), cache_mb=None, floor=0.25)
    assert model.predict(np.array([[3.0]])).tolist() == [0.25]
