"""The way of a search's trials from rung to rung: which task comes next, and what is kept between two of them.

What a trial reached is its attribute ``rungs``, so who is promoted is a fold of the study; its weights lie in the run
folder until it is told. A running trial's rungs are those it was promoted from.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas.executor import Task
from nas.fidelity import SuccessiveHalving
from nas.files import atomic_write, run_path
from nas.recipe import FidelitySettings
from nas.record import FrozenTrial, Record


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
                    self.halving.report(trial.number, row["rung"], row["score"], row["latency_ms"])

    def next_task(self, number: int, whole: Task) -> Task:
        """Return the task that takes a running trial to its next rung.

        Args:
            number: Of the trial.
            whole: The task that would train it in one go.
        """
        rows = self._rows(number)
        blobs = self._left_by(number, rows)
        if blobs is None:  # all over again
            self._record.annotate(number, {"rungs": []})
            rows, blobs = [], {}
        span = [rows[-1]["rung"] if rows else 0.0, self.rungs[len(rows)]]
        return replace(whole, uid=f"{whole.uid}.{len(rows)}", spec={**whole.spec, "rung": span}, blobs=blobs)

    def settle(self, number: int, latency_ms: float, value: Mapping[str, Any]) -> bool:
        """Take down the result of a rung and return whether the trial goes on; if it does, it can be continued."""
        row = self._row(number, latency_ms, value)
        self.halving.report(number, row["rung"], row["score"], latency_ms)
        if not self.halving.is_promoted(number, row["rung"]):
            return False
        if "checkpoint" in value:
            atomic_write(self._path(number), value["checkpoint"])
        self._record.annotate(number, {"rungs": [*self._rows(number), row]})
        return True

    def attrs(self, number: int, latency_ms: float, value: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is told of a trial besides its last result: every rung, the last one reached, all seconds."""
        rows = [*self._rows(number), self._row(number, latency_ms, value)]
        names = dict.fromkeys(name for row in rows for name in row["seconds"])
        seconds = {name: sum(row["seconds"].get(name, 0.0) for row in rows) for name in names}
        return {"rungs": rows, "rung": rows[-1]["rung"], "seconds": seconds}

    def leave(self, number: int) -> None:
        """Remove the checkpoint of a trial that was told."""
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

    def _path(self, number: int) -> Path:
        """Return where the checkpoint of a trial lies."""
        return run_path(self._folder, f"t{number}.safetensors")

    def _left_by(self, number: int, rows: Sequence[Mapping[str, Any]]) -> dict[str, bytes] | None:
        """Return what the last rung left for the next one; None when it is lost, damaged, or of other rungs."""
        if [row["rung"] for row in rows] != list(self.rungs[: len(rows)]):
            return None
        digest = rows[-1]["checkpoint"] if rows else None
        if digest is None:  # nothing was trained yet
            return {}
        path = self._path(number)
        content = path.read_bytes() if path.is_file() else b""
        return {"checkpoint": content} if hashlib.sha256(content).hexdigest() == digest else None


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
