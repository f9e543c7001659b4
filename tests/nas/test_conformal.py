import numpy as np
import pytest

from nas.conformal import errors_of, interval


def brute_force(predicted: np.ndarray, errors: np.ndarray, fold_of: np.ndarray, coverage: float) -> tuple[float, float]:
    """Return the interval of one row as the paper writes it, eq. 9 with its quantiles of eq. 3."""
    n = len(errors)
    lows = sorted(np.log(predicted[fold_of[i]]) - errors[i] for i in range(n))
    highs = sorted(np.log(predicted[fold_of[i]]) + errors[i] for i in range(n))
    alpha = 1 - coverage
    low, high = int(np.floor(alpha * (n + 1) + 1e-9)), int(np.ceil((1 - alpha) * (n + 1) - 1e-9))
    return np.exp(lows[low - 1]), np.exp(highs[high - 1])


def test_intervals_are_those_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    predicted, errors, fold_of = rng.uniform(1, 2, (5, 7)), rng.random(20), np.arange(20) % 5
    for coverage in (0.5, 0.8, 0.95):
        low, high = interval(predicted, errors, fold_of, coverage)
        expected = [brute_force(predicted[:, j], errors, fold_of, coverage) for j in range(7)]
        np.testing.assert_allclose(np.stack([low, high], axis=1), expected)


def test_a_coverage_that_so_few_rows_cannot_show_is_infinite() -> None:
    low, high = interval(np.ones((3, 2)), np.ones(3), np.arange(3), 0.9)
    assert low.tolist() == [0, 0]
    assert np.isinf(high).all()


def test_a_constant_model_covers_at_the_stated_rate() -> None:
    rng, inside = np.random.default_rng(0), []
    for _ in range(2000):
        seen, new = rng.lognormal(size=19), rng.lognormal()
        held_out = np.array([np.exp(np.mean(np.log(np.delete(seen, i)))) for i in range(19)])
        low, high = interval(held_out[:, None], errors_of(held_out, seen), np.arange(19), 0.9)
        inside.append(low[0] <= new <= high[0])
    assert np.mean(inside) == pytest.approx(0.9, abs=0.02)
