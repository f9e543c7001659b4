"""What the trials of candidates would give, as far as the finished ones tell: draws of their costs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from nas.pareto import non_dominated_sort
from nas.strategies.archive import Archive
from nas.strategies.description import Description, standardised
from nas.strategies.foreknowledge import Foreknowledge
from nas.strategies.surrogate import Surrogate
from search_spaces.space import Genes

MOST = 200  # trials a surrogate learns from
USEFUL = 0.8  # share of the trials whose quality is of interest
BEYOND = 0.1  # of the range of every other cost, farther than the worst tried: else the dear end would never be reached
REACH = 1.0  # sizes of the region of interest outside it, beyond which costs are equally bad


@dataclass(frozen=True)
class Target:
    """What a surrogate predicts: values with a centre and a scale.

    Attributes:
        surrogate: Predicts ``(value - centre) / scale``.
    """

    surrogate: Surrogate
    centre: float
    scale: float

    @classmethod
    def fit(cls, x: np.ndarray, values: np.ndarray, views: Sequence[np.ndarray]) -> "Target":
        """Learn ``(n,)`` values at ``(n, d)`` points, seen in several ways."""
        centre, scale = float(values.mean()), float(values.std()) or 1.0
        return cls(Surrogate(x, (values - centre) / scale, views), centre, scale)

    def predict(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return means and standard deviations of the values at ``(m, d)`` points, each ``(m,)``."""
        means, deviations = self.surrogate.predict(x)
        return self.centre + self.scale * means, self.scale * deviations


class Forecast:
    """Surrogates fitted on a part of the history: one a cost that is not known beforehand, one for constraints."""

    def __init__(self, archive: Archive, n: int, description: Description, foreknowledge: Foreknowledge) -> None:
        """Learn from the first ``n`` finished trials, or the most telling of them."""
        self.n, self._description, self._foreknowledge = n, description, foreknowledge
        expected = archive.expected(n)
        picks = telling(expected, MOST)
        self._like = description.of(archive.rows[picks], [archive.candidates[i] for i in picks], foreknowledge)
        x, views = standardised(self._like, self._like), description.views(self._like)
        costs, violations = expected[picks], archive.violations[picks]
        corner = worst_of_interest(costs)
        costs = np.minimum(costs, corner + REACH * (corner - costs.min(axis=0)))  # how bad the worst are is noise
        known = foreknowledge.costs
        self._costs = [None if j in known else Target.fit(x, costs[:, j], views) for j in range(costs.shape[1])]
        self._violation = Target.fit(x, violations, views) if (violations > 0).any() else None

    def draws(
        self, rows: np.ndarray, candidates: Sequence[Genes], levels: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return draws of the costs of candidates, and their chance to be feasible.

        The same levels serve all candidates: they differ by what is known of them, not by luck.

        Args:
            rows: ``(k, genes)`` the candidates as rows.
            candidates: The same as genes.
            levels: ``(n,)`` float64, how many standard deviations a draw is from the mean.
            rng: Pairs the levels of different costs.

        Returns:
            ``(n, k, m)`` float64 costs and ``(k,)`` float64 in 0..1.
        """
        x = standardised(self._description.of(rows, candidates, self._foreknowledge), self._like)
        costs = np.empty((len(levels), len(rows), len(self._costs)))
        costs[:] = self._foreknowledge.known_costs(candidates, len(self._costs))
        for j, target in enumerate(self._costs):
            if target is not None:
                means, deviations = target.predict(x)
                costs[:, :, j] = means + rng.permutation(levels)[:, None] * deviations
        if self._violation is None:
            return costs, np.ones(len(rows))
        means, deviations = self._violation.predict(x)
        return costs, norm.cdf(-means / np.maximum(deviations, 1e-9))


def worst_of_interest(costs: np.ndarray) -> np.ndarray:
    """Return ``(m,)`` the corner of the region worth searching, of ``(n, m)`` costs.

    The first cost is the quality: the worst fifth of the trials is of no use however cheap, or the search would spend
    itself on broken candidates that cost nothing. Of every other cost it is a bit worse than the worst that a useful
    trial has: at the worst itself, dearer candidates would gain nothing however good they are.
    """
    quality = np.quantile(costs[:, 0], USEFUL)
    others = costs[costs[:, 0] <= quality, 1:]
    found: np.ndarray = np.append(quality, others.max(axis=0) + BEYOND * np.ptp(others, axis=0))
    return found


def telling(costs: np.ndarray, most: int) -> np.ndarray:
    """Return the indices of the trials to learn from, ascending: all, or half the best ranks and half the latest."""
    if len(costs) <= most:
        return np.arange(len(costs))
    latest = np.arange(len(costs) - most // 2, len(costs))
    ranks = non_dominated_sort(costs[: latest[0]])
    return np.concatenate([np.sort(np.argsort(ranks, kind="stable")[: most - len(latest)]), latest])
