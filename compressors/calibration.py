"""Which range of values to quantize, of what a layer was seen to get: min-max, percentile, least error, entropy.

A histogram is gathered batch by batch in bounded memory and asked afterwards. Knows numbers; not models, not how a
range becomes a scale.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from search_spaces.errors import ShapeError
from search_spaces.registry import unknown_name

BINS = 4096  # at most, from zero on; at least half of them lie in the range and between it and zero
ENDS = 48  # ranges that `least_error` tries for each end
THRESHOLDS = 256  # that `entropy` tries, about


@dataclass(frozen=True)
class Histogram:
    """How often values fell where; zero is always the edge of a bin, and a bin's width is a power of two.

    Attributes:
        counts: ``(n,)`` int64, values in ``[(first + i) * width, (first + i + 1) * width)``.
        first: Place of the first bin.
        width: Of a bin.
        low: The least value seen, exactly.
        high: The largest value seen, exactly.
    """

    counts: np.ndarray
    first: int
    width: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Histogram":
        """Return the histogram of an array of any shape and float type.

        Raises:
            ShapeError: The array is empty or has values that are not finite.
        """
        flat = np.asarray(values, np.float64).ravel()
        if not flat.size or not np.isfinite(flat).all():
            raise ShapeError(
                f"calibration: an array of shape {np.shape(values)} is empty or not finite; ranges need finite values. "
                "Check the calibration rows."
            )
        low, high = float(flat.min()), float(flat.max())
        width = _width(low, high)
        places = np.floor(flat / width).astype(np.int64)
        first = int(places.min())
        return cls(np.bincount(places - first), first, width, low, high)

    def __add__(self, other: "Histogram") -> "Histogram":
        """Return the histogram of both sets of values, exactly as fine as its range allows."""
        low, high = min(self.low, other.low), max(self.high, other.high)
        width = _width(low, high)
        parts = [part._coarser(width) for part in (self, other)]
        first = min(part.first for part in parts)
        counts = np.zeros(max(part.first + len(part.counts) for part in parts) - first, np.int64)
        for part in parts:
            counts[part.first - first :][: len(part.counts)] += part.counts
        return Histogram(counts, first, width, low, high)

    @property
    def centres(self) -> np.ndarray:
        """Return ``(n,)`` float64, the middle of every bin, inside the range that was seen."""
        middles = (self.first + np.arange(len(self.counts)) + 0.5) * self.width
        inside: np.ndarray = np.clip(middles, self.low, self.high)
        return inside

    def magnitudes(self) -> "Histogram":
        """Return the histogram of the values without their signs."""
        places = self.first + np.arange(len(self.counts))
        folded = np.where(places < 0, -places - 1, places)
        counts = np.bincount(folded, self.counts).astype(np.int64)
        least = 0.0 if self.low <= 0 <= self.high else min(abs(self.low), abs(self.high))
        return Histogram(counts, 0, self.width, least, max(-self.low, self.high))

    def _coarser(self, width: float) -> "Histogram":
        """Return the same counts in bins of a larger power of two."""
        factor = round(width / self.width)
        places = (self.first + np.arange(len(self.counts))) // factor
        counts = np.bincount(places - places[0], self.counts).astype(np.int64)
        return Histogram(counts, int(places[0]), width, self.low, self.high)


Range = tuple[float, float]
"""Least and largest value to represent; low <= 0 <= high, since padding needs an exact zero (Jacob et al. 2018,
https://arxiv.org/abs/1712.05877, sec. 2.1)."""


def min_max(seen: Histogram, levels: int = 256) -> Range:
    """Return the range of everything seen; ``levels`` is not read."""
    return min(seen.low, 0.0), max(seen.high, 0.0)


def percentile(seen: Histogram, levels: int = 256, share: float = 0.9999) -> Range:
    """Return the range that holds a share of all values; half of the rest is cut at each end that is not zero.

    Args:
        seen: Of the values.
        levels: Not read.
        share: Above 0, at most 1.

    Source: Wu et al. 2020, https://arxiv.org/abs/2004.09602, sec. 3.3 (percentile calibration).
    """
    low, high = min_max(seen)
    both = low < 0 < high
    tail = (1 - share) * seen.counts.sum() / (2 if both else 1)
    below = np.cumsum(seen.counts)
    above = np.cumsum(seen.counts[::-1])
    edges = (seen.first + np.arange(len(below) + 1)) * seen.width
    least = edges[int(np.searchsorted(below, tail, side="right"))]
    most = edges[len(above) - int(np.searchsorted(above, tail, side="right"))]
    return float(min(max(low, least), 0.0)), float(max(min(high, most), 0.0))


def least_error(seen: Histogram, levels: int = 256) -> Range:
    """Return the range whose rounding has the least mean squared error, clipping included, of a grid of ranges.

    Args:
        seen: Of the values; for a symmetric scheme of their magnitudes.
        levels: Of the range, evenly spaced; for a symmetric scheme those of one sign and zero.

    Source: Banner et al. 2019, https://arxiv.org/abs/1810.05723, sec. 3 (clipping of least squared error), here by
    search instead of under a fitted distribution.
    """
    low, high = min_max(seen)
    values, counts = seen.centres[seen.counts > 0], seen.counts[seen.counts > 0]
    shares = np.arange(1, ENDS + 1) / ENDS
    ranges = [(least, most) for least in _unique(low * shares) for most in _unique(high * shares)]
    errors = [_squared_error(values, counts, ends, levels) for ends in ranges]
    return ranges[int(np.argmin(errors))]


def entropy(seen: Histogram, levels: int = 256) -> Range:
    """Return the range whose rounding loses the least information: KL(values clipped || values rounded).

    Both ends are cut at the same magnitude.

    Args:
        seen: Of the values; for a symmetric scheme of their magnitudes.
        levels: As for `least_error`.

    Source: Migacz 2017, 8-bit Inference with TensorRT, GTC 2017, slides 26 to 34 (entropy calibration).
    """
    low, high = min_max(seen)
    counts = seen.magnitudes().counts
    n_levels = max(1, levels // 2 if low < 0 < high else levels)
    if len(counts) <= n_levels:
        return low, high
    stops = np.arange(len(counts), n_levels - 1, -max(1, len(counts) // THRESHOLDS))
    losses = [_lost_information(counts, int(stop), n_levels) for stop in stops]
    threshold = float(stops[int(np.argmin(losses))]) * seen.width
    return max(low, -threshold), min(high, threshold)


RANGES: Mapping[str, Callable[[Histogram, int], Range]] = {
    "min_max": min_max,
    "percentile": percentile,
    "mse": least_error,
    "entropy": entropy,
}
"""Name of a calibration -> its function of a histogram and the number of levels."""


def calibrated(seen: Histogram, calibration: str, levels: int, is_symmetric: bool = False) -> Range:
    """Return the range that a named calibration finds.

    Args:
        seen: Of the values.
        calibration: A row of `RANGES`.
        levels: Values that the quantized numbers can take, e.g. 256, or 255 of symmetric 8 bits.
        is_symmetric: Whether the range has to be as long on both sides of zero.

    Raises:
        ConfigError: The calibration is unknown.
    """
    if calibration not in RANGES:
        raise unknown_name("calibration", calibration, list(RANGES))
    if not is_symmetric:
        return RANGES[calibration](seen, levels)
    _, peak = RANGES[calibration](seen.magnitudes(), (levels + 1) // 2)
    return -peak, peak


def _width(low: float, high: float) -> float:
    """Return the least power of two of which `BINS` bins cover the range and zero."""
    span = max(max(high, 0.0) - min(low, 0.0), float(np.finfo(np.float32).tiny))
    return float(2.0 ** np.ceil(np.log2(span / (BINS - 2))))


def _unique(ends: np.ndarray) -> list[float]:
    """Return the different ends; a range that begins at zero has one."""
    return [float(end) for end in np.unique(ends)]


def _squared_error(values: np.ndarray, counts: np.ndarray, ends: Range, levels: int) -> float:
    """Return the summed squared error of rounding to evenly spaced levels, zero among them."""
    step = (ends[1] - ends[0]) / (levels - 1) if levels > 1 and ends[1] > ends[0] else 1.0
    zero = np.rint(-ends[0] / step)
    rounded = (np.clip(np.rint(values / step) + zero, 0, levels - 1) - zero) * step
    return float((counts * (rounded - values) ** 2).sum())


def _lost_information(counts: np.ndarray, stop: int, n_levels: int) -> float:
    """Return KL(P || Q) in nats: P of the first bins, the tail in the last of them; Q of their levels, spread again."""
    kept = counts[:stop].astype(np.float64)
    clipped = kept.copy()
    clipped[-1] += counts[stop:].sum()
    level = np.arange(stop) * n_levels // stop
    filled = kept > 0
    spread = np.bincount(level, kept) / np.maximum(1, np.bincount(level, filled))
    rounded = np.where(filled, spread[level], 0.0)
    seen = clipped > 0
    if (rounded[seen] == 0).any():
        return float("inf")
    p, q = clipped[seen] / clipped.sum(), rounded[seen] / rounded.sum()
    return float((p * np.log(p / q)).sum())
