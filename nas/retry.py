"""Trying a task again by cause: when its worker was lost, or its device gave no answer.

What the task itself did wrong is never repeated, and a device that stays silent is given up, whichever workers asked.
"""

from collections import Counter

from nas.bundle import Bundle
from nas.executor import Cause, Executor, Failure, Kind, Outcome, Task

RETRIES: dict[Cause, int] = {"worker_died": 2, "out_of_memory": 2, "node_lost": 10, "no_answer": 2}
GIVEN_UP = 3  # measurements in a row without an answer: the device is asked no more


class RetryingExecutor:
    """An executor whose outcomes are final: tasks are stateless, so a lost one is simply run again."""

    def __init__(self, inner: Executor) -> None:
        """Wrap an executor."""
        self._inner = inner
        self._tasks: dict[str, Task] = {}
        self._tries: Counter[tuple[str, Cause]] = Counter()
        self._unanswered = Counter[str]()  # measurements in a row, by device

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
        """Pass a task on and remember it."""
        self._tasks[task.uid] = task
        self._inner.submit(task)

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Return what ended for good; what is worth another try is submitted again."""
        outcomes = map(self._counted, self._inner.wait(timeout_s))
        return [outcome for outcome in outcomes if not self._is_tried_again(outcome)]

    def close(self) -> None:
        """Close the executor."""
        self._inner.close()

    def _counted(self, outcome: Outcome) -> Outcome:
        """Return an outcome, after counting measurements without an answer; too many in a row are another failure."""
        task, failure = self._tasks[outcome.uid], outcome.failure
        if task.kind == "train":
            return outcome
        if failure is None:
            self._unanswered[task.device] = 0
        if failure is None or failure.cause != "no_answer":
            return outcome
        self._unanswered[task.device] += 1
        n_silent = self._unanswered[task.device]
        if n_silent < GIVEN_UP:
            return outcome
        words = f"after {n_silent} measurements in a row without an answer; the last: {failure.message}"
        return Outcome(outcome.uid, failure=Failure("given_up", f"{words} Try the device with: nas devices"))

    def _is_tried_again(self, outcome: Outcome) -> bool:
        """Submit a lost task again if its cause allows one more try; return whether it did."""
        if outcome.failure is not None:
            key = (outcome.uid, outcome.failure.cause)
            if self._tries[key] < RETRIES.get(outcome.failure.cause, 0):
                self._tries[key] += 1
                self._inner.submit(self._tasks[outcome.uid])
                return True
        del self._tasks[outcome.uid]
        return False
