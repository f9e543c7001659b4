"""Which measurements something outside this process disturbed, told by the reference that was measured beside each.

Who else uses the same core or memory shows neither in waiting times nor in a confidence interval, but it slows the
reference too: on a shared machine the teacher took 1.16 times as long for half a minute, int8 students 1.2 to 1.6
times. Knows durations; not devices, nor what is done about it.
"""

from collections.abc import Sequence

import numpy as np

QUIET = 0.2  # share of the measurements that are taken to be undisturbed
LEAST, SPREADS = 0.07, 4.0  # a reference may take longer by a share, or by a few times the spread of the quickest ones


def calm_reference_ms(references_ms: Sequence[float]) -> float:
    """Return the longest that the reference takes while nothing disturbs it.

    Args:
        references_ms: Its durations in one session, one a measurement, at least one.
    """
    quickest, quick = np.quantile(references_ms, (QUIET / 4, QUIET))
    return float(quick * (1 + max(LEAST, SPREADS * (1 - quickest / quick))))
