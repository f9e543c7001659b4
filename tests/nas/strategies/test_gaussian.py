import numpy as np
import pytest
from scipy.optimize import check_grad
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel

from nas.strategies.gaussian import FLOOR, GaussianProcess, Kernel, _objective, fit_kernel

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 4))
Y = np.sin(2 * X[:, 0]) + 0.5 * X[:, 1] + 0.05 * RNG.normal(size=40)
KERNEL = Kernel(np.log([0.7, 2.0, 5.0, 5.0]), np.log(1.3), np.log(0.4), np.log(0.01))


def test_the_posterior_is_that_of_scikit_learn():
    covariance = (
        ConstantKernel(1.3) * Matern([0.7, 2.0, 5.0, 5.0], nu=2.5)
        + ConstantKernel(0.4 / 4) * DotProduct(0.0)
        + WhiteKernel(0.01 + FLOOR)
    )
    oracle = GaussianProcessRegressor(covariance, optimizer=None).fit(X, Y - Y.mean())
    points = RNG.normal(size=(25, 4))
    means, deviations = oracle.predict(points, return_std=True)
    process = GaussianProcess(X, Y, KERNEL)
    exact = process.mean + KERNEL.between(points, X) @ process._weights
    np.testing.assert_allclose(exact, means + Y.mean(), atol=1e-8)
    ours = process.predict(points)
    np.testing.assert_allclose(ours[0], means + Y.mean(), atol=1e-4)  # computed in float32
    np.testing.assert_allclose(ours[1] ** 2, deviations**2 - 0.01 - FLOOR, atol=1e-4)


def test_held_out_predictions_are_those_of_a_process_without_the_point():
    found = GaussianProcess(X, Y, KERNEL).held_out
    for left_out in (0, 17, 39):
        rest = np.arange(40) != left_out
        covariance = KERNEL.between(X[rest], X[rest]) + (0.01 + FLOOR) * np.eye(39)
        weights = np.linalg.solve(covariance, Y[rest] - Y.mean())
        expected = Y.mean() + KERNEL.between(X[[left_out]], X[rest]) @ weights
        assert found[left_out] == pytest.approx(expected[0])


def test_the_gradient_of_the_posterior_density_is_that_of_finite_differences():
    theta = np.concatenate([RNG.normal(1, 0.5, 4), [0.3, -0.8, -2.5]])
    y = Y - Y.mean()
    error = check_grad(
        lambda t: _objective(t, X, y, 1.5)[0], lambda t: _objective(t, X, y, 1.5)[1], theta, epsilon=1e-6
    )
    assert error < 1e-4


def test_a_fitted_kernel_finds_the_columns_that_matter_and_the_noise():
    kernel = fit_kernel(X, Y)
    assert kernel.scales[0] < kernel.scales[2:].min()
    points = RNG.normal(size=(200, 4))
    truth = np.sin(2 * points[:, 0]) + 0.5 * points[:, 1]
    means, deviations = GaussianProcess(X, Y, kernel).predict(points)
    assert np.corrcoef(means, truth)[0, 1] > 0.95
    assert np.mean(np.abs(means - truth) < 2.5 * deviations) > 0.85


def test_points_that_repeat_do_not_break_it():
    x = np.repeat(X[:5], 8, axis=0)
    means, deviations = GaussianProcess(x, Y, fit_kernel(x, Y)).predict(X)
    assert np.isfinite(means).all()
    assert (deviations > 0).all()
