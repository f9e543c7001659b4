from typing import Any

import pytest

from nas.executor import Failure, Outcome, Task
from nas.retry import RETRIES, RetryingExecutor


class Failing:
    """Ends every task at once with the same failure, and counts."""

    def __init__(self, cause: Any, times: int) -> None:
        self.cause, self.left, self.submitted, self.waiting = cause, times, 0, []

    def submit(self, task: Task) -> None:
        self.submitted += 1
        self.waiting.append(task.uid)

    def wait(self, timeout_s: float) -> list[Outcome]:
        uids, self.waiting = self.waiting, []
        self.left -= 1
        failure = Failure(self.cause, "lost") if self.left >= 0 else None
        return [Outcome(uid, None if failure else {}, failure) for uid in uids]


def run(cause: Any, times: int) -> tuple[list[Outcome], int]:
    inner = Failing(cause, times)
    executor = RetryingExecutor(inner)  # type: ignore[arg-type]
    executor.submit(Task("a", "train", {}))
    for _ in range(50):
        if outcomes := executor.wait(0):
            return outcomes, inner.submitted
    raise AssertionError("it never ended")


@pytest.mark.parametrize("cause", list(RETRIES))
def test_a_lost_worker_is_replaced_until_its_retries_are_used_up(cause: Any) -> None:
    (outcome,), submitted = run(cause, 1)
    assert outcome.value == {}
    assert submitted == 2
    (outcome,), submitted = run(cause, 100)
    assert outcome.failure is not None
    assert submitted == 1 + RETRIES[cause]


@pytest.mark.parametrize("cause", ["error", "diverged", "timeout"])
def test_what_a_task_did_wrong_is_not_repeated(cause: Any) -> None:
    (outcome,), submitted = run(cause, 1)
    assert outcome.failure is not None
    assert submitted == 1
