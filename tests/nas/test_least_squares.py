import numpy as np
from scipy.optimize import least_squares

from nas.least_squares import GENTLE, calm_rows, non_negative, ridge


def problem(rng: np.random.Generator, n: int = 20) -> np.ndarray:
    table = rng.random((n, 8))
    table[:, 3] = 2 * table[:, 2]
    scaled: np.ndarray = table / (table @ rng.normal(1, 1, 8)).clip(0.3)[:, None]
    return scaled


def test_no_price_is_negative_and_none_could_change_for_the_better() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        table, rows = problem(rng), rng.random(20)
        prices = non_negative(table, rows, 1e-4)
        assert prices.min() >= 0
        penalty = 1e-4 * np.mean((table * table * rows[:, None]).sum(axis=0))
        slope = table.T @ (rows * (table @ prices - 1)) + penalty * prices
        np.testing.assert_allclose(slope[prices > 0], 0, atol=1e-9)
        assert slope.min() > -1e-9


def test_where_no_price_would_be_negative_both_solutions_agree() -> None:
    table = np.random.default_rng(0).uniform(1, 2, (30, 3))
    scaled = table / (table @ [1.0, 2.0, 3.0])[:, None]
    np.testing.assert_allclose(non_negative(scaled, np.ones(30), 1e-6), ridge(scaled, np.ones(30), 1e-6))


def test_a_row_without_weight_might_as_well_be_missing() -> None:
    table = problem(np.random.default_rng(0))
    rows = np.ones(20)
    rows[:5] = 0
    np.testing.assert_allclose(ridge(table, rows, 1e-3), ridge(table[5:], np.ones(15), 1e-3))


def test_wild_measurements_lose_their_weight_and_others_keep_it() -> None:
    rng = np.random.default_rng(0)
    table = rng.uniform(1, 2, (40, 2))
    measured = table @ [1.0, 2.0] * np.exp(rng.normal(0, 0.01, 40))
    measured[:6] *= 3
    rows = calm_rows(table / measured[:, None])
    assert rows[:6].max() < 0.05
    assert np.median(rows[6:]) == 1
    found = ridge(table / measured[:, None], rows, 1e-6)
    np.testing.assert_allclose(found, [1, 2], rtol=0.03)


def test_prices_with_calm_rows_are_those_of_scipys_huber_loss() -> None:
    rng = np.random.default_rng(1)
    table = rng.uniform(1, 2, (200, 3))
    measured = table @ [1.0, 2.0, 0.5] * np.exp(rng.normal(0, 0.05, 200))
    measured[:40] *= 1.5
    scaled = table / measured[:, None]
    ours = ridge(scaled, calm_rows(scaled), GENTLE)
    deviation = 1.4826 * np.median(np.abs(scaled @ ours - 1))
    oracle = least_squares(lambda w: scaled @ w - 1, np.ones(3), loss="huber", f_scale=deviation)
    np.testing.assert_allclose(scaled @ ours, scaled @ oracle.x, atol=0.005)


def test_an_exact_law_leaves_every_row_its_weight_but_for_what_the_penalty_misses() -> None:
    table = np.random.default_rng(0).uniform(1, 2, (30, 2))
    scaled = table / (table @ [1.0, 2.0])[:, None]
    np.testing.assert_allclose(ridge(scaled, calm_rows(scaled), 1e-9), [1, 2], rtol=1e-3)
