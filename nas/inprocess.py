"""The executor of tests and debugging: tasks run in this process, one after the other."""

from collections import deque

from nas.bundle import Bundle
from nas.executor import Kind, Outcome, Task
from nas.work import run_task


class InProcessExecutor:
    """Runs a task inside `wait`, one at a time, in this process: no isolation, no start-up time."""

    def __init__(self) -> None:
        """Begin with an empty queue and no bundle."""
        self._queue: deque[Task] = deque()
        self._bundle: Bundle | None = None

    def connect(self, wait: bool = True) -> None:
        """Do nothing: this process is the worker."""

    def start(self, bundle: Bundle) -> None:
        """Keep the bundle for every later task."""
        self._bundle = bundle

    def slots(self, kind: Kind) -> int:
        """Return 1: there is one process."""
        return 1

    def submit(self, task: Task) -> None:
        """Queue a task."""
        self._queue.append(task)

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Run the oldest task to its end, whatever the timeout."""
        if not self._queue:
            return []
        assert self._bundle is not None, "start() comes first"
        return [run_task(self._queue.popleft(), self._bundle)]

    def close(self) -> None:
        """Drop what is queued."""
        self._queue.clear()
