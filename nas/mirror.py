"""The copy of the study in a storage, written in step with the one in memory, one transaction an event.

Knows the storage; which trials there are and what may happen to them is the record's business.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.storage import open_storage, storage_errors, transaction
from search_spaces.errors import ConfigError, StateError

Json = Any  # what json.dumps takes


class Stored(NamedTuple):
    """What a storage holds of one study."""

    trials: list[FrozenTrial]
    user_attrs: dict[str, Json]
    system_attrs: dict[str, Json]


class Mirror:
    """The study on disk, written in step with the one in memory; each method is one transaction."""

    def __init__(self, storage: RDBStorage, study_id: int) -> None:
        """Keep the storage and the id of the study in it."""
        self.storage = storage
        self._where = str(storage.engine.url)
        self._study_id = study_id
        self._ids: list[int] = []  # trial number -> the storage's id
        self._system_attrs: dict[str, Json] = {}

    @classmethod
    def open(cls, url: str, study: optuna.Study) -> "Mirror":
        """Return the mirror of a study in memory, created if the storage has none of its name.

        Raises:
            ConfigError: The storage cannot be reached, or its study has other objectives.
            StateError: The storage is damaged.
        """
        storage = open_storage(url)
        with transaction(storage):
            if study.study_name in optuna.get_all_study_names(storage):
                stored = optuna.load_study(study_name=study.study_name, storage=storage, sampler=study.sampler)
            else:
                stored = optuna.create_study(
                    storage=storage, sampler=study.sampler, study_name=study.study_name, directions=study.directions
                )
                name_metrics(stored, study.metric_names or [])
        _check_same_objectives(str(storage.engine.url), stored, study)
        return cls(storage, storage.get_study_id_from_name(study.study_name))

    def load(self) -> "Stored":
        """Return everything stored.

        Raises:
            StateError: The storage cannot be read, or a trial is missing in it.
        """
        with storage_errors(self._where):
            stored = Stored(
                self.storage.get_all_trials(self._study_id, deepcopy=False),
                self.storage.get_study_user_attrs(self._study_id),
                self.storage.get_study_system_attrs(self._study_id),
            )
        numbers = [trial.number for trial in stored.trials]
        if numbers != list(range(len(numbers))):
            raise StateError(f"study {self._where}: trials are missing; it holds {numbers}. Restore a copy of it.")
        self._ids = [trial._trial_id for trial in stored.trials]
        self._system_attrs = dict(stored.system_attrs)
        return stored

    def add(self, trial: FrozenTrial, system_attrs: Mapping[str, Json]) -> None:
        """Write a new trial, waiting or running."""
        with transaction(self.storage):
            self._sync(system_attrs)
            trial_id = self.storage.create_new_trial(self._study_id, trial)
        self._ids.append(trial_id)

    def start(self, trial: FrozenTrial, system_attrs: Mapping[str, Json]) -> None:
        """Turn a waiting trial into a running one with all its parameters."""
        storage, trial_id = self.storage, self._ids[trial.number]
        with transaction(storage):
            self._sync(system_attrs)
            storage.set_trial_state_values(trial_id, TrialState.RUNNING)
            for name, value in trial.params.items():
                distribution = trial.distributions[name]
                storage.set_trial_param(trial_id, name, distribution.to_internal_repr(value), distribution)
            for key, value in trial.system_attrs.items():
                storage.set_trial_system_attr(trial_id, key, value)

    def finish(
        self,
        number: int,
        values: Sequence[float] | None,
        state: TrialState,
        attrs: Mapping[str, Json],
        system_attrs: Mapping[str, Json],
    ) -> None:
        """Write the result of a trial."""
        storage, trial_id = self.storage, self._ids[number]
        with transaction(storage):
            for key, value in attrs.items():
                storage.set_trial_user_attr(trial_id, key, value)
            for key, value in system_attrs.items():
                storage.set_trial_system_attr(trial_id, key, value)
            storage.set_trial_state_values(trial_id, state, values)

    def annotate(self, number: int, attrs: Mapping[str, Json]) -> None:
        """Write attributes of an unfinished trial."""
        with transaction(self.storage):
            for key, value in attrs.items():
                self.storage.set_trial_user_attr(self._ids[number], key, value)

    def set_attr(self, key: str, value: Json) -> None:
        """Write an attribute of the study."""
        with transaction(self.storage):
            self.storage.set_study_user_attr(self._study_id, key, value)

    def _sync(self, system_attrs: Mapping[str, Json]) -> None:
        """Write what a sampler changed in the attributes it keeps with the study."""
        for key, value in system_attrs.items():
            if self._system_attrs.get(key) != value:
                self.storage.set_study_system_attr(self._study_id, key, value)
        self._system_attrs = dict(system_attrs)


def name_metrics(study: optuna.Study, names: Sequence[str]) -> None:
    """Give the objectives of a study the names that dashboards show."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(list(names))


def _check_same_objectives(where: str, stored: optuna.Study, study: optuna.Study) -> None:
    """Check that stored values mean what told ones will mean."""
    if stored.directions != study.directions or stored.metric_names != study.metric_names:
        raise ConfigError(
            f"study {where}: was made for {_words(stored.metric_names, stored.directions)}; this search has "
            f"{_words(study.metric_names, study.directions)}. Start a new run, or restore the recipe's objectives."
        )


def _words(names: Sequence[str] | None, directions: Sequence[StudyDirection]) -> str:
    """Return objectives for a message, e.g. ``maximize accuracy, minimize latency_ms``."""
    labels = names or [f"objective {index}" for index in range(len(directions))]
    return ", ".join(f"{direction.name.lower()} {name}" for name, direction in zip(labels, directions, strict=False))
