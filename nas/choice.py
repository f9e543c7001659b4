"""Which students to keep: the finalists of a front, and the one called best."""

from collections.abc import Mapping, Sequence

import numpy as np

from nas.objectives import Constraint, Objective
from nas.pareto import hypervolume, pareto_front


def finalists(costs: np.ndarray, violations: np.ndarray, n: int, first: int, end: int | None = None) -> list[int]:
    """Return up to n points: the given one, that at one end of the front, then what together dominates the most.

    All but the given one are of the feasible front. The volume alone would leave out the most accurate student where
    many are nearly as accurate and faster, though who looks at a front looks at its ends. The others are added greedily
    by the hypervolume they add, within (1 - 1/e) of the best choice. When fewer than n points are feasible, the least
    infeasible others follow: a prediction may have been wrong.

    Args:
        costs: ``(k, m)`` costs, m in 1..3, all minimised.
        violations: ``(k,)`` worst constraint violation, <= 0 is feasible.
        n: How many to choose, at least 1.
        first: The one that is chosen in any case.
        end: Column of the cost whose best point is chosen next, the accuracy's; None: there is none.

    Returns:
        Indices into ``costs``, in the order of choice.

    Source: Nemhauser et al. 1978 (greedy submodular maximisation), https://doi.org/10.1007/BF01588971.
    """
    feasible = np.flatnonzero(violations <= 0)
    front = feasible[pareto_front(costs[feasible])] if len(feasible) else feasible
    scaled = _unit(costs)
    ends = [] if end is None or not len(front) else [int(front[costs[front, end].argmin()])]
    chosen = list(dict.fromkeys([first, *ends]))[:n]
    while len(chosen) < n and (left := [int(i) for i in front if i not in chosen]):
        volumes = [hypervolume(scaled[[*chosen, i]], np.full(costs.shape[1], 1.1)) for i in left]
        chosen.append(left[int(np.argmax(volumes))])
    others = [int(i) for i in np.argsort(violations, kind="stable") if violations[i] > 0 and i not in chosen]
    return chosen + others[: n - len(chosen)]


def best(
    students: Sequence[Mapping[str, float]],
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
    teacher: Mapping[str, float],
) -> int:
    """Return the index of the student called best.

    Among those that meet every constraint (or miss by the least, if none does): with limits on all objectives but
    one, the best in that one; otherwise the one nearest to the ideal point after scaling each objective to 0..1.
    """
    misses = np.array([max((c.violation(s, teacher) for c in constraints), default=0.0) for s in students])
    kept = np.flatnonzero(misses <= max(0.0, misses.min()))
    costs = np.array([[o.cost(students[int(i)][o.name]) for o in objectives] for i in kept])
    limited = {constraint.metric for constraint in constraints}
    free = [j for j, objective in enumerate(objectives) if objective.name not in limited]
    if len(free) == 1:
        return int(kept[int(costs[:, free[0]].argmin())])
    return int(kept[int(np.linalg.norm(_unit(costs), axis=1).argmin())])


def _unit(costs: np.ndarray) -> np.ndarray:
    """Return costs scaled to 0..1 by column; a constant column becomes 0."""
    low, high = costs.min(axis=0), costs.max(axis=0)
    scaled: np.ndarray = (costs - low) / np.where(high > low, high - low, 1.0)
    return scaled
