"""A Gaussian process for a few hundred points: fitted in milliseconds, with a length scale for every column.

Knows arrays; not genes, not costs.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, solve_triangular
from scipy.optimize import minimize

ROOT5 = np.sqrt(5.0)
JITTER = 1e-8
PRIOR_MEANS, PRIOR_DEVIATIONS = np.array([0.0, -1.0, -3.0]), np.array([1.0, 2.0, 2.0])  # of the logarithms
FLOOR = 1e-4  # least noise variance, as a share of the variance of the targets


@dataclass(frozen=True)
class Kernel:
    """``amplitude * Matern5/2(x / scales) + slope * x.y + noise * (x is y)``, all in logarithms.

    Source: Rasmussen & Williams 2006, Gaussian Processes for Machine Learning, eq. 4.17 and 4.23.
    """

    scales: np.ndarray
    amplitude: float
    slope: float
    noise: float

    @classmethod
    def of(cls, theta: np.ndarray) -> "Kernel":
        """Return the kernel of a vector of parameters, scales first."""
        return cls(theta[:-3], float(theta[-3]), float(theta[-2]), float(theta[-1]))

    def between(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return ``(n, m)`` covariances of noiseless values at ``(n, d)`` and ``(m, d)`` points."""
        scales = np.exp(self.scales).astype(a.dtype)
        found = _matern(_distances(a / scales, b / scales))
        found *= float(np.exp(self.amplitude))
        found += float(np.exp(self.slope) / max(1, a.shape[1])) * (a @ b.T)
        return found

    def alone(self, a: np.ndarray) -> np.ndarray:
        """Return ``(n,)`` variances of noiseless values."""
        slope = float(np.exp(self.slope) / max(1, a.shape[1]))
        found: np.ndarray = float(np.exp(self.amplitude)) + slope * (a * a).sum(axis=1)
        return found


class GaussianProcess:
    """The posterior of a function, given values at some points."""

    def __init__(self, x: np.ndarray, y: np.ndarray, kernel: Kernel) -> None:
        """Condition on values.

        Args:
            x: ``(n, d)`` float64 points, columns of about unit variance.
            y: ``(n,)`` float64 values of about unit variance.
            kernel: E.g. of `fit_kernel`.
        """
        self.x, self.kernel = x, kernel
        self.mean = float(y.mean())
        covariance = kernel.between(x, x) + (np.exp(kernel.noise) + FLOOR) * np.eye(len(x))
        self._root = np.linalg.cholesky(covariance)
        self._weights = cho_solve((self._root, True), y - self.mean)
        self._y = y
        self._half = x.astype(np.float32), self._root.astype(np.float32), self._weights.astype(np.float32)

    @property
    def held_out(self) -> np.ndarray:
        """Return ``(n,)`` predictions of the values, each from all the others; Rasmussen & Williams 2006, eq. 5.12."""
        precision = np.diag(cho_solve((self._root, True), np.eye(len(self._y))))
        found: np.ndarray = self._y - self._weights / precision
        return found

    def predict(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the means and standard deviations of the noiseless values at ``(m, d)`` points, each ``(m,)``.

        Computed in float32, which is twice as fast and errs far less than the noise does.
        """
        known, root, weights = self._half
        x = x.astype(np.float32)
        cross = self.kernel.between(x, known)
        half = solve_triangular(root, cross.T, lower=True, check_finite=False)
        variance = self.kernel.alone(x) - np.einsum("ij,ij->j", half, half)
        means = self.mean + (cross @ weights).astype(np.float64)
        return means, np.sqrt(np.maximum(variance.astype(np.float64), JITTER))


def fit_kernel(x: np.ndarray, y: np.ndarray, max_steps: int = 40) -> Kernel:
    """Return the kernel of greatest posterior density for values at points.

    The prior of the length scales widens with the dimension, so many columns do not overfit (Hvarfner et al. 2024,
    https://arxiv.org/abs/2402.02229, sec. 4).

    Args:
        x: ``(n, d)`` float64 points, columns of about unit variance.
        y: ``(n,)`` float64 values of about unit variance.
        max_steps: Of L-BFGS.
    """
    d = x.shape[1]
    centre = np.sqrt(2) + 0.5 * np.log(max(1, d))
    start = np.concatenate([np.full(d, centre), [0.0, -1.0, np.log(0.05)]])
    bounds = [(-2.0, centre + 5.0)] * d + [(-5.0, 4.0), (-9.0, 4.0), (np.log(FLOOR), 1.0)]
    y = y - y.mean()
    found = minimize(
        _objective, start, (x, y, centre), jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": max_steps}
    )
    return Kernel.of(found.x)


def _objective(theta: np.ndarray, x: np.ndarray, y: np.ndarray, centre: float) -> tuple[float, np.ndarray]:
    """Return the negative log posterior density of the parameters and its gradient.

    Source: Rasmussen & Williams 2006, eq. 5.8 and 5.9.
    """
    kernel = Kernel.of(theta)
    scaled = x / np.exp(kernel.scales)
    r = _distances(scaled, scaled)
    matern = np.exp(kernel.amplitude) * _matern(r)
    linear = np.exp(kernel.slope) / max(1, x.shape[1]) * (x @ x.T)
    noise = np.exp(kernel.noise)
    try:
        root = np.linalg.cholesky(matern + linear + (noise + FLOOR) * np.eye(len(x)))
    except np.linalg.LinAlgError:
        return 1e10, np.zeros_like(theta)
    inverse = cho_solve((root, True), np.eye(len(x)))
    weights = inverse @ y
    loss = 0.5 * y @ weights + np.log(np.diag(root)).sum()
    pull = inverse - np.outer(weights, weights)  # d loss = 0.5 * sum(pull * d covariance)
    slopes = pull * np.exp(kernel.amplitude) * 5 / 3 * (1 + ROOT5 * r) * np.exp(-ROOT5 * r)
    by_scale = slopes.sum(axis=1) @ (scaled * scaled) - (scaled * (slopes @ scaled)).sum(axis=0)
    gradient = np.concatenate(
        [by_scale, [0.5 * (pull * matern).sum(), 0.5 * (pull * linear).sum(), 0.5 * noise * np.trace(pull)]]
    )
    deviation = (kernel.scales - centre) / np.sqrt(3)
    others = (theta[-3:] - PRIOR_MEANS) / PRIOR_DEVIATIONS
    loss += 0.5 * (deviation**2).sum() + 0.5 * (others**2).sum()
    gradient[:-3] += deviation / np.sqrt(3)
    gradient[-3:] += others / PRIOR_DEVIATIONS
    return float(loss), gradient


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return ``(n, m)`` Euclidean distances."""
    squares: np.ndarray = a @ b.T
    squares *= -2
    squares += (a * a).sum(axis=1)[:, None]
    squares += (b * b).sum(axis=1)[None, :]
    np.maximum(squares, 0, out=squares)
    np.sqrt(squares, out=squares)
    return squares


def _matern(r: np.ndarray) -> np.ndarray:
    """Return Matern 5/2 of distances."""
    scaled = r * r.dtype.type(ROOT5)
    found: np.ndarray = scaled * scaled  # in place from here on: passes over large arrays are all the work there is
    found /= 3
    found += scaled
    found += 1
    found *= np.exp(np.negative(scaled, out=scaled), out=scaled)
    return found
