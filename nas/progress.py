"""What a search says while it runs: the protocol between the search and a terminal, and a silent listener."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class FrontRow:
    """One student of the present front; ``latency_ms`` is predicted unless ``measured``."""

    name: str
    accuracy: float
    latency_ms: float
    size_bytes: float
    shape: str
    measured: bool


@dataclass(frozen=True)
class Snapshot:
    """The search at one moment: what a live display shows.

    Attributes:
        phase: ``prepare``, ``profile``, ``search`` or ``finalize``, or a slow part of one, in words.
        done, total: Progress of the phase in its own unit (measurements, trials, training runs); total 0 = unknown.
        running, failed: Trials running and failed.
        front: Best first (by accuracy).
        teacher: The baseline's row, or None before it is measured.
        left_s: After so many seconds nothing new is begun, whatever is left to do.
    """

    phase: str
    done: int = 0
    total: int = 0
    running: int = 0
    failed: int = 0
    front: Sequence[FrontRow] = ()
    teacher: FrontRow | None = None
    left_s: float = math.inf


class Progress(Protocol):
    """Shows a search to a person."""

    def say(self, line: str) -> None:
        """Print one line of news, e.g. ``teacher: accuracy .893, 5.71 ms``."""
        ...

    def warn(self, line: str) -> None:
        """Print one warning."""
        ...

    def show(self, snapshot: Snapshot) -> None:
        """Update the live display; called often, must be cheap."""
        ...

    def close(self) -> None:
        """Leave the terminal tidy; idempotent."""
        ...


class Silent:
    """Shows nothing; for tests and for embedding in other programs."""

    def say(self, line: str) -> None:
        """Do nothing."""

    def warn(self, line: str) -> None:
        """Do nothing."""

    def show(self, snapshot: Snapshot) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""
