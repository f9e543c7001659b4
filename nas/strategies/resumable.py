"""Optuna's own samplers, made to go on after a resume: a fresh one, seeded by the trial's number, for every trial.

What Optuna's samplers carry from trial to trial is either in the study already or their random generator, and that
one would start again with every process.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, QMCSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from search_spaces.seeding import rng_for


class ResumableSampler(BaseSampler):
    """One of Optuna's samplers whose draws for a trial depend on the seed, the trial's number and the study alone."""

    def __init__(self, cls: type[BaseSampler], seed: int, options: Mapping[str, Any]) -> None:
        """Keep how to make the sampler, after making one to check the options.

        Raises:
            TypeError: As the sampler's class.
            ValueError: As the sampler's class.
        """
        self._cls = cls
        self._seed = seed
        self._options = dict(options)
        self._number = -1
        self._sampler = self._make(-1)

    def __str__(self) -> str:
        """Return the name of the sampler's class."""
        return self._cls.__name__

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return what the sampler wants to sample together."""
        return self._for(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return values of the parameters sampled together."""
        return self._for(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a value of a parameter sampled on its own."""
        return self._for(trial).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Let the sampler note what it needs."""
        self._for(trial).before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Let the sampler note the result."""
        self._for(trial).after_trial(study, trial, state, values)

    def _for(self, trial: FrozenTrial) -> BaseSampler:
        """Return the sampler of one trial."""
        if trial.number != self._number:
            self._number, self._sampler = trial.number, self._make(trial.number)
        return self._sampler

    def _make(self, number: int) -> BaseSampler:
        """Return a sampler with the seed of one trial; a quasi-random sequence has one seed for all of it."""
        key = () if issubclass(self._cls, QMCSampler) else (number,)
        seed = int(rng_for(self._seed, self._cls.__name__, *key).integers(2**31))
        return self._cls(**{"seed": seed, **self._options})
