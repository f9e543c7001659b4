"""How much of a search's time went into training and measuring, the only two things it is for."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Totals:
    """Seconds since a meter began.

    Attributes:
        elapsed_s: All of them.
        productive_s: Those in which somebody trained or measured.
        worked_s: What the slots trained and measured: a second of a training task counts 1/slots, one of a
            measurement, which has the machine to itself, in full.
    """

    elapsed_s: float
    productive_s: float
    worked_s: float


class MeteredExecutor:
    """An executor that books when tasks were productive.

    A task's laps are taken to end when its outcome arrives; start-up, export and bookkeeping are the rest.
    """

    def __init__(self, inner: Executor) -> None:
        """Wrap an executor; the clock starts now."""
        self._inner = inner
        self._intervals: list[tuple[float, float]] = []
        self._worked_s = 0.0
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

    def add(self, laps: Mapping[str, float], share: float = 1.0) -> None:
        """Book laps, in their order, that end now; ``share`` is how much of the machine they had."""
        end = time.monotonic()
        for name, seconds in reversed(list(laps.items())):
            if name in PRODUCTIVE:
                self._intervals.append((end - seconds, end))
                self._worked_s += seconds * share
            end -= seconds

    def totals(self) -> Totals:
        """Return the seconds since the beginning."""
        return Totals(time.monotonic() - self._started, _covered(self._intervals), self._worked_s)

    def _book(self, outcomes: Sequence[Outcome]) -> None:
        """Add the laps of ended tasks."""
        for outcome in outcomes:
            kind = self._kinds.pop(outcome.uid)
            if outcome.value is not None:
                self.add(outcome.value["seconds"], 1 / self.slots("train") if kind == "train" else 1.0)


def _covered(intervals: Sequence[tuple[float, float]]) -> float:
    """Return the length of the union of intervals."""
    total, reached = 0.0, -math.inf
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
