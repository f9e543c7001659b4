"""How many bits a Huffman code takes; the code itself is not written."""

import heapq

import numpy as np


def code_lengths(counts: np.ndarray) -> np.ndarray:
    """Return the length of each symbol's code in bits, such that their sum over all occurrences is least.

    Args:
        counts: ``(k,)`` int, how often each symbol occurs; those that never do get no code.

    Returns:
        ``(k,)`` int64; 0 for a symbol that never occurs, 1 for one that is alone.

    Source: Huffman 1952, https://doi.org/10.1109/JRPROC.1952.273898.
    """
    lengths = np.zeros(len(counts), np.int64)
    heap: list[tuple[int, int, list[int]]] = [
        (int(counts[symbol]), int(symbol), [int(symbol)]) for symbol in np.flatnonzero(counts)
    ]
    if len(heap) == 1:
        lengths[heap[0][2]] = 1
    heapq.heapify(heap)
    while len(heap) > 1:
        first, second = heapq.heappop(heap), heapq.heappop(heap)
        both = first[2] + second[2]
        lengths[both] += 1
        heapq.heappush(heap, (first[0] + second[0], min(both), both))
    return lengths


def entropy_bits(counts: np.ndarray) -> float:
    """Return the entropy of symbols in bits a symbol, the least that a code of single symbols can take.

    Args:
        counts: ``(k,)`` int, at least one above 0.

    Source: Shannon 1948, https://doi.org/10.1002/j.1538-7305.1948.tb01338.x, theorem 9.
    """
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())
