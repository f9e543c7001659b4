"""From what a clock saw to a measurement: the same figures for every device.

Knows timings and measurements; not runtimes.
"""

import numpy as np

from nas.devices.base import Measurement
from nas.devices.timing import Timing, median_interval


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
    return Measurement(
        median_ms=float(np.median(timing.medians_ms)),
        p95_ms=timing.percentile(95),
        low_ms=low,
        high_ms=high,
        n=len(timing.calls_ms),
        reference_ms=float(np.median(timing.reference_ms)) if has_reference else None,
        speedup=float(np.median(timing.reference_ms / timing.medians_ms)) if has_reference else None,
        contended=timing.is_contended,
        noisy=timing.width > width,
        load_ms=load_ms,
        size_bytes=size_bytes,
        p99_ms=timing.percentile(99),
    )
