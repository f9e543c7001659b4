"""Pareto maths on plain arrays: ranks, fronts, crowding, hypervolume. All costs are minimised and finite."""

import numpy as np

from search_spaces.errors import ShapeError


def non_dominated_sort(costs: np.ndarray) -> np.ndarray:
    """Return the front each point belongs to, 0 for points that no other dominates.

    Points are taken in lexicographic order, in which no point is dominated by a later one, and each is put into the
    first front without a point that dominates it, found by bisection.

    Args:
        costs: ``(n, m)`` float, m costs of n points, all minimised, finite.

    Returns:
        ``(n,)`` int64; equal points share a rank.

    Raises:
        ShapeError: ``costs`` is not 2-D or not finite.

    Source: Zhang et al. 2015, ENS-BS, https://doi.org/10.1109/TEVC.2014.2308305, sec. III.
    """
    costs = _checked(costs)
    ranks = np.zeros(len(costs), np.int64)
    fronts: list[list[np.ndarray]] = []
    for index in np.lexsort(costs.T[::-1]):
        point = costs[index]
        low, high = 0, len(fronts)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if _is_dominated(point, fronts[middle]) else (low, middle)
        if low == len(fronts):
            fronts.append([])
        fronts[low].append(point)
        ranks[index] = low
    return ranks


def pareto_front(costs: np.ndarray) -> np.ndarray:
    """Return which points no other dominates.

    Args:
        costs: ``(n, m)`` float, all minimised, finite.

    Returns:
        ``(n,)`` bool; equal points are on the front together or not at all.

    Raises:
        ShapeError: ``costs`` is not 2-D or not finite.
    """
    costs = _checked(costs)
    mask = np.zeros(len(costs), bool)
    front: list[np.ndarray] = []
    for index in np.lexsort(costs.T[::-1]):
        if not _is_dominated(costs[index], front):
            front.append(costs[index])
            mask[index] = True
    return mask


def crowding_distance(costs: np.ndarray) -> np.ndarray:
    """Return how lonely each point of one front is; larger is lonelier.

    Args:
        costs: ``(n, m)`` float, m costs of n points, all minimised, finite.

    Returns:
        ``(n,)`` float64, unitless; both ends of every cost get ``inf``, a cost that is equal everywhere adds nothing.

    Raises:
        ShapeError: ``costs`` is not 2-D or not finite.

    Source: Deb et al. 2002, NSGA-II, https://doi.org/10.1109/4235.996017, sec. III-B.
    """
    costs = _checked(costs)
    distance = np.zeros(len(costs))
    for column in costs.T:
        order = np.argsort(column, kind="stable")
        ranked = column[order]
        span = ranked[-1] - ranked[0] if len(ranked) else 0.0
        if span > 0:
            distance[order[1:-1]] += (ranked[2:] - ranked[:-2]) / span
            distance[order[[0, -1]]] = np.inf
    return distance


def hypervolume(costs: np.ndarray, reference: np.ndarray) -> float:
    """Return the exact volume that the points dominate within a reference point.

    One and two costs take n log n steps; every further cost multiplies that by n.

    Args:
        costs: ``(n, m)`` float, all minimised, finite.
        reference: ``(m,)`` float, the worst corner; points that are not better in every cost add nothing.

    Raises:
        ShapeError: ``costs`` is not 2-D, or a shape or value does not fit.

    Source: Zitzler & Thiele 1998, https://doi.org/10.1007/BFb0056872 (measure); While et al. 2006, HSO,
        https://doi.org/10.1109/TEVC.2005.851275 (slicing along the last cost).
    """
    costs, reference = _checked(costs), np.asarray(reference, dtype=np.float64)
    if reference.shape != costs.shape[1:] or not np.isfinite(reference).all():
        raise ShapeError(
            f"reference: {reference} does not fit costs of shape {costs.shape}; pass one finite worst value a cost."
        )
    inside = costs[(costs < reference).all(axis=1)]
    return _volume(inside[pareto_front(inside)], reference)


def _volume(front: np.ndarray, reference: np.ndarray) -> float:
    """Return the volume of points that all lie within the reference."""
    if len(front) == 0:
        return 0.0
    if len(reference) == 1:
        return float(reference[0] - front.min())
    if len(reference) == 2:
        return _area(front, reference)
    order = np.argsort(front[:, -1], kind="stable")
    ranked = front[order]
    depths = np.diff(np.append(ranked[:, -1], reference[-1]))
    slices = (_volume(ranked[: i + 1, :-1], reference[:-1]) if depth > 0 else 0.0 for i, depth in enumerate(depths))
    return float(sum(depth * volume for depth, volume in zip(depths, slices, strict=True)))


def _area(front: np.ndarray, reference: np.ndarray) -> float:
    """Return the area under two costs: a staircase from the best first cost on."""
    ranked = front[np.lexsort(front.T[::-1])]
    heights = np.minimum.accumulate(ranked[:, 1])
    widths = np.diff(np.append(ranked[:, 0], reference[0]))
    return float((widths * (reference[1] - heights)).sum())


def _is_dominated(point: np.ndarray, front: list[np.ndarray]) -> bool:
    """Return whether a member of a front is nowhere worse and somewhere better.

    The members came in lexicographic order, so under two costs the last one has the lowest second cost and decides.
    """
    if not front:
        return False
    members = np.asarray(front if len(point) > 2 else front[-1:])
    return bool(((members <= point).all(axis=1) & (members < point).any(axis=1)).any())


def _checked(costs: np.ndarray) -> np.ndarray:
    """Return the costs as float64 after checking shape and values."""
    costs = np.asarray(costs, dtype=np.float64)
    if costs.ndim != 2:
        raise ShapeError(f"costs: shape {costs.shape} is not (points, costs); pass a 2-D array.")
    if not np.isfinite(costs).all():
        bad = costs[~np.isfinite(costs)][0]
        raise ShapeError(f"costs: {bad} is not finite; leave failed trials out.")
    return costs
