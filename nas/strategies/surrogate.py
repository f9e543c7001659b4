"""A guess of what a trial would give: Gaussian processes on several views of a candidate, those that rank best.

Knows arrays; not genes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from nas.strategies.gaussian import GaussianProcess, fit_kernel

NEAR = 0.05  # rank correlations nearer than this say nothing of which view is better


class View(NamedTuple):
    """A process that sees some columns only.

    Attributes:
        columns: ``(d,)`` bool.
        process: Knows the values at these columns.
    """

    columns: np.ndarray
    process: GaussianProcess


class Surrogate:
    """The mean of the processes whose held-out predictions rank best; where they disagree, it is less certain."""

    def __init__(self, x: np.ndarray, y: np.ndarray, views: Sequence[np.ndarray]) -> None:
        """Fit a process for each view and keep the best ones.

        Args:
            x: ``(n, d)`` float64 points, columns of about unit variance; n at least 2.
            y: ``(n,)`` float64 values of about unit variance.
            views: Each ``(d,)`` bool: which columns a process sees; those with none are left out.
        """
        seen = [columns for columns in views if columns.any()] or [np.ones(x.shape[1], bool)]
        fitted = [View(c, GaussianProcess(x[:, c], y, fit_kernel(x[:, c], y))) for c in seen]
        ranks = [_rank_correlation(view.process.held_out, y) for view in fitted]
        self.views = [view for view, rank in zip(fitted, ranks, strict=True) if rank >= max(ranks) - NEAR]

    def predict(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return means and standard deviations of the mixture at ``(m, d)`` points, each ``(m,)``."""
        found = [view.process.predict(x[:, view.columns]) for view in self.views]
        means, deviations = np.stack([each[0] for each in found]), np.stack([each[1] for each in found])
        return means.mean(axis=0), np.sqrt((deviations**2).mean(axis=0) + means.var(axis=0))


def _rank_correlation(predicted: np.ndarray, y: np.ndarray) -> float:
    """Return Spearman's correlation; 0 where it is not defined."""
    if np.ptp(predicted) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(spearmanr(predicted, y).statistic)
