"""Random search: the baseline that every other strategy has to beat."""

import numpy as np

from nas.strategies.base import Strategy
from nas.strategies.history import History
from search_spaces.space import Genes


class RandomSearch(Strategy):
    """Draws every active gene uniformly; repeats are avoided."""

    name = "random"
    suits = "the baseline that every other strategy has to beat"

    def propose(self, history: History, rng: np.random.Generator) -> Genes:
        """Return a random candidate."""
        return self.space.sample(rng)
