"""From what a clock saw to a measurement, and from several to one: the same figures for every device.

Knows timings and measurements; not runtimes.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.special import stdtrit

from nas.devices.base import Measurement
from nas.devices.timing import Timing, median_interval

NORMAL = 1.96  # standard errors that half of a 95 % interval has


def measurement_of(timing: Timing, width: float, load_ms: float, size_bytes: int) -> Measurement:
    """Return a timing as the measurement of one artefact.

    Args:
        timing: Of its calls.
        width: Half-width of the 95 % interval that was asked for, as a share of the median.
        load_ms: From bytes to ready.
        size_bytes: Of the artefact.
    """
    low, high = median_interval(timing.medians_ms)
    has_reference = len(timing.reference_ms) > 0
    ratios = timing.reference_ms / timing.medians_ms if has_reference else None
    slowest, fastest = (None, None) if ratios is None else median_interval(ratios)
    return Measurement(
        median_ms=float(np.median(timing.medians_ms)),
        p95_ms=timing.percentile(95),
        low_ms=low,
        high_ms=high,
        n=len(timing.calls_ms),
        reference_ms=float(np.median(timing.reference_ms)) if has_reference else None,
        speedup=None if ratios is None else float(np.median(ratios)),
        contended=timing.is_contended,
        noisy=timing.width > width,
        load_ms=load_ms,
        size_bytes=size_bytes,
        p99_ms=timing.percentile(99),
        speedup_low=slowest,
        speedup_high=fastest,
    )


def pooled(starts: Sequence[Measurement]) -> Measurement:
    """Return the measurements of one artefact in several processes as one.

    Every process has its own memory layout, which its own interval knows nothing of. So the 95 % intervals of latency
    and speed-up are those of the means over processes, see `_over_processes`. What one process doubts, all do.

    Args:
        starts: One a process, at least one.
    """
    n = len(starts)
    if n == 1:
        return starts[0]
    median_ms, low_ms, high_ms = _over_processes([(each.median_ms, each.low_ms, each.high_ms) for each in starts])
    speedup, slowest, fastest = _speedup(starts)
    return replace(
        starts[0],
        median_ms=median_ms,
        low_ms=low_ms,
        high_ms=high_ms,
        n=sum(each.n for each in starts),
        contended=any(each.contended for each in starts),
        noisy=any(each.noisy for each in starts),
        p95_ms=float(np.median([each.p95_ms for each in starts])),
        p99_ms=_middle([each.p99_ms for each in starts]),
        reference_ms=_middle([each.reference_ms for each in starts]),
        speedup=speedup,
        speedup_low=slowest,
        speedup_high=fastest,
        load_ms=float(np.median([each.load_ms for each in starts])),
        starts=n,
    )


def _speedup(starts: Sequence[Measurement]) -> tuple[float | None, float | None, float | None]:
    """Return the speed-up over processes with the ends of its interval, as far as all of them know it."""
    known = [
        (each.speedup, each.speedup_low, each.speedup_high)
        for each in starts
        if each.speedup is not None and each.speedup_low is not None and each.speedup_high is not None
    ]
    return _over_processes(known) if len(known) == len(starts) else (_middle([e.speedup for e in starts]), None, None)


def _over_processes(seen: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """Return the geometric mean of a figure over processes, and the ends of its 95 % interval.

    From how far the processes are apart, or from their own intervals where these say more; on logarithms, since errors
    are relative.

    Args:
        seen: The figure with the ends of its own 95 % interval, of two processes or more.

    Source: Hartung & Knapp 2001, https://doi.org/10.1002/sim.791, with equal weights, and never less certain of itself
    than the processes are: the modification of Röver et al. 2015, https://doi.org/10.1186/s12874-015-0091-1.
    """
    values, lows, highs = np.log(np.array(seen)).T
    own = (highs - lows) / 2 / NORMAL
    error = np.sqrt(max(values.var(ddof=1), np.mean(own**2)) / len(seen))
    width = stdtrit(len(seen) - 1, 0.975) * error
    low, middle, high = np.exp([values.mean() - width, values.mean(), values.mean() + width]).tolist()
    return middle, low, high


def _middle(values: Sequence[float | None]) -> float | None:
    """Return the median of a figure over the processes; None where one does not know it."""
    known = [value for value in values if value is not None]
    return float(np.median(known)) if len(known) == len(values) else None
