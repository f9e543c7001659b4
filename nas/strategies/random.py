"""Random search: the baseline that every other strategy has to beat."""

from collections.abc import Sequence

import numpy as np

from nas.strategies.base import Strategy
from nas.strategies.history import Observation
from search_spaces.space import Genes


class RandomSearch(Strategy):
    """Draws every active gene uniformly; repeats are avoided."""

    name = "random"

    def propose(self, history: Sequence[Observation], pending: Sequence[Genes], rng: np.random.Generator) -> Genes:
        """Return a random candidate."""
        return self.space.sample(rng)
