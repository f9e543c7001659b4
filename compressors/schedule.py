"""How far a gradual compression has come at a step."""

import math

ROUNDS = 4  # of iterative pruning
MOST_AT_ONCE = 0.3  # share of what is left that one round of progressive pruning takes


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


def rounds(start: float, target: float) -> int:
    """Return how often a size has to be cut so that no cut takes more than `MOST_AT_ONCE` of it; at least once.

    Args:
        start: Above 0.
        target: Above 0, at most ``start``.

    Source: Muralidharan et al. 2024 (Minitron), https://arxiv.org/abs/2407.14679, sec. 4, best practice 1: small models
    are cut from the next larger one after it was trained, not from the largest.
    """
    return max(1, math.ceil(math.log(target / start) / math.log(1 - MOST_AT_ONCE) - 1e-9))


def geometric(start: float, target: float, progress: float) -> float:
    """Return the share of the way done, 0..1, when equal parts of the way take equal shares of what is left.

    Args:
        start: A size, above 0.
        target: The size at the end, above 0, at most ``start``.
        progress: 0..1.
    """
    if start == target:
        return progress
    share: float = (start - start * (target / start) ** progress) / (start - target)
    return share
