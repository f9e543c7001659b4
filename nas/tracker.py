"""What a search tells the outside world: the protocol between the search and MLflow, and a tracker that does nothing.

A tracker mirrors the study and never decides anything; its failure is a warning, never a failed search.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

State = Literal["finished", "failed", "killed"]


@dataclass(frozen=True)
class TrialRun:
    """One ended trial as a tracker sees it.

    Attributes:
        number: Of the Optuna trial.
        name: Readable and unique within the search, e.g. ``trial-0017``.
        state: ``finished`` or ``failed``.
        params: Genes, flat.
        metrics: Objectives and all else that was measured; finite floats.
        curves: Per-epoch values, name -> list; index is the epoch.
        tags: Cause of failure, what is predicted and not measured, etc.
        folder: Files to attach (a finalist's student folder), or None.
    """

    number: int
    name: str
    state: State
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None


class Tracker(Protocol):
    """Mirrors a search; every call is idempotent, so a resumed search may repeat them."""

    def start(self, name: str, params: Mapping[str, Any], run_id: str | None) -> str | None:
        """Open the parent run, or reopen ``run_id``; return its id, None when nothing is tracked."""
        ...

    def log_trial(self, trial: TrialRun) -> None:
        """Record one child run; a run of the same name under this parent is not written twice."""
        ...

    def log_summary(self, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        """Record figures and files on the parent run."""
        ...

    def finish(self, state: State) -> None:
        """Close the parent run."""
        ...


class NullTracker:
    """Tracks nothing."""

    def start(self, name: str, params: Mapping[str, Any], run_id: str | None) -> str | None:
        """Return None."""
        return None

    def log_trial(self, trial: TrialRun) -> None:
        """Do nothing."""

    def log_summary(self, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        """Do nothing."""

    def finish(self, state: State) -> None:
        """Do nothing."""
