"""Linear regression on relative errors with a penalty: plain, non-negative, and deaf to a few wild measurements.

Every problem has the form ``rows * (scaled @ w - 1)``: a row of columns is divided by the value that was measured.
Knows arrays; not what the columns mean.
"""

from collections.abc import Callable

import numpy as np
from scipy.optimize import nnls

Solve = Callable[[np.ndarray, np.ndarray, float], np.ndarray]

TOLERANCE = 1e-9  # no measurement is nearer to a law than this
GENTLE = 1e-4  # penalty while outliers are looked for
ROUNDS = 10  # of reweighting
WILD = 1.0  # an error of so many standard deviations of the others loses weight


def ridge(scaled: np.ndarray, rows: np.ndarray, strength: float) -> np.ndarray:
    """Return the ridge solution of ``scaled @ w = 1``.

    Args:
        scaled: ``(n, m)`` columns of the relative problem.
        rows: ``(n,)`` weight of each row, e.g. of `calm_rows`.
        strength: Penalty of a column, relative to the mean over all columns of their squared length.
    """
    weighted = scaled.T * rows
    gram = weighted @ scaled
    gram.flat[:: len(gram) + 1] += _penalty(scaled, rows, strength)
    weights: np.ndarray = np.linalg.solve(gram, weighted.sum(axis=1))
    return weights


def non_negative(scaled: np.ndarray, rows: np.ndarray, strength: float) -> np.ndarray:
    """Return the ridge solution of ``scaled @ w = 1`` with ``w >= 0``; arguments as `ridge`."""
    penalty = np.sqrt(_penalty(scaled, rows, strength))
    root = np.sqrt(rows)
    augmented = np.vstack([scaled * root[:, None], penalty * np.eye(scaled.shape[1])])
    weights: np.ndarray = nnls(augmented, np.append(root, np.zeros(scaled.shape[1])))[0]
    return weights


def calm_rows(scaled: np.ndarray) -> np.ndarray:
    """Return ``(n,)`` weights in 0..1, small for measurements that the others contradict.

    A spike of a busy machine would pull plain least squares towards it. The absolute value of an error beyond `WILD`
    standard deviations counts, its square within them.

    Args:
        scaled: ``(n, m)`` columns of the relative problem.

    Source: Huber 1964, https://doi.org/10.1214/aoms/1177703732, eq. 1.3, by iteratively reweighted least squares with
    the standard deviation estimated as 1.4826 times the median of the absolute errors.
    """
    rows = np.ones(len(scaled))
    for _ in range(ROUNDS):
        errors = np.abs(scaled @ ridge(scaled, rows, GENTLE) - 1)
        deviation = max(1.4826 * float(np.median(errors)), TOLERANCE)
        rows = 1 / np.maximum(1, errors / (WILD * deviation))
    return rows


def _penalty(scaled: np.ndarray, rows: np.ndarray, strength: float) -> float:
    """Return the penalty of a squared price: a share of the mean squared length of a column."""
    return strength * float(rows @ (scaled * scaled).sum(axis=1) / scaled.shape[1])
