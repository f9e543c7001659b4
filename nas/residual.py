"""What a sum of terms misses: a small Gaussian process on the logarithm of measured / predicted.

It says nothing (0) far from all it has seen, so that a sum of terms goes on alone there. Knows arrays; not students.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.linalg import eigh

LENGTHS = (0.35, 0.7, 1.4, 2.8)  # length scales tried, in standard deviations of a feature and roots of their number
NOISES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # variances of the noise tried, as shares of the variance of the signal
WILD = 3.0  # errors beyond so many standard deviations count as if they were no larger
CHUNK = 4096  # rows predicted at once: what they need fits into the cache


@dataclass(frozen=True)
class Smoothness:
    """The kernel: Matern 5/2 of distance / ``length``, and the variance of the ``noise``, both for a signal of 1."""

    length: float
    noise: float


@dataclass(frozen=True)
class Residual:
    """The posterior mean.

    Attributes:
        used: Places of the features that it looks at.
        centre: Mean of each of them.
        scale: Length scale of each.
        points: Standardised features of the rows that were measured.
        weights: One for each of these rows.
    """

    used: tuple[int, ...]
    centre: tuple[float, ...]
    scale: tuple[float, ...]
    points: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]

    def predict(self, table: np.ndarray) -> np.ndarray:
        """Return ``(n,)`` logarithms of the factors that the predictions of ``(n, features)`` rows are to be given."""
        places, centre, scale, points, weights = self._arrays
        found = np.empty(len(table))
        for start in range(0, len(table), CHUNK):
            rows = ((table[start : start + CHUNK, places] - centre) / scale).astype(np.float32)
            found[start : start + CHUNK] = _matern(_distances(rows, points)) @ weights
        return found

    @cached_property
    def _arrays(self) -> tuple[list[int], np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return the fields as arrays; in float32 what is needed for every row and point."""
        points, weights = np.array(self.points, np.float32), np.array(self.weights, np.float32)
        return list(self.used), np.array(self.centre), np.array(self.scale), points, weights

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Residual":
        """Return the process of its fields as JSON has them."""
        points = tuple(tuple(point) for point in fields["points"])
        used, centre, scale, weights = (tuple(fields[name]) for name in ("used", "centre", "scale", "weights"))
        return cls(used, centre, scale, points, weights)


def choose_smoothness(table: np.ndarray, errors: np.ndarray) -> Smoothness:
    """Return the kernel under which the errors are most likely, among a few dozen.

    The variance of the signal has a closed form given the other two, so only these are tried.

    Args:
        table: ``(n, d)`` features.
        errors: ``(n,)`` logarithms of measured / predicted.

    Source: Rasmussen & Williams 2006, Gaussian Processes for Machine Learning, eq. 4.17 and 5.8.
    """
    errors, (points, _, _) = _tamed(errors), _standardised(table)
    likelihoods = {}
    for length in LENGTHS:
        values, vectors = eigh(_matern(_distances(points, points) / length))
        turned = vectors.T @ errors
        for noise in NOISES:
            spread = values.clip(0) + noise
            signal = max(float(np.mean(turned**2 / spread)), np.finfo(float).tiny)
            likelihoods[length, noise] = -len(errors) * np.log(signal) - np.log(spread).sum()
    return Smoothness(*max(likelihoods, key=lambda each: likelihoods[each]))


def fit_residual(table: np.ndarray, used: list[int], errors: np.ndarray, smoothness: Smoothness) -> Residual:
    """Return the posterior of the errors.

    Args:
        table: ``(n, features)`` rows.
        used: Places of the features to look at.
        errors: ``(n,)`` logarithms of measured / predicted.
        smoothness: E.g. of `choose_smoothness`.
    """
    points, centre, scale = _standardised(table[:, used])
    points = points / smoothness.length
    kernel = _matern(_distances(points, points)) + smoothness.noise * np.eye(len(points))
    weights = np.linalg.solve(kernel, _tamed(errors))
    scale = scale * smoothness.length
    return Residual(
        tuple(used),
        tuple(centre.tolist()),
        tuple(scale.tolist()),
        tuple(map(tuple, points.tolist())),
        tuple(weights.tolist()),
    )


def _standardised(table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return points, centre and scale, such that the mean squared norm of a point is 1."""
    centre, scale = table.mean(axis=0), table.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0) * np.sqrt(table.shape[1])
    return (table - centre) / scale, centre, scale


def _tamed(errors: np.ndarray) -> np.ndarray:
    """Return the errors, those that are wildly larger than the others cut down."""
    limit = WILD * 1.4826 * float(np.median(np.abs(errors)))
    return errors.clip(-limit, limit)


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return ``(n, m)`` Euclidean distances."""
    squares = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None, :] - 2 * (a @ b.T)
    found: np.ndarray = np.sqrt(np.maximum(squares, 0))
    return found


def _matern(r: np.ndarray) -> np.ndarray:
    """Return Matern 5/2 of distances."""
    scaled = r * r.dtype.type(np.sqrt(5.0))
    found: np.ndarray = (1 + scaled + scaled * scaled / 3) * np.exp(-scaled)
    return found
