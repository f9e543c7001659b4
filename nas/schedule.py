"""Which steps a training takes, on which rows and at which learning rate; also of one that is done in parts.

Knows counts, settings and seeds; not models, not losses.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from nas.data.tokens import bucketed_batches
from nas.recipe import TrainSettings
from search_spaces.seeding import rng_for

COOLING = 1 / 3  # of the steps of a part: how long a student that is judged before its training ends learns on


class Rung(NamedTuple):
    """A part of a training, as shares of its steps; ``end`` 0 is no training."""

    begin: float
    end: float

    def steps(self, n_steps: int) -> range:
        """Return the steps of this part of ``n_steps``; parts that follow each other share none and leave none out."""
        first, last = (math.ceil(round(share * n_steps, 6)) for share in self)
        return range(first, last)


WHOLE = Rung(0.0, 1.0)


class Schedule:
    """The steps of a part of a training, and a few more at a falling rate before its student is judged.

    Attributes:
        n_batches: Steps of one pass over the rows that are learned from.
        n_steps: Steps of the whole training.
        steps: Those of this part; the next part begins after them.
        stop: After the last step of all.
    """

    def __init__(self, settings: TrainSettings, lengths: np.ndarray, rung: Rung = WHOLE) -> None:
        """Lay the steps out.

        Args:
            settings: Of the whole training.
            lengths: ``(n,)`` tokens of every training row, n at least 1.
            rung: The part.
        """
        self._settings, self._lengths = settings, lengths
        self._n_used = max(1, round(settings.share * len(lengths)))
        self.n_batches = math.ceil(self._n_used / settings.batch_size)
        self.n_steps = max(1, math.ceil(settings.epochs * self.n_batches))
        self.steps = rung.steps(self.n_steps)
        self.stop = min(self.n_steps, self.steps.stop + math.ceil(COOLING * len(self.steps)))

    def learning_rate_share(self, step: int) -> float:
        """Return the share of the peak learning rate at a step; after the part's own steps it falls to 0."""
        share = learning_rate_share(step, self.n_steps, self._settings.warmup)
        return share if step < self.steps.stop else share * (self.stop - step) / (self.stop - self.steps.stop + 1)

    def batches(self, seed: int, epoch: int) -> Iterator[np.ndarray]:
        """Yield the rows of the batches of one pass; a share of the rows is the same in all of them."""
        rng, n_rows = rng_for(seed, "order", epoch), len(self._lengths)
        if self._n_used == n_rows:
            yield from bucketed_batches(self._lengths, self._settings.batch_size, rng)
            return
        used = np.sort(rng_for(seed, "share").permutation(n_rows)[: self._n_used])
        for rows in bucketed_batches(self._lengths[used], self._settings.batch_size, rng):
            yield used[rows]


def learning_rate_share(step: int, n_steps: int, warmup: float) -> float:
    """Return the share of the peak learning rate at a step: a linear rise, then a linear fall towards 0.

    Args:
        step: From 0.
        n_steps: Steps in all.
        warmup: Share of the steps that rise, 0..1.
    """
    rising = round(warmup * n_steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    return (n_steps - step) / max(1, n_steps - rising)
