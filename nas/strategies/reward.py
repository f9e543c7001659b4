"""From results to rewards, in [0, 1]: the share of the known results that one beats under a preference.

Only the order of results counts, so no scale has to be guessed and no outlier can shake the learner. A preference is
a weight for each cost; one policy for all of them can be asked for any part of the front. On NAS-Bench-201 that found
fronts about as large as the non-dominated rank, the tournament order of `evolution` and costs scaled to a range did.
"""

import math
from collections.abc import Sequence

import numpy as np

from nas.strategies.evolution import tournament_order
from nas.strategies.history import Observation
from search_spaces.errors import ConfigError

AUGMENTATION = 0.05  # Knowles 2006, sec. II: keeps weakly dominated points from being as good as those that dominate


def rewards(results: Sequence[Observation], scores: np.ndarray) -> np.ndarray:
    """Return what share of the results each of them beats; one that is as good counts half.

    Args:
        results: n finished trials.
        scores: ``(k, n)`` float64 under k preferences, higher is better; read only where a result is feasible.

    Returns:
        ``(k, n)`` float64 in [0, 1]. An infeasible result is worse than every feasible one, and the worse the more
        it violates; a failed trial is worse than everything else.

    Source: Deb 2000, https://doi.org/10.1016/S0045-7825(99)00389-8, sec. 3 (feasibility rules).
    """
    violations = np.array([np.inf if seen.costs is None else max(0.0, seen.violation) for seen in results])
    return np.stack([_beaten(np.where(violations > 0, -np.inf, row), violations) for row in scores])


def preferred(results: Sequence[Observation], preferences: np.ndarray) -> np.ndarray:
    """Return how well results serve preferences: the augmented Chebyshev distance from the ideal point, negated.

    Each cost is replaced by the share of the feasible results that are better in it.

    Args:
        results: n finished trials.
        preferences: ``(k, m)`` float64, non-negative weights of m costs.

    Returns:
        ``(k, n)`` float64, at most 0; -inf where a result is not feasible.

    Source: Knowles 2006, ParEGO, https://doi.org/10.1109/TEVC.2005.851274, eq. 2.
    """
    scores = np.full((len(preferences), len(results)), -np.inf)
    feasible = [i for i, seen in enumerate(results) if is_feasible(seen)]
    if feasible:
        costs = np.stack([results[i].costs for i in feasible])  # type: ignore[misc]  # feasible ones have costs
        places = np.stack([_beaten(column, np.zeros(len(column))) for column in costs.T], axis=1)
        weighted = preferences[:, None] * places
        scores[:, feasible] = -weighted.max(-1) - AUGMENTATION * weighted.sum(-1)
    return scores


def mnasnet(results: Sequence[Observation], target: float, exponent: float) -> np.ndarray:
    """Return ``value * (cost / target) ** exponent``, a soft target for the second objective.

    The value is the first objective as something to maximise, so the negated cost. Where it is negative (a loss to
    be minimised, say) the exponent changes its sign, so that missing the target is a fault there, too.

    Args:
        results: n finished trials with two costs, the second positive.
        target: In units of the second objective.
        exponent: At most 0; -0.07 gives up 5 % of the value for half the latency.

    Returns:
        ``(n,)`` float64; -inf where a result is not feasible.

    Raises:
        ConfigError: There are not two costs, or the second one is not positive.

    Source: Tan et al. 2019, MnasNet, https://arxiv.org/abs/1807.11626, eq. 2-3 with alpha = beta = ``exponent``.
    """
    return np.array([_soft(seen, target, exponent) if is_feasible(seen) else -np.inf for seen in results])


def best(results: Sequence[Observation], n: int) -> list[Observation]:
    """Return the n best results by feasibility, Pareto rank and crowding, in the order given; failed ones go first."""
    if len(results) <= n:
        return list(results)
    usable = [seen for seen in results if seen.costs is not None]
    return [seen for seen, place in zip(usable, tournament_order(usable), strict=True) if place < n]


def is_feasible(seen: Observation) -> bool:
    """Return whether a trial succeeded and keeps all constraints."""
    return seen.costs is not None and seen.violation <= 0


def _soft(seen: Observation, target: float, exponent: float) -> float:
    """Return the score of one feasible result."""
    costs = np.asarray(seen.costs)
    if len(costs) != 2 or costs[1] <= 0:
        raise ConfigError(
            f"search.options.target: trial {seen.number} has the costs {costs}; two are allowed, the second positive "
            "and minimised. Leave target out to search for the whole front."
        )
    value = -float(costs[0])
    return value * math.pow(costs[1] / target, exponent if value >= 0 else -exponent)


def _beaten(scores: np.ndarray, violations: np.ndarray) -> np.ndarray:
    """Return the share of the others that are worse by violation, then by score; equal ones count half."""
    order = np.lexsort((scores, -violations))
    new = np.ones(len(order), bool)
    new[1:] = (scores[order][1:] != scores[order][:-1]) | (violations[order][1:] != violations[order][:-1])
    group = np.cumsum(new) - 1
    counts = np.bincount(group)
    below = (np.cumsum(counts) - counts + (counts - 1) / 2)[group]
    beaten = np.empty(len(order))
    beaten[order] = below / max(1, len(order) - 1)
    return beaten
