"""How much of a search's time went into training and measuring, the only two things it is for."""

import time
from collections.abc import Sequence

from nas.bundle import Bundle
from nas.executor import Executor, Kind, Outcome, Task

PRODUCTIVE = ("train", "score", "measure")  # laps of `nas.trial` that are the search's purpose


class MeteredExecutor:
    """An executor that books the productive seconds of every task.

    Training tasks share the slots, so a second of one counts 1/slots; a measurement has the machine to itself and
    counts in full. Idle slots, start-up, export and bookkeeping are the rest.
    """

    def __init__(self, inner: Executor) -> None:
        """Wrap an executor; the clock starts with `start`."""
        self._inner = inner
        self._productive_s = 0.0
        self._started = time.monotonic()
        self._kinds: dict[str, Kind] = {}

    def connect(self, wait: bool = True) -> None:
        """Start the workers."""
        self._inner.connect(wait)

    def start(self, bundle: Bundle) -> None:
        """Start the executor and the clock."""
        self._started = time.monotonic()
        self._inner.start(bundle)

    def slots(self, kind: Kind) -> int:
        """Return the executor's slots."""
        return self._inner.slots(kind)

    def submit(self, task: Task) -> None:
        """Pass a task on."""
        self._kinds[task.uid] = task.kind
        self._inner.submit(task)

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Return what ended, after booking it."""
        outcomes = self._inner.wait(timeout_s)
        self._book(outcomes)
        return outcomes

    def close(self) -> None:
        """Close the executor."""
        self._inner.close()

    def overhead(self) -> float:
        """Return the share, 0..1, of the time since `start` that was neither training nor measuring."""
        return max(0.0, 1.0 - self._productive_s / max(time.monotonic() - self._started, 1e-9))

    def _book(self, outcomes: Sequence[Outcome]) -> None:
        """Add the productive seconds of ended tasks."""
        for outcome in outcomes:
            kind = self._kinds.pop(outcome.uid)
            if outcome.value is not None:
                laps = outcome.value["seconds"]
                seconds = sum(laps.get(name, 0.0) for name in PRODUCTIVE)
                self._productive_s += seconds / (self.slots("train") if kind == "train" else 1)
