"""What all our strategies share: the study in, one new candidate out.

A strategy is an Optuna sampler and works in anybody's study. It says only how to propose a candidate; reading the
study, drawing from a generator derived from the trial's number and avoiding repeats is done here.
"""

from abc import abstractmethod
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from nas.strategies.foreknowledge import Foreknowledge
from nas.strategies.history import History
from nas.strategies.options import Options, check_options
from search_spaces.seeding import rng_for
from search_spaces.space import Genes, Space

TRIES = 100  # proposals a trial, before a repeated or refused one is let through


class Strategy(BaseSampler):
    """A sampler whose proposals are a function of the space, the seed, the trial's number and the study's history.

    What a strategy keeps between two asks is derived from the history and could be thrown away at any time.

    Attributes:
        name: Its row in the table.
        suits: What it is good for, one line.
        options_model: Its options with their defaults and ranges.
        max_objectives: How many objectives it can search for; None = any number.
        foreknowledge: What it may use of a candidate before its trial; `foresee` sets it.
    """

    name: ClassVar[str]
    suits: ClassVar[str]
    options_model: ClassVar[type[Options]] = Options
    max_objectives: ClassVar[int | None] = None

    def __init__(self, space: Space, seed: int, **options: Any) -> None:
        """Keep what the proposals depend on.

        Args:
            space: What is searched.
            seed: Of the whole search.
            options: Fields of ``options_model``.

        Raises:
            ConfigError: An option is unknown or its value is not allowed.
        """
        self.space = space
        self.seed = seed
        self._options = check_options(self.name, self.options_model, options)
        self.foreknowledge = Foreknowledge()
        self._distributions = space.distributions()
        self._histories: WeakKeyDictionary[Study, History] = WeakKeyDictionary()

    def foresee(self, foreknowledge: Foreknowledge) -> None:
        """Set what is known of candidates before their trials, after trying it on a few.

        Raises:
            ConfigError: One of its functions returns another shape, or something that is not finite.
        """
        rng = rng_for(self.seed, "foresee")
        some = [self.space.sample(rng) for _ in range(3)]
        foreknowledge.known_costs(some, 1 + max(foreknowledge.costs, default=0))
        foreknowledge.known_features(some)
        self.foreknowledge = foreknowledge

    @abstractmethod
    def propose(self, history: History, rng: np.random.Generator) -> Genes:
        """Return the next candidate; called again when it is a repeat.

        Args:
            history: All trials so far; not to be changed.
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
        """Return an accepted candidate that was never tried; after all tries the last one, whatever it is.

        The second half of the tries is random: a strategy that has settled may know nothing new.
        """
        genes = self.propose(history, rng)
        for i in range(0 if history.is_exhausted else TRIES - 1):
            if not history.is_known(self.space.key(genes)) and self.foreknowledge.accept(genes):
                break
            genes = self.propose(history, rng) if i < TRIES // 2 else self.space.sample(rng)
        return genes
