"""Intervals that a new measurement falls into at a stated rate, whatever the model is: CV+.

Knows predictions and held-out errors; not models.

Source: Barber, Candès, Ramdas and Tibshirani 2021, Predictive inference with the jackknife+,
https://arxiv.org/abs/1905.02928, eq. 9 (CV+), on logarithms, so that errors are relative.
"""

import numpy as np


def errors_of(held_out: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Return ``(n,)`` absolute errors of held-out predictions, in logarithms."""
    found: np.ndarray = np.abs(np.log(measured / held_out))
    return found


def interval(
    predicted: np.ndarray, errors: np.ndarray, fold_of: np.ndarray, coverage: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the intervals for some new rows.

    If rows are exchangeable, at least ``2 * coverage - 1`` of new measurements fall inside for sure (theorem 4, a
    little less with few folds), and about ``coverage`` of them in practice.

    Args:
        predicted: ``(folds, m)`` positive predictions of m new rows by the models of all folds.
        errors: ``(n,)`` of `errors_of`, of the rows that were held out.
        fold_of: ``(n,)`` the fold of each of them.
        coverage: Share of new measurements inside, between 0 and 1.

    Returns:
        ``(m,)`` lower and ``(m,)`` upper ends; 0 and infinite where n is too small for the coverage.
    """
    n = len(errors)
    logarithms = np.log(predicted)[fold_of]  # (n, m): each row's error goes with the model that did not see the row
    rank = int(np.ceil(coverage * (n + 1) - 1e-9))
    if rank > n:
        return np.zeros(predicted.shape[1]), np.full(predicted.shape[1], np.inf)
    low = -np.sort(-logarithms + errors[:, None], axis=0)[rank - 1]
    high = np.sort(logarithms + errors[:, None], axis=0)[rank - 1]
    return np.exp(low), np.exp(high)
