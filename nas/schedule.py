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
HELD_OUT, MOST_HELD_OUT = 0.05, 1024  # share of the rows, and rows, that a training with patience does not learn from
LOOKS = 4  # at them in one pass


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
        n_rows = len(lengths)
        is_watched = settings.patience is not None
        self._n_held_out = max(1, min(MOST_HELD_OUT, round(HELD_OUT * n_rows))) if is_watched else 0
        self._n_used = max(1, min(round(settings.share * n_rows), n_rows - self._n_held_out))
        self.n_batches = math.ceil(self._n_used / settings.batch_size)
        self.n_steps = max(1, math.ceil(settings.epochs * self.n_batches))
        self.steps = rung.steps(self.n_steps)
        self.stop = min(self.n_steps, self.steps.stop + math.ceil(COOLING * len(self.steps)))

    def learning_rate_share(self, step: int) -> float:
        """Return the share of the peak learning rate at a step; after the part's own steps it falls to 0."""
        share = learning_rate_share(step, self.n_steps, self._settings.warmup)
        return share if step < self.steps.stop else share * (self.stop - step) / (self.stop - self.steps.stop + 1)

    def wind_up(self, step: int) -> None:
        """Let the training end soon: from this step on the rate falls to 0, for a third of the steps before it."""
        if step < self.steps.stop:
            self.steps = range(self.steps.start, step)
            self.stop = min(self.n_steps, step + math.ceil(COOLING * len(self.steps)))

    def is_look(self, step: int) -> bool:
        """Return whether the rows that are held out are looked at after so many steps; after the last one they are."""
        return step % max(1, self.n_batches // LOOKS) == 0 or step == self.stop

    def held_out(self, seed: int) -> Iterator[np.ndarray]:
        """Yield batches of the rows that are never learned from, none without patience."""
        order = rng_for(seed, "share").permutation(len(self._lengths))
        rows = order[self._n_used : self._n_used + self._n_held_out]
        for batch in bucketed_batches(self._lengths[rows], self._settings.batch_size, None):
            yield rows[batch]

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
