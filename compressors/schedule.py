"""How far a gradual compression has come at a step."""

import math

ROUNDS = 4  # of iterative pruning


def cubic(progress: float) -> float:
    """Return the share of the way done, 0..1: fast at first, while there is still time to recover, then slower.

    Args:
        progress: Steps done over steps of the schedule; below 0 counts as 0, above 1 as 1.

    Source: Zhu and Gupta 2017, https://arxiv.org/abs/1710.01878, eq. 1.
    """
    left = 1.0 - min(max(progress, 0.0), 1.0)
    return 1.0 - left**3


def stepwise(progress: float) -> float:
    """Return the share of the way done, 0..1, in `ROUNDS` equal steps with time to recover between them.

    Args:
        progress: Steps done over steps of the schedule; below 0 counts as 0, above 1 as 1.

    Source: Han et al. 2015, https://arxiv.org/abs/1506.02626, sec. 3.4 (iterative pruning).
    """
    return math.floor(ROUNDS * min(max(progress, 0.0), 1.0) + 1e-9) / ROUNDS
