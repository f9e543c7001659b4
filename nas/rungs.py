"""The way of a search's trials from rung to rung: which task comes next, and what is kept between two of them.

What a trial reached is its attribute ``rungs``, so who is promoted is a fold of the study. A running trial's rungs are
those it was promoted from. Whoever is not promoted is told as stopped, so that the strategy learns of it at once; if it
is among the best later on, a new trial, which says whom it ``continues``, goes on from its weights. These lie in the
run folder, those of the last few stopped only: a student whose weights are gone is trained in one go from its
beginning to the rung it was on its way to.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from nas.executor import Task
from nas.fidelity import SuccessiveHalving
from nas.files import atomic_write, run_path
from nas.recipe import FidelitySettings
from nas.record import FrozenTrial, Record

CONTINUES = "continues"  # attribute of a trial: the first trial of the same student
KEPT = 24  # checkpoints of stopped students; of a large one each is 100 MB and more


class Rungs:
    """The rungs of one search in progress."""

    def __init__(self, settings: FidelitySettings, record: Record, folder: Path) -> None:
        """Read what the study's trials have reported.

        Args:
            settings: Which rungs there are and how many go on.
            record: The study; running trials are annotated.
            folder: Where checkpoints are kept, made when it is needed.
        """
        self.rungs = settings.rungs
        self.halving = SuccessiveHalving(settings)
        self._record, self._folder = record, folder
        for trial in record.trials():
            for row in trial.user_attrs.get("rungs", []):
                if row["rung"] in self.rungs:  # not when the recipe was changed meanwhile
                    self.halving.report(student_of(trial), row["rung"], row["score"], row["latency_ms"])

    def revive(self, is_last_call: bool) -> FrozenTrial | None:
        """Return a new running trial that continues a stopped student which may go on now; None when there is none.

        Args:
            is_last_call: No more students will begin.
        """
        last = {student_of(trial): trial for trial in latest(self._record.trials())}
        for student, rung in self.halving.overlooked(is_last_call):
            trial = last[student]
            if trial.state == TrialState.COMPLETE and trial.user_attrs["rung"] == rung:
                attrs = {CONTINUES: student, "rungs": trial.user_attrs["rungs"]}
                return self._record.repeat(trial.number, attrs)
        return None

    def next_task(self, number: int, whole: Task) -> Task:
        """Return the task that takes a running trial to its next rung.

        Args:
            number: Of the trial.
            whole: The task that would train it in one go.
        """
        rows = self._rows(number)
        if [row["rung"] for row in rows] != list(self.rungs[: len(rows)]):  # the recipe was changed: all over again
            self._record.annotate(number, {"rungs": []})
            rows = []
        weights = self._left_by(number, rows)
        span = [rows[-1]["rung"] if weights else 0.0, self.rungs[len(rows)]]
        blobs = {"checkpoint": weights} if weights else {}
        return replace(whole, uid=f"{whole.uid}.{len(rows)}", spec={**whole.spec, "rung": span}, blobs=blobs)

    def settle(self, number: int, latency_ms: float, value: Mapping[str, Any]) -> bool:
        """Take down the result of a rung and return whether the trial goes on at once; either way it can."""
        row, student = self._row(number, latency_ms, value), self._student(number)
        self.halving.report(student, row["rung"], row["score"], latency_ms)
        if "checkpoint" in value:
            atomic_write(self._path(number), value["checkpoint"])
            self._make_room()
        if not self.halving.is_promoted(student, row["rung"]):
            return False
        self._record.annotate(number, {"rungs": [*self._rows(number), row]})
        return True

    def attrs(self, number: int, latency_ms: float, value: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is told of a trial besides its last result: every rung, the last one reached, all seconds."""
        rows = [*self._rows(number), self._row(number, latency_ms, value)]
        names = dict.fromkeys(name for row in rows for name in row["seconds"])
        seconds = {name: sum(row["seconds"].get(name, 0.0) for row in rows) for name in names}
        return {"rungs": rows, "rung": rows[-1]["rung"], "seconds": seconds}

    def leave(self, number: int) -> None:
        """Remove the checkpoint of a trial that will not go on."""
        self._path(number).unlink(missing_ok=True)

    def _rows(self, number: int) -> list[dict[str, Any]]:
        """Return what a running trial was promoted from."""
        return list(self._record.trial(number).user_attrs.get("rungs", []))

    def _row(self, number: int, latency_ms: float, value: Mapping[str, Any]) -> dict[str, Any]:
        """Return the result of a rung as it is kept with the trial."""
        weights = value.get("checkpoint")
        return {
            "rung": self.rungs[len(self._rows(number))],
            "score": value["score"],
            "accuracy": value["metrics"]["accuracy"],
            "latency_ms": latency_ms,
            "seconds": value["seconds"],
            "checkpoint": hashlib.sha256(weights).hexdigest() if weights is not None else None,
        }

    def _student(self, number: int) -> int:
        """Return the first trial of the same student."""
        return student_of(self._record.trial(number))

    def _path(self, number: int) -> Path:
        """Return where the checkpoint of a trial's student lies."""
        return run_path(self._folder, f"t{self._student(number)}.safetensors")

    def _make_room(self) -> None:
        """Remove the oldest checkpoints of stopped students when there are many."""
        running = {self._path(trial.number) for trial in self._record.running()}
        stopped = [path for path in self._folder.iterdir() if path not in running]
        for path in sorted(stopped, key=lambda path: path.stat().st_mtime_ns)[:-KEPT]:
            path.unlink()

    def _left_by(self, number: int, rows: Sequence[Mapping[str, Any]]) -> bytes:
        """Return the weights that the last rung left for the next one; nothing where none were trained or kept."""
        path = self._path(number)
        content = path.read_bytes() if rows and path.is_file() else b""
        return content if rows and hashlib.sha256(content).hexdigest() == rows[-1]["checkpoint"] else b""


def student_of(trial: FrozenTrial) -> int:
    """Return the number of the first trial of the same student."""
    return int(trial.user_attrs.get(CONTINUES, trial.number))


def latest(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the last trial of every student, in the order of their numbers."""
    found = {student_of(trial): trial for trial in sorted(trials, key=lambda trial: trial.number)}
    return sorted(found.values(), key=lambda trial: trial.number)


def stopped_at(trial: FrozenTrial) -> str:
    """Return where a trial was stopped early in words, e.g. ``stopped at 10 %``; empty when it was trained in full."""
    rung = trial.user_attrs.get("rung", 1.0)
    return f"stopped at {100 * rung:g} %" if rung < 1.0 else ""


def trained_in_full(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that reached the last rung, or all if none did: accuracies compare at one rung only."""
    return [trial for trial in trials if not stopped_at(trial)] or list(trials)


def in_words(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one line a rung of `SuccessiveHalving.summary` for people."""
    return [
        f"rung {100 * row['rung']:g} %: {row['reached']} trials reached it"
        + (f", rank correlation with the last rung {row['tau']:.2f}" if row["tau"] is not None else "")
        + (f"; too low, so it stopped fewer (eta {row['eta']:g})" if row["widened"] else "")
        for row in rows
    ]
