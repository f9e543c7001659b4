"""What a strategy sees of a study: its finished trials as costs and canonical genes.

Derived from the study and nothing else; kept between two asks only so that 10,000 finished trials are not read again
for each of them.
"""

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.record import STEPS, TOLD
from search_spaces.errors import ConfigError
from search_spaces.space import Genes, Space

Kept = TypeVar("Kept")


@dataclass(frozen=True)
class Observation:
    """A finished trial.

    Attributes:
        number: The trial's.
        genes: Canonical.
        costs: ``(m,)`` float64, all minimised; None when the trial failed or was pruned.
        violation: Sum of all violated constraints; 0 when it is feasible.
        steps: Of a student trained in steps: share of the training -> first cost it had there, ascending; the last
            share is below 1 when it was stopped early. Empty when it was trained in one go.
    """

    number: int
    genes: Genes
    costs: np.ndarray | None
    violation: float
    steps: Mapping[float, float] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Return whether the costs are those of the whole training."""
        return not self.steps or max(self.steps) >= 1.0


@dataclass(eq=False)
class History:
    """The trials of one study as far as they were read; hashed by identity, so what is derived of it may be kept.

    Attributes:
        space: What the genes mean; trials that do not fit it are left out.
        n_costs: Objectives of the study.
        finished: In the order of their numbers.
        told: The same in the order in which they were told, for strategies that learn as results come in; it only
            ever grows at its end.
        keys: Those of every finished trial's genes.
        pending: Number -> genes of the trials that run.
    """

    space: Space
    n_costs: int = 1
    finished: list[Observation] = field(default_factory=list)
    told: list[Observation] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    pending: dict[int, Genes] = field(default_factory=dict)
    _kept: dict[type, Any] = field(default_factory=dict, repr=False)
    _n_read: int = 0
    _open: list[int] = field(default_factory=list)

    def update(self, study: Study, asking: int) -> None:
        """Read what is new in the study.

        Args:
            study: Always the same one, of which trials are never removed.
            asking: Number of the trial that is being asked for; it is not pending.
        """
        trials = study.get_trials(deepcopy=False)
        signs = np.array([-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in study.directions])
        unread, self._open = [*self._open, *range(self._n_read, len(trials))], []
        self._n_read, self.n_costs, self.pending = len(trials), len(signs), {}
        for trial in sorted((trials[number] for number in unread), key=_told_at):
            genes = self._genes(trial)
            if not trial.state.is_finished():
                self._open.append(trial.number)
                if genes is not None and trial.state == TrialState.RUNNING and trial.number != asking:
                    self.pending[trial.number] = genes
            elif genes is not None:
                seen = _observation(trial, genes, signs)
                bisect.insort(self.finished, seen, key=lambda other: other.number)
                self.told.append(seen)
                self.keys.add(self.space.key(genes))

    def keep(self, kind: type[Kept], make: Callable[[], Kept]) -> Kept:
        """Return the one object of a kind that a strategy derived from this history, made when it is first wanted."""
        if kind not in self._kept:
            self._kept[kind] = make()
        found: Kept = self._kept[kind]
        return found

    def is_known(self, key: str) -> bool:
        """Return whether a candidate was or is being tried."""
        return key in self.keys or any(key == self.space.key(genes) for genes in self.pending.values())

    @property
    def is_exhausted(self) -> bool:
        """Return whether every candidate of the space was tried."""
        return len(self.keys) >= self.space.size

    def _genes(self, trial: FrozenTrial) -> Genes | None:
        """Return a trial's canonical genes; None when it has not all of them, or values outside the space."""
        genes = {name: trial.params[name] for name in self.space.names if name in trial.params}
        if not genes:
            return None
        try:
            return self.space.canonical(genes)
        except ConfigError:
            return None


def _told_at(trial: FrozenTrial) -> tuple[float, float, int]:
    """Return when a trial was told, unfinished ones last: as its record counted, where one did, else by the clock."""
    if trial.datetime_complete is None:
        return (math.inf, math.inf, trial.number)
    return (trial.system_attrs.get(TOLD, -1), trial.datetime_complete.timestamp(), trial.number)


def _observation(trial: FrozenTrial, genes: Genes, signs: np.ndarray) -> Observation:
    """Return a finished trial as a strategy sees it."""
    violation = sum(max(0.0, value) for value in trial.constraints.values())
    usable = trial.state == TrialState.COMPLETE and trial.values is not None and np.isfinite(trial.values).all()
    steps = {float(share): float(signs[0] * value) for share, value in trial.user_attrs.get(STEPS, ())}
    return Observation(trial.number, genes, signs * trial.values if usable else None, violation, steps)


def youngest(history: Sequence[Observation], n: int) -> list[Observation]:
    """Return the last ``n`` trials that have costs, the latest first."""
    found: list[Observation] = []
    for seen in reversed(history):
        if len(found) == n:
            break
        if seen.costs is not None:
            found.append(seen)
    return found
