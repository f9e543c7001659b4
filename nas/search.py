"""Phase 3, search: ask the strategy, let a worker train, tell the strategy; until the budget is spent.

The study is the only state: whatever ended is told before anything else happens, so a killed search loses nothing
that was finished, and a resumed one trains again exactly what was running, by rungs from the last one reached.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from nas.executor import Executor, Failure, Outcome, Task
from nas.knowledge import Profile
from nas.objectives import LATENCY, Constraint, Objective, plain
from nas.recipe import SearchSettings
from nas.record import STEPS, Record
from nas.rungs import CONTINUES, Rungs, latest, stopped_at
from search_spaces.errors import InfeasibleError, StateError
from search_spaces.space import Value

REJECTIONS = 200  # proposals in a row that may be refused before the space counts as exhausted
ALIKE = 5  # first trials failing with one message: the cause is systematic, more trials would fail too

Notify = Callable[[FrozenTrial], None]


@dataclass
class Search:
    """One search in progress: the loop's constants and what is running now; without rungs all is trained in one go."""

    settings: SearchSettings
    objectives: Sequence[Objective]
    constraints: Sequence[Constraint]
    known: Profile
    record: Record
    executor: Executor
    on_tell: Notify
    on_tick: Callable[[int], None]
    rungs: Rungs | None = None
    is_late: Callable[[], bool] = lambda: False
    running: dict[str, tuple[int, dict[str, Value]]] = field(default_factory=dict)

    def run(self) -> str | None:
        """Spend what is left of the budget; return why some of it is left when time or candidates run out.

        Raises:
            StateError: The first trials all failed alike.
            InfeasibleError: The strategy proposes nothing that can meet the constraints.
        """
        space = self.known.candidates.space
        keys = {space.key(trial.user_attrs["genes"]) for trial in self._spent()}
        for trial in self.record.running():  # left over from an interrupted search
            self._consider(trial, keys)
        is_exhausted = False
        while True:
            is_late = self.is_late() and bool(self._spent())  # one student at least
            while len(self.running) < self.executor.slots("train"):
                may_begin = not (is_exhausted or is_late) and self._n_left() > 0
                if self._revive(is_late, is_last_call=not may_begin):
                    continue
                if not may_begin:
                    break
                is_exhausted = not self._propose(keys)
            if not self.running:
                return self._ended(is_late, len(keys))
            for outcome in self.executor.wait(1.0):
                self._settle(outcome)
            self.on_tick(len(self.running))

    def _ended(self, is_late: bool, n_tried: int) -> str | None:
        """Return why some of the budget is left; None when nothing is."""
        left = self._n_left()
        if left <= 0:
            return None
        return self._late(left) if is_late else self._exhausted(left, n_tried)

    def _n_left(self) -> int:
        """Return how many students may still begin."""
        n_begun = sum(CONTINUES not in self.record.trial(number).user_attrs for number, _ in self.running.values())
        return self.settings.trials - len(self._spent()) - n_begun

    def _revive(self, is_late: bool, is_last_call: bool) -> bool:
        """Submit a student that was stopped and is among the best by now; False when there is none.

        When it is late none goes on, unless nobody was trained in full.
        """
        if self.rungs is None or (is_late and any(not stopped_at(trial) for trial in self._complete())):
            return False
        trial = self.rungs.revive(is_last_call)
        if trial is not None:
            self._submit(trial.number, self.known.candidates.space.canonical(trial.params))
        return trial is not None

    def _complete(self) -> list[FrozenTrial]:
        """Return the trials that have a result."""
        return self.record.trials((TrialState.COMPLETE,))

    def _late(self, left: int) -> str:
        """Return one line that says that the time was spent with trials left."""
        trials, minutes = self.settings.trials, self.settings.minutes
        return f"time: {minutes:g} minutes are over; {trials - left} of {trials} trials used"

    def _exhausted(self, left: int, n_tried: int) -> str:
        """Return one line that says why the search ends with trials left."""
        size, trials = self.known.candidates.space.size, self.settings.trials
        if n_tried >= size:
            reason = f"all {size:,} students were tried"
        else:
            reason = f"{REJECTIONS} proposals in a row were tried before or cannot meet the constraints"
        return f"space exhausted: {reason}; {trials - left} of {trials} trials used"

    def _spent(self) -> list[FrozenTrial]:
        """Return the last trial of every student that counts against the budget: trained or failed."""
        return latest(self.record.trials((TrialState.COMPLETE, TrialState.FAIL)))

    def _propose(self, keys: set[str]) -> bool:
        """Ask until a candidate is new and can meet the constraints, and submit it; False when none is left."""
        space = self.known.candidates.space
        for _ in range(REJECTIONS):
            if len(keys) >= space.size:
                return False
            if self._consider(self.record.ask(space.distributions()), keys):
                return True
        if self._spent() or self.running:
            return False
        raise InfeasibleError(
            f"search: {REJECTIONS} proposals in a row cannot meet the constraints; the fastest student is "
            f"{self.known.fastest}. Relax a constraint or widen the space."
        )

    def _consider(self, trial: FrozenTrial, keys: set[str]) -> bool:
        """Submit an asked trial, or tell that it is not worth training; return which."""
        space = self.known.candidates.space
        genes = space.canonical(trial.params)
        reason = None if CONTINUES in trial.user_attrs else self._refusal(genes, keys)
        if reason is not None:
            self.record.tell(trial.number, None, TrialState.PRUNED, {"genes": genes, "reason": reason}, {})
            return False
        keys.add(space.key(genes))
        self._submit(trial.number, genes)
        return True

    def _refusal(self, genes: dict[str, Value], keys: set[str]) -> str | None:
        """Return why a candidate is not worth training, or None."""
        if self.known.candidates.space.key(genes) in keys:
            return "an equal student was trained before"
        if (miss := self.known.shortfall(genes, self.constraints)) == math.inf:
            return self.known.candidates.refusal(genes)
        if miss > 0:
            return f"predicted to miss a constraint by {miss:.0%} more than the predictor may err"
        return None

    def _submit(self, number: int, genes: dict[str, Value]) -> None:
        """Send a trial to a worker, to be trained in full or to its next rung."""
        spec = {
            "genes": genes,
            "seed": self.settings.seed,
            "train": self.settings.train.model_dump(mode="json"),
            "deliver": False,
            "timeout_s": self.settings.trial_timeout_s,
        }
        task = Task(f"trial-{number}", "train", spec)
        if self.rungs is not None:
            task = self.rungs.next_task(number, task)
        self.running[task.uid] = (number, genes)
        self.executor.submit(task)

    def _settle(self, outcome: Outcome) -> None:
        """Tell what became of a trial, or send it on to its next rung."""
        number, genes = self.running.pop(outcome.uid)
        if outcome.failure is not None:
            self._tell_failure(number, genes, outcome.failure)
            return
        assert outcome.value is not None
        if odd := _not_finite(outcome.value):
            self._tell_failure(number, genes, Failure("diverged", f"{odd}; it must be finite"))
        elif self.rungs is not None and self.rungs.settle(number, self._latency_ms(genes), outcome.value):
            self._submit(number, genes)
        else:
            self._tell(number, genes, outcome.value)

    def _tell(self, number: int, genes: dict[str, Value], value: Any) -> None:
        """Record a finished trial: measured accuracy and size, predicted latency."""
        metrics = {**self.known.metrics(genes), **value["metrics"]}
        attrs = {
            "genes": genes,
            "shape": self.known.candidates.describe(genes),
            "metrics": metrics,
            "predicted": [name for name in metrics if plain(name) == LATENCY],
            "curves": value["curves"],
            "reports": value["reports"],
            "seconds": value["seconds"],
        }
        if warning := self.known.warning(genes):
            attrs["extrapolated"] = warning
        if self.rungs is not None:
            attrs |= self.rungs.attrs(number, metrics[LATENCY], value)
            at_rungs = {row["rung"]: self._values({**metrics, "accuracy": row["accuracy"]}) for row in attrs["rungs"]}
            attrs[STEPS] = [(rung, values[0]) for rung, values in at_rungs.items()]
        violations = {str(c): c.violation(metrics, self.known.teacher) - self._tolerance(c) for c in self.constraints}
        self._finish(number, self._values(metrics), attrs, violations)

    def _values(self, metrics: Mapping[str, float]) -> list[float]:
        """Return the objectives' values."""
        return [metrics[objective.name] for objective in self.objectives]

    def _finish(
        self, number: int, values: list[float] | None, attrs: dict[str, Any], violations: dict[str, float]
    ) -> None:
        """Tell a trial, failed if it has no values, and give up what was kept for its next rung."""
        state = TrialState.FAIL if values is None else TrialState.COMPLETE
        if self.record.tell(number, values, state, attrs, violations):
            self.on_tell(self.record.trial(number))
        if self.rungs is not None and (values is None or not stopped_at(self.record.trial(number))):
            self.rungs.leave(number)

    def _latency_ms(self, genes: dict[str, Value]) -> float:
        """Return the predicted latency of a candidate, of several devices on the first."""
        return self.known.metrics(genes)[LATENCY]

    def _tolerance(self, constraint: Constraint) -> float:
        """Return by how much a bound may be missed: accuracy still grows when a finalist is trained in full."""
        return self.settings.tolerance if constraint.metric == "accuracy" else 0.0

    def _tell_failure(self, number: int, genes: dict[str, Value], failure: Failure) -> None:
        """Record a failed trial with its cause; stop the search when all fail alike."""
        attrs = {"genes": genes, "cause": failure.cause, "message": failure.message}
        self._finish(number, None, attrs, {})
        spent = self._spent()
        messages = {(t.user_attrs.get("cause"), _without_numbers(t.user_attrs.get("message", ""))) for t in spent}
        if len(spent) >= ALIKE and len(messages) == 1:
            raise StateError(
                f"search: the first {len(spent)} trials all failed alike ({failure.cause}): {failure.message}. "
                "Mend the cause, then continue with nas resume."
            )


def _not_finite(value: Any) -> str | None:
    """Return the first number of a result that is NaN or infinite, in words, or None."""
    numbers = [*value["metrics"].items(), *((name, n) for name, curve in value["curves"].items() for n in curve)]
    return next((f"{name} is {number}" for name, number in numbers if not math.isfinite(number)), None)


def _without_numbers(message: str) -> str:
    """Return a message with its numbers blanked: one cause may fail at another step or with another value."""
    return re.sub(r"\d[\d.e+-]*|\bnan\b|\binf\b", "#", message)
