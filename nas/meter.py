"""How much of a search's time went into training and measuring, the only two things it is for."""

import time
from collections.abc import Mapping, Sequence

from nas.bundle import Bundle
from nas.executor import Executor, Kind, Outcome, Task

PRODUCTIVE = ("train", "score", "measure", "teacher")  # laps that are the search's purpose


class Stopwatch:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        """Start the clock."""
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        """Book the time since the last lap under a name."""
        now = time.monotonic()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now


class MeteredExecutor:
    """An executor that books the productive seconds of every task.

    Training tasks share the slots, so a second of one counts 1/slots; a measurement has the machine to itself and
    counts in full. Idle slots, start-up, export and bookkeeping are the rest.
    """

    def __init__(self, inner: Executor) -> None:
        """Wrap an executor; the clock starts now."""
        self._inner = inner
        self._productive_s = 0.0
        self._started = time.monotonic()
        self._kinds: dict[str, Kind] = {}

    def connect(self, wait: bool = True) -> None:
        """Start the workers."""
        self._inner.connect(wait)

    def start(self, bundle: Bundle) -> None:
        """Start the executor."""
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

    def add(self, laps: Mapping[str, float]) -> None:
        """Book the productive laps of work that was done on the driver."""
        self._productive_s += sum(laps.get(name, 0.0) for name in PRODUCTIVE)

    def totals(self) -> tuple[float, float]:
        """Return the productive seconds and all seconds since the beginning."""
        return self._productive_s, time.monotonic() - self._started

    def _book(self, outcomes: Sequence[Outcome]) -> None:
        """Add the productive seconds of ended tasks."""
        for outcome in outcomes:
            kind = self._kinds.pop(outcome.uid)
            if outcome.value is not None:
                laps = outcome.value["seconds"]
                seconds = sum(laps.get(name, 0.0) for name in PRODUCTIVE)
                self._productive_s += seconds / (self.slots("train") if kind == "train" else 1)
