"""k-means of single numbers, exactly Lloyd's algorithm but fast: on sorted values a cluster is an interval."""

from typing import NamedTuple

import numpy as np

MAX_ROUNDS = 1000  # it converges long before; each round touches only the borders


class Codes(NamedTuple):
    """Numbers written by a codebook: value i is ``centroids[numbers[i]]``.

    Attributes:
        centroids: ``(k,)``, of the values' type.
        numbers: ``(n,)`` uint8.
    """

    centroids: np.ndarray
    numbers: np.ndarray


def cluster(values: np.ndarray, k: int) -> Codes | None:
    """Return the nearest of ``k`` centroids for each value; None if there are only ``k`` different values anyway.

    Args:
        values: ``(n,)`` float. If at least one in ``k`` is exactly zero, zero is one of the centroids and stays zero.
        k: Centroids, 2 to 256.
    """
    ordered = np.sort(values)
    if 1 + np.count_nonzero(np.diff(ordered)) <= k:
        return None
    is_sparse = k * np.count_nonzero(ordered == 0) >= len(ordered)
    if not is_sparse:
        centroids = k_means(ordered, k).astype(values.dtype)
        return Codes(centroids, _nearest(values, centroids))
    others = k_means(ordered[ordered != 0], k - 1).astype(values.dtype)
    numbers = np.where(values == 0, 0, _nearest(values, others) + 1).astype(np.uint8)
    return Codes(np.concatenate([np.zeros(1, values.dtype), others]), numbers)


def k_means(ordered: np.ndarray, k: int) -> np.ndarray:
    """Return the centroids that Lloyd's algorithm ends with, begun evenly between the smallest and the largest value.

    Args:
        ordered: ``(n,)`` float, ascending.
        k: Centroids; one whose cluster is empty stays where it is.

    Returns:
        ``(k,)`` float64, ascending.

    Source: Lloyd 1982, https://doi.org/10.1109/TIT.1982.1056489; linear initialisation: Han et al. 2016,
    https://arxiv.org/abs/1510.00149, sec. 3.2.
    """
    ordered = ordered.astype(np.float64)  # once; searchsorted would do it in every round
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    centroids = np.linspace(ordered[0], ordered[-1], k, dtype=np.float64)
    borders = np.array([])
    for _ in range(MAX_ROUNDS):
        middles = (centroids[1:] + centroids[:-1]) / 2
        new = np.concatenate([[0], np.searchsorted(ordered, middles), [len(ordered)]])
        if np.array_equal(new, borders):
            break
        borders = new
        sizes = np.diff(borders)
        means = np.diff(sums[borders]) / np.maximum(sizes, 1)
        centroids = np.where(sizes > 0, means, centroids)
    return centroids


def _nearest(values: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return the number of the nearest centroid of each value, uint8."""
    middles = (centroids[1:] + centroids[:-1]) / 2
    return np.searchsorted(middles, values).astype(np.uint8)
