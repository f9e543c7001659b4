"""The record of a search: one Optuna study, fast in memory and safe on disk.

Strategies read and write a study in memory; every event (enqueue, ask, tell, a note) is written through to the
storage in one transaction before it counts. Opening an existing study copies it into memory under the same trial
numbers, so a resumed search sees what the stopped one saw. The record has one writer, the driver of the search.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.mirror import Json, Mirror, name_metrics
from nas.objectives import Direction
from search_spaces.errors import StateError

__all__ = ["STEPS", "TOLD", "FrozenTrial", "Record", "TrialState"]

TOLD = "nas.told"  # system attribute of a trial: how many had ended before it; clocks tie, and they step back
STEPS = "steps"  # attribute of a trial that was trained in steps: pairs of share and first objective


class Record:
    """All trials of one search, in memory and, where there is a storage, on disk."""

    def __init__(self, study: optuna.Study, storage: InMemoryStorage) -> None:
        """Begin an empty record on an empty study in memory; `open` is the way to one with a storage."""
        self.study = study
        self._storage = storage
        self._study_id = storage.get_study_id_from_name(study.study_name)
        self._mirror: Mirror | None = None
        self._n_known = 0  # trials that the mirror has
        self._n_told = 0  # trials that ended

    @classmethod
    def open(
        cls,
        storage_url: str | None,
        name: str,
        directions: Sequence[Direction],
        sampler: BaseSampler,
        metric_names: Sequence[str],
        attrs: Mapping[str, Json] | None = None,
    ) -> "Record":
        """Return the record of a study, created or loaded.

        Args:
            storage_url: Any Optuna storage URL, e.g. ``sqlite:///study.db``; None keeps everything in memory.
            name: The study's name within the storage.
            directions: What is better, one an objective.
            sampler: The strategy.
            metric_names: What a told value means, one an objective.
            attrs: Attributes of a new study; those that a loaded one has stay as they are.

        Raises:
            ConfigError: The storage cannot be reached, or the stored study has other objectives.
            StateError: The storage is damaged.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # the search reports progress itself
        storage = InMemoryStorage()
        study = optuna.create_study(storage=storage, sampler=sampler, study_name=name, directions=list(directions))
        name_metrics(study, metric_names)
        record = cls(study, storage)
        if storage_url is not None:
            record._mirror = Mirror.open(storage_url, study)
            record._load(record._mirror)
        for key, value in (attrs or {}).items():
            if key not in record.attrs:
                record.set_attr(key, value)
        return record

    @property
    def sampler(self) -> BaseSampler:
        """Return the strategy."""
        return self.study.sampler

    @property
    def attrs(self) -> Mapping[str, Json]:
        """Return the attributes of the study; `set_attr` changes them."""
        return self._storage.get_study_user_attrs(self._study_id)

    def enqueue(self, params: Mapping[str, Json]) -> None:
        """Put a candidate before everything the strategy would propose; it is asked in the order of enqueueing."""
        self.study.enqueue_trial(dict(params))
        self._write_new()

    def ask(self, distributions: Mapping[str, BaseDistribution]) -> FrozenTrial:
        """Return a new running trial, its ``number`` and ``params``; it survives a crash from here on.

        Raises:
            StateError: The storage cannot be written.
        """
        trial = self.study.ask(dict(distributions))
        frozen = self.trial(trial.number)
        if frozen.number < self._n_known:
            if self._mirror is not None:
                self._mirror.start(frozen, self._system_attrs())
        else:
            self._write_new()
        return frozen

    def repeat(self, number: int, attrs: Mapping[str, Json]) -> FrozenTrial:
        """Return a new running trial with the parameters of an earlier one; as `ask` without the strategy.

        Args:
            number: The earlier trial.
            attrs: User attributes of the new one.

        Raises:
            StateError: There is no such trial, or the storage cannot be written.
        """
        old = self.trial(number)
        again = create_trial(
            state=TrialState.RUNNING,
            params=old.params,
            distributions=old.distributions,
            user_attrs=_jsonable(attrs, None),
        )
        new = self._storage.create_new_trial(self._study_id, again)  # in memory the id is also the number
        self._write_new()
        return self.trial(new)

    def tell(
        self,
        number: int,
        values: Sequence[float] | None,
        state: TrialState = TrialState.COMPLETE,
        attrs: Mapping[str, Json] | None = None,
        constraints: Mapping[str, float] | None = None,
    ) -> bool:
        """Finish a trial.

        Args:
            number: An asked trial.
            values: One finite number an objective for ``COMPLETE``, else None.
            state: ``COMPLETE``, ``FAIL`` or ``PRUNED``.
            attrs: User attributes to keep with it.
            constraints: Name -> violation, at most 0 is feasible; finite.

        Returns:
            False when the trial was finished before: a result counts once, and nothing was changed.

        Raises:
            StateError: No such trial was asked, a value does not fit, or the storage cannot be written; nothing was
                changed.
        """
        trial = self.trial(number)
        if trial.state.is_finished():
            return False
        self._check(trial, values, state)
        notes = _jsonable(attrs or {}, number)
        system_attrs = {**_constraint_attrs(constraints or {}, number), TOLD: self._n_told}
        told = None if values is None else [float(value) for value in values]
        if self._mirror is not None:
            self._mirror.finish(number, told, state, notes, system_attrs)
        for key, value in notes.items():
            self._storage.set_trial_user_attr(number, key, value)
        for key, value in system_attrs.items():
            self._storage.set_trial_system_attr(number, key, value)
        self.study.tell(number, told, state)
        self._n_told += 1
        return True

    def annotate(self, number: int, attrs: Mapping[str, Json]) -> None:
        """Keep attributes with a trial that is not finished, e.g. how often it was tried.

        Raises:
            StateError: The trial is finished or unknown, or a value is not JSON.
        """
        trial = self.trial(number)
        if trial.state.is_finished():
            raise StateError(f"trial {number}: is {trial.state.name}; only an unfinished trial can be annotated.")
        notes = _jsonable(attrs, number)
        if self._mirror is not None:
            self._mirror.annotate(number, notes)
        for key, value in notes.items():
            self._storage.set_trial_user_attr(number, key, value)

    def trial(self, number: int) -> FrozenTrial:
        """Return one trial; not a copy, read only.

        Raises:
            StateError: No such trial was asked.
        """
        try:
            return self._storage.get_trial(number)  # in memory the number is also the id
        except KeyError:
            raise StateError(f"trial {number}: was never asked; the study has {self._n_known} trials.") from None

    def trials(self, states: Collection[TrialState] | None = None) -> list[FrozenTrial]:
        """Return the trials in the order of their numbers, all or those in some states; not copies, read only."""
        return self.study.get_trials(deepcopy=False, states=tuple(states) if states is not None else None)

    def running(self) -> list[FrozenTrial]:
        """Return the trials asked and not told; after a crash, those to run again."""
        return self.trials((TrialState.RUNNING,))

    def set_attr(self, key: str, value: Json) -> None:
        """Keep an attribute of the study, e.g. the result of a phase.

        Raises:
            StateError: The value is not JSON, or the storage cannot be written.
        """
        (value,) = _jsonable({key: value}, None).values()
        if self._mirror is not None:
            self._mirror.set_attr(key, value)
        self.study.set_user_attr(key, value)

    def close(self) -> None:
        """Give the storage back; the trials in memory stay readable. Idempotent."""
        if self._mirror is not None:
            self._mirror.storage.engine.dispose()

    def _load(self, mirror: Mirror) -> None:
        """Copy what is stored into memory."""
        stored = mirror.load()
        self.study.add_trials(stored.trials)
        for key, value in stored.user_attrs.items():
            self.study.set_user_attr(key, value)
        for key, value in stored.system_attrs.items():
            self._storage.set_study_system_attr(self._study_id, key, value)
        self._n_known = len(stored.trials)
        self._n_told = sum(trial.state.is_finished() for trial in stored.trials)

    def _system_attrs(self) -> dict[str, Json]:
        """Return what samplers keep with the study, e.g. the parents of a generation."""
        return dict(self._storage.get_study_system_attrs(self._study_id))

    def _write_new(self) -> None:
        """Write the trials the storage does not have yet."""
        for trial in self.trials()[self._n_known :]:
            if self._mirror is not None:
                self._mirror.add(trial, self._system_attrs())
            self._n_known += 1

    def _check(self, trial: FrozenTrial, values: Sequence[float] | None, state: TrialState) -> None:
        """Check a result before anything is changed."""
        where = f"trial {trial.number}"
        if trial.state != TrialState.RUNNING:
            raise StateError(f"{where}: is {trial.state.name}; only a RUNNING trial can be told. Ask for it first.")
        if not state.is_finished():
            raise StateError(f"{where}: told as {state.name}; COMPLETE, FAIL and PRUNED are allowed.")
        if (values is not None) != (state == TrialState.COMPLETE):
            raise StateError(f"{where}: told {values} as {state.name}; a COMPLETE trial has values, others have none.")
        n_objectives = len(self.study.directions)
        if values is not None and len(values) != n_objectives:
            raise StateError(f"{where}: told {len(values)} values; the study has {n_objectives} objectives.")
        if values is not None and not all(math.isfinite(value) for value in values):
            raise StateError(f"{where}: told {list(values)}; values are finite numbers. Tell it as FAIL.")


def _constraint_attrs(constraints: Mapping[str, float], number: int) -> dict[str, Json]:
    """Return constraints in the form in which Optuna keeps them with a trial."""
    for name, violation in constraints.items():
        if not math.isfinite(violation):
            raise StateError(f"trial {number}: constraint {name!r} is {violation}; it must be finite. Tell it as FAIL.")
    return create_trial(state=TrialState.FAIL, constraints=dict(constraints)).system_attrs


def _jsonable(attrs: Mapping[str, Json], number: int | None) -> dict[str, Json]:
    """Return attributes as JSON reads them back, so that memory and disk agree."""
    where = "study" if number is None else f"trial {number}"
    result = {}
    for key, value in attrs.items():
        try:
            result[key] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise StateError(f"{where}: attribute {key!r} = {value!r:.60} is not JSON ({error}).") from None
    return result
