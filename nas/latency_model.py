"""One regression of a positive cost on physical terms: the model, its fit, and its errors on rows it never saw.

Latency is a sum of physical terms, with one exception: weights that do not fit into the cache come from memory in every
call (on our machine a product is half as fast then). So a feature whose name ends in ``_mb`` is memory read once a
call, and the size of the cache is fitted, too.

Knows arrays only; which students they describe is `nas.latency`'s business.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Solve = Callable[[np.ndarray, float], np.ndarray]

FOLDS = 10
MEMORY = "_mb"  # how the names of memory features end
CACHES = 8  # cache sizes tried
STRENGTHS = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1)  # ridge penalties tried, for columns scaled to a maximum of 1
TOLERANCE = 1e-9  # what counts as zero in the non-negative solution, relative to the largest


@dataclass(frozen=True)
class LatencyModel:
    """The regression of one variant.

    Attributes:
        weights: One for each feature, then one for each memory feature that misses the cache, then the constant.
        names: The features.
        cache_mb: How much of the memory features the device keeps close; None = no limit was seen.
        floor: Half of the smallest value seen; no shape is free.
    """

    weights: tuple[float, ...]
    names: tuple[str, ...]
    cache_mb: float | None
    floor: float

    def predict(self, table: np.ndarray) -> np.ndarray:
        """Return ``(n,)`` predictions of ``(n, features)`` rows."""
        values: np.ndarray = _columns(table, self.names, self.cache_mb) @ np.array(self.weights)
        return values.clip(self.floor)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "LatencyModel":
        """Return the model of its fields as JSON has them."""
        return cls(tuple(fields["weights"]), tuple(fields["names"]), fields["cache_mb"], fields["floor"])


def hold_out(table: np.ndarray, target: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Return a prediction of each row by a model that never saw it.

    Args:
        table: ``(n, features)`` physical terms.
        target: ``(n,)`` positive costs.
        names: The features.

    Returns:
        ``(n,)`` predictions; a single row cannot be held out and is returned as it is.
    """
    held_out = target.copy()
    for fold in _folds(len(target)):
        held_out[fold] = fit_model(np.delete(table, fold, axis=0), np.delete(target, fold), names).predict(table[fold])
    return held_out


def fit_model(table: np.ndarray, target: np.ndarray, names: tuple[str, ...]) -> LatencyModel:
    """Return the model with the smallest held-out relative error: first the cache is chosen, then solver and penalty.

    Every row is divided by its target, so that the squared relative error is minimised, and every column is scaled
    to a maximum of 1, so that one penalty suits all.

    Args:
        table: ``(n, features)`` physical terms.
        target: ``(n,)`` positive costs.
        names: The features.
    """
    caches = _caches(table, names)
    scaled = [_scaled(_columns(table, names, cache), target) for cache in caches]
    best = int(np.argmin([_held_out_error(each, _non_negative, STRENGTHS[0]) for each in scaled]))
    choices = [(solve, strength) for solve in (_non_negative, _ridge) for strength in STRENGTHS]
    errors = [_held_out_error(scaled[best], solve, strength) for solve, strength in choices]
    solve, strength = choices[int(np.argmin(errors))]
    weights = solve(scaled[best], strength) / _scale(_columns(table, names, caches[best]))
    return LatencyModel(tuple(weights.tolist()), names, caches[best], float(target.min()) / 2)


def _caches(table: np.ndarray, names: tuple[str, ...]) -> list[float | None]:
    """Return the cache sizes to try: none, and some between the smallest and the largest memory of a student."""
    memory = table[:, [name.endswith(MEMORY) for name in names]].sum(axis=1)
    if memory.max(initial=0.0) <= memory.min(initial=np.inf) or memory.min() <= 0:
        return [None]
    return [None, *np.geomspace(memory.min(), memory.max(), CACHES + 2)[1:-1].tolist()]


def _columns(table: np.ndarray, names: tuple[str, ...], cache_mb: float | None) -> np.ndarray:
    """Return the regression's columns: the features, the memory that misses the cache, and 1.

    Memory is read in the same order in every call, so a cache that is too small by half keeps nothing of it.
    """
    memory = table[:, [name.endswith(MEMORY) for name in names]]
    missed = np.zeros_like(memory)
    if cache_mb is not None:
        missed = memory * np.clip(2 * (memory.sum(axis=1, keepdims=True) / cache_mb - 1), 0, 1)
    return np.hstack([table, missed, np.ones((len(table), 1))])


def _scaled(columns: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the columns of the relative problem ``scaled @ w = 1``."""
    scaled: np.ndarray = columns / _scale(columns) / target[:, None]
    return scaled


def _scale(columns: np.ndarray) -> np.ndarray:
    """Return the largest absolute value of each column; 1 for a column of zeros."""
    largest = np.abs(columns).max(axis=0)
    return np.where(largest > 0, largest, 1.0)


def _held_out_error(scaled: np.ndarray, solve: Solve, strength: float) -> float:
    """Return the mean absolute relative error over held-out rows; 0 when there is no second row to hold out."""
    folds = _folds(len(scaled))
    errors = [np.abs(scaled[fold] @ solve(np.delete(scaled, fold, axis=0), strength) - 1) for fold in folds]
    return float(np.concatenate(errors).mean()) if folds else 0.0


def _ridge(scaled: np.ndarray, strength: float) -> np.ndarray:
    """Return the ridge solution of ``scaled @ w = 1``."""
    gram, moment = _normal_equations(scaled, strength)
    weights: np.ndarray = np.linalg.solve(gram, moment)
    return weights


def _non_negative(scaled: np.ndarray, strength: float) -> np.ndarray:
    """Return the ridge solution of ``scaled @ w = 1`` with ``w >= 0``, by active sets.

    Source: Lawson and Hanson 1974, Solving Least Squares Problems, ch. 23, algorithm NNLS, on the normal equations.
    """
    gram, moment = _normal_equations(scaled, strength)
    weights, is_free = np.zeros(len(moment)), np.zeros(len(moment), bool)
    for _ in range(3 * len(moment)):
        slope = np.where(is_free, -np.inf, moment - gram @ weights)
        if slope.max() <= TOLERANCE * moment.max():
            break
        is_free[slope.argmax()] = True
        weights, is_free = _step_inside(gram, moment, weights, is_free)
    return weights


def _step_inside(
    gram: np.ndarray, moment: np.ndarray, weights: np.ndarray, is_free: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the solution over the free columns; a column that would turn negative is fixed at 0 on the way."""
    while is_free.any():
        goal = np.zeros_like(weights)
        goal[is_free] = np.linalg.solve(gram[np.ix_(is_free, is_free)], moment[is_free])
        crossing = is_free & (goal <= 0)
        if not crossing.any():
            return goal, is_free
        share = (weights[crossing] / (weights[crossing] - goal[crossing])).min()
        weights = weights + share * (goal - weights)
        is_free = is_free & (weights > TOLERANCE * weights.max())
    return np.zeros_like(weights), is_free


def _normal_equations(scaled: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Return ``A'A`` with the penalty on its diagonal, relative to its mean, and ``A'1``."""
    gram = scaled.T @ scaled
    penalty = strength * np.trace(gram) / len(gram)
    return gram + penalty * np.eye(len(gram)), scaled.sum(axis=0)


def _folds(n: int) -> list[np.ndarray]:
    """Return which rows are held out together; every FOLDS-th row, each row alone where there are few."""
    return [np.arange(start, n, FOLDS) for start in range(min(n, FOLDS))] if n > 1 else []
