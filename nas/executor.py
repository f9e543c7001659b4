"""Where tasks run: what a task and its outcome are, and the protocol between the search and whatever runs them.

A task is stateless: JSON and bytes in, JSON and bytes out; what all tasks share (weights, tokens, teacher outputs)
is the bundle, handed over once. A task never writes the study or the tracker.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from nas.bundle import Bundle

Kind = Literal["train", "measure"]
Cause = Literal["error", "diverged", "worker_died", "out_of_memory", "timeout", "node_lost", "no_answer", "given_up"]


@dataclass(frozen=True)
class Task:
    """One unit of work.

    Attributes:
        uid: Unique within the executor's life; an outcome carries it back.
        kind: ``train`` needs CPUs or GPUs, ``measure`` an exclusive slot on the device.
        spec: JSON values only.
        blobs: Binary inputs, e.g. artefacts to measure.
        device: On which of several devices to measure; the only one is called "".
    """

    uid: str
    kind: Kind
    spec: Mapping[str, Any]
    blobs: Mapping[str, bytes] = field(default_factory=dict)
    device: str = ""


@dataclass(frozen=True)
class Failure:
    """Why a task gave no result; ``cause`` decides whether it is tried again, ``message`` is one line for people."""

    cause: Cause
    message: str


@dataclass(frozen=True)
class Outcome:
    """What became of a task: exactly one of ``value`` (JSON values and bytes) and ``failure`` is set."""

    uid: str
    value: Mapping[str, Any] | None = None
    failure: Failure | None = None


class Executor(Protocol):
    """Runs tasks somewhere; used by one driver thread."""

    def connect(self, wait: bool = True) -> None:
        """Start the workers; without waiting, in the background, and `start` waits for them."""
        ...

    def start(self, bundle: Bundle) -> None:
        """Hand over what all tasks share; called once, before the first task."""
        ...

    def slots(self, kind: Kind) -> int:
        """Return how many tasks of a kind can run at once when nothing else runs; at least 1."""
        ...

    def submit(self, task: Task) -> None:
        """Begin a task; returns at once."""
        ...

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Return the tasks that ended, at least one unless the time ran out; [] when none runs."""
        ...

    def close(self) -> None:
        """Cancel what runs and free everything; idempotent."""
        ...
