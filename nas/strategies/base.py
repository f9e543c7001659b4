"""What all our strategies share: the study in, one new candidate out.

A strategy is an Optuna sampler and works in anybody's study. It says only how to propose a candidate; reading the
study, drawing from a generator derived from the trial's number and avoiding repeats is done here. In a study whose
space was not declared, a strategy searches the parameters that all finished trials have in common, as Optuna's own
samplers do.
"""

import threading
from abc import abstractmethod
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study
from optuna.trial import FrozenTrial

from nas.strategies.foreknowledge import Foreknowledge
from nas.strategies.history import History
from nas.strategies.options import Options, check_options
from search_spaces.errors import ConfigError
from search_spaces.seeding import rng_for
from search_spaces.space import Genes, Space

DERIVED = {"_lock", "_histories", "_common", "_others"}  # not pickled
TRIES = 100  # proposals a trial, before a repeated or refused one is let through


class Strategy(BaseSampler):
    """A sampler whose proposals are a function of the space, the seed, the trial's number and the study's history.

    What a strategy keeps between two asks is derived from the history and could be thrown away at any time.

    Attributes:
        name: Its row in the table.
        suits: What it is good for, one line.
        options_model: Its options with their defaults and ranges.
        max_objectives: How many objectives it can search for; None = any number.
        uses_features: Whether known costs and features change what it proposes; all refuse what is not accepted.
        foreknowledge: What it may use of a candidate before its trial; `foresee` sets it.
    """

    name: ClassVar[str]
    suits: ClassVar[str]
    options_model: ClassVar[type[Options]] = Options
    max_objectives: ClassVar[int | None] = None
    uses_features: ClassVar[bool] = False

    def __init__(self, space: Space | None = None, seed: int | None = None, **options: Any) -> None:
        """Keep what the proposals depend on.

        Args:
            space: What is searched; None: what the finished trials of a study have in common.
            seed: Of the whole search; None: another one for every strategy.
            options: Fields of ``options_model``.

        Raises:
            ConfigError: An option is unknown or its value is not allowed.
        """
        self.space = space or Space({})
        self.seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        self._given = options
        self._options = check_options(self.name, self.options_model, options)
        self.foreknowledge = Foreknowledge()
        self._is_declared = space is not None
        self._distributions = self.space.distributions()
        self._forget()

    def foresee(self, foreknowledge: Foreknowledge) -> None:
        """Set what is known of candidates before their trials, after trying it on a few.

        It speaks of the declared space, and is not used where a study has another one.

        Raises:
            ConfigError: No space was declared, or one of its functions returns another shape, or something that is
                not finite.
        """
        if not self._is_declared:
            raise ConfigError(f"strategy {self.name!r}: has no space to foresee; pass one when you make it.")
        rng = rng_for(self.seed, "foresee")
        some = [self.space.sample(rng) for _ in range(3)]
        foreknowledge.known_costs(some, 1 + max(foreknowledge.costs, default=0))
        foreknowledge.known_features(some)
        self.foreknowledge = foreknowledge
        self._forget()  # what was derived from a history knew less

    @abstractmethod
    def propose(self, history: History, rng: np.random.Generator) -> Genes:
        """Return the next candidate; called again when it is a repeat.

        Args:
            history: All trials so far; not to be changed.
            rng: Where all draws must come from.
        """

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the declared space, or what the finished trials have in common."""
        if self._is_declared:
            return dict(self._distributions)  # Optuna's PartialFixedSampler deletes from what it gets
        with self._lock:
            common = self._common.setdefault(study, IntersectionSearchSpace()).calculate(study)
        genes = Space.from_distributions(common).names
        return {name: distribution for name, distribution in common.items() if name in genes}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return a value for every gene of a new candidate.

        Raises:
            ConfigError: The study has more objectives than the strategy can search for.
        """
        self._check_objectives(study)
        if not search_space:
            return {}
        searcher = self if search_space == self._distributions else self._adapted(study, search_space)
        return searcher._draw(study, trial.number)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a random value for a parameter that is not a gene of the space.

        Raises:
            ConfigError: The study has more objectives than the strategy can search for.
        """
        self._check_objectives(study)
        seed = int(rng_for(self.seed, self.name, trial.number, param_name).integers(2**31))
        return RandomSampler(seed).sample_independent(study, trial, param_name, param_distribution)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was derived from studies."""
        return {name: value for name, value in self.__dict__.items() if name not in DERIVED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin with no study read."""
        self.__dict__.update(state)
        self._forget()

    def _check_objectives(self, study: Study) -> None:
        """Refuse a study with too many objectives."""
        most, n = self.max_objectives, len(study.directions)
        if most is not None and n > most:
            raise ConfigError(f"strategy {self.name!r}: the study has {n} objectives; at most {most} is allowed.")

    def _adapted(self, study: Study, search_space: dict[str, BaseDistribution]) -> "Strategy":
        """Return the same strategy for the space that a study has, the one of the last ask if that is still the same.

        A strategy has one space for life: what it learned in one means nothing in another.
        """
        space = self.space.adapted(search_space)
        with self._lock:
            if study not in self._others or self._others[study].space != space:
                self._others[study] = type(self)(space, self.seed, **self._given)
            return self._others[study]

    def _draw(self, study: Study, number: int) -> dict[str, Any]:
        """Return the values of a new trial; one thread at a time."""
        with self._lock:
            history = self._histories.setdefault(study, History(self.space))
            history.update(study, number)
            rng = rng_for(self.seed, self.name, number)
            return self.space.complete(self._propose_new(history, rng))

    def _forget(self) -> None:
        """Begin with no study read."""
        self._lock = threading.Lock()
        self._histories: WeakKeyDictionary[Study, History] = WeakKeyDictionary()
        self._common: WeakKeyDictionary[Study, IntersectionSearchSpace] = WeakKeyDictionary()
        self._others: WeakKeyDictionary[Study, Strategy] = WeakKeyDictionary()  # for studies with another space

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
