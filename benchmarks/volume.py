"""The hypervolume of two costs after every evaluation, kept up to date instead of computed anew."""

import bisect

import numpy as np


def volume_curve(costs: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the hypervolume of the first 1, 2, ... points.

    Args:
        costs: ``(n, 2)`` float64, minimised.
        reference: ``(2,)`` float64, the worst corner.

    Returns:
        ``(n,)`` float64; its last is ``nas.pareto.hypervolume`` of all points.
    """
    xs, ys = [-np.inf, float(reference[0])], [float(reference[1]), -np.inf]  # the front between two sentinels
    volume, curve = 0.0, np.empty(len(costs))
    for i, (x, y) in enumerate(costs.tolist()):
        if x < reference[0] and y < reference[1]:
            volume += _insert(xs, ys, x, y)
        curve[i] = volume
    return curve


def _insert(xs: list[float], ys: list[float], x: float, y: float) -> float:
    """Add a point to a front sorted by x, drop those that it dominates, and return the area gained."""
    start = bisect.bisect_right(xs, x)
    gained, place = 0.0, start - 1  # the step of the staircase above the point
    while ys[place] > y:
        gained += (xs[place + 1] - max(x, xs[place])) * (ys[place] - y)
        place += 1
    if gained > 0:
        start -= xs[start - 1] == x
        xs[start:place], ys[start:place] = [x], [y]
    return gained
