"""What all our strategies share: the study in, one new candidate out.

A strategy is an Optuna sampler and works in anybody's study. It says only how to propose a candidate; reading the
study, drawing from a generator derived from the trial's number and avoiding repeats is done here.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from nas.strategies.history import History, Observation
from search_spaces.seeding import rng_for
from search_spaces.space import Genes, Space

TRIES = 100  # proposals a trial, before a repeated or refused one is let through


class Strategy(BaseSampler):
    """A sampler whose proposals are a function of the space, the seed, the trial's number and the study's history.

    Attributes:
        accept: Says whether a candidate is worth a trial, e.g. whether its predicted latency meets a constraint; may
            be set between two asks.
    """

    name: ClassVar[str]

    def __init__(self, space: Space, seed: int) -> None:
        """Keep what the proposals depend on."""
        self.space = space
        self.seed = seed
        self.accept: Callable[[Genes], bool] = _accept_all
        self._distributions = space.distributions()
        self._histories: WeakKeyDictionary[Study, History] = WeakKeyDictionary()

    @abstractmethod
    def propose(self, history: Sequence[Observation], pending: Sequence[Genes], rng: np.random.Generator) -> Genes:
        """Return the next candidate; called again when it is a repeat.

        Args:
            history: All finished trials in the order of their numbers; not to be changed.
            pending: Candidates that run at the moment.
            rng: Where all draws must come from.
        """

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the whole space."""
        return self._distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return a value for every gene of a new candidate."""
        history = self._histories.setdefault(study, History(self.space))
        history.update(study, trial.number)
        rng = rng_for(self.seed, self.name, trial.number)
        return self.space.complete(self._propose_new(history, rng))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a random value for a parameter that is not a gene of the space."""
        seed = int(rng_for(self.seed, self.name, trial.number, param_name).integers(2**31))
        return RandomSampler(seed).sample_independent(study, trial, param_name, param_distribution)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was derived from studies."""
        return {name: value for name, value in self.__dict__.items() if name != "_histories"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin with no study read."""
        self.__dict__.update(state)
        self._histories = WeakKeyDictionary()

    def _propose_new(self, history: History, rng: np.random.Generator) -> Genes:
        """Return an accepted candidate that was never tried; after ``TRIES`` proposals the last one, whatever it is."""
        pending = list(history.pending.values())
        genes = self.propose(history.finished, pending, rng)
        for _ in range(0 if history.is_exhausted else TRIES - 1):
            if not history.is_known(self.space.key(genes)) and self.accept(genes):
                break
            genes = self.propose(history.finished, pending, rng)
        return genes


def _accept_all(genes: Genes) -> bool:
    """Return True."""
    return True
