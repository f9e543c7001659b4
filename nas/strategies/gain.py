"""How much hypervolume a candidate would add to a front: for draws of its costs, vectorised over candidates."""

import numpy as np

from nas.pareto import pareto_front

POINTS = 512  # of the Monte Carlo estimate under three and more costs


def hypervolume_gain(
    front: np.ndarray, reference: np.ndarray, costs: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return the volume that each point alone would add; exact under one and two costs, else estimated.

    Args:
        front: ``(k, m)`` float64 costs that are there already, all minimised; dominated ones change nothing.
        reference: ``(m,)`` float64, the worst corner.
        costs: ``(..., m)`` float64 points.
        rng: For the estimate.

    Returns:
        ``(...,)`` float64, at least 0.
    """
    inside = front[(front < reference).all(axis=1)]
    points = costs.reshape(-1, costs.shape[-1])
    if costs.shape[-1] == 1:
        best = inside.min(initial=reference[0])
        gain = np.maximum(best - points[:, 0], 0.0)
    elif costs.shape[-1] == 2:
        gain = _area_gain(inside[pareto_front(inside)], reference, points)
    else:
        gain = _sampled_gain(inside, reference, points, rng)
    shaped: np.ndarray = gain.reshape(costs.shape[:-1])
    return shaped


def _area_gain(front: np.ndarray, reference: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the exact gain under two costs: the staircase of the front cut into strips along the first cost."""
    ranked = np.unique(front, axis=0)
    left = np.concatenate([[-np.inf], ranked[:, 0]])
    right = np.concatenate([ranked[:, 0], reference[:1]])
    height = np.concatenate([reference[1:], ranked[:, 1]])
    width = np.maximum(right - np.maximum(left, points[:, :1]), 0.0)
    depth = np.maximum(height - points[:, 1:], 0.0)
    gain: np.ndarray = (width * depth).sum(axis=1)
    return gain


def _sampled_gain(front: np.ndarray, reference: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the gain by how many random points of the box that no member of the front dominates a point dominates."""
    low = np.minimum(front.min(axis=0, initial=np.inf), points.min(axis=0))
    box = np.maximum(reference - low, 0.0)
    samples = low + rng.random((POINTS, len(reference))) * box
    free = samples[~_dominated(samples, front)]
    shares = np.array([(point <= free).all(axis=1).sum() for point in points], np.float64) / POINTS
    return shares * float(np.prod(box))


def _dominated(samples: np.ndarray, front: np.ndarray) -> np.ndarray:
    """Return which samples some member of the front is nowhere worse than."""
    found = np.zeros(len(samples), bool)
    for member in front:
        found |= (member <= samples).all(axis=1)
    return found
