import json
from dataclasses import asdict

import numpy as np
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from nas.residual import Residual, Smoothness, choose_smoothness, fit_residual

RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(60, 3)) * [1.0, 10.0, 0.1]
ERRORS = 0.1 * np.sin(2 * TABLE[:, 0]) + 0.01 * RNG.normal(size=60)


def test_the_posterior_is_that_of_scikit_learn() -> None:
    points = (TABLE - TABLE.mean(axis=0)) / TABLE.std(axis=0) / np.sqrt(3)
    oracle = GaussianProcessRegressor(Matern(0.7, nu=2.5), alpha=0.1, optimizer=None).fit(points, ERRORS)
    new = RNG.normal(size=(20, 3)) * [1.0, 10.0, 0.1]
    expected = oracle.predict((new - TABLE.mean(axis=0)) / TABLE.std(axis=0) / np.sqrt(3))
    found = fit_residual(TABLE, [0, 1, 2], ERRORS, Smoothness(0.7, 0.1)).predict(new)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_kernel_chosen_is_the_likeliest_of_the_grid() -> None:
    points = (TABLE - TABLE.mean(axis=0)) / TABLE.std(axis=0) / np.sqrt(3)
    chosen = choose_smoothness(TABLE, ERRORS)

    def likelihood(length: float, noise: float) -> float:
        kernel = Matern(length, nu=2.5) + WhiteKernel(noise)
        unit = kernel(points)
        signal = ERRORS @ np.linalg.solve(unit, ERRORS) / len(ERRORS)
        process = GaussianProcessRegressor(ConstantKernel(signal) * kernel, alpha=0, optimizer=None)
        return float(process.fit(points, ERRORS).log_marginal_likelihood_value_)

    best = likelihood(chosen.length, chosen.noise)
    assert all(best >= likelihood(length, noise) for length in (0.35, 0.7, 1.4, 2.8) for noise in (0.01, 0.1, 1.0))


def test_it_learns_a_curve_and_says_nothing_far_away() -> None:
    process = fit_residual(TABLE, [0, 1, 2], ERRORS, choose_smoothness(TABLE, ERRORS))
    new = RNG.normal(size=(100, 3)) * [0.7, 7.0, 0.07]
    truth = 0.1 * np.sin(2 * new[:, 0])
    assert np.abs(process.predict(new) - truth).mean() < 0.4 * np.abs(truth).mean()
    np.testing.assert_allclose(process.predict(new + 1000), 0, atol=1e-6)


def test_a_wild_error_does_not_pull_its_neighbours_along() -> None:
    errors = ERRORS.copy()
    errors[0] = 5.0
    calm, wild = (
        fit_residual(TABLE, [0, 1, 2], each, Smoothness(0.7, 0.1)).predict(TABLE) for each in (ERRORS, errors)
    )
    assert np.abs(wild - calm).max() < 0.5


def test_rows_predicted_in_pieces_are_those_predicted_at_once() -> None:
    process = fit_residual(TABLE, [0, 2], ERRORS, Smoothness(0.7, 0.1))
    many = np.tile(TABLE, (200, 1))
    np.testing.assert_allclose(process.predict(many), np.tile(process.predict(TABLE), 200), atol=1e-5)


def test_a_process_survives_json() -> None:
    process = fit_residual(TABLE, [0, 2], ERRORS, Smoothness(0.7, 0.1))
    loaded = Residual.from_json(json.loads(json.dumps(asdict(process))))
    assert loaded == process
    np.testing.assert_array_equal(loaded.predict(TABLE), process.predict(TABLE))
