from collections.abc import Collection
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


class Board(Failing):
    """Ends one task at a time; of some it says nothing, and the others it measures."""

    def __init__(self, silent: Collection[str]) -> None:
        super().__init__("no_answer", 0)
        self.silent, self.asked = silent, list[str]()

    def wait(self, timeout_s: float) -> list[Outcome]:
        if not self.waiting:
            return []
        self.asked.append(uid := self.waiting.pop(0))
        failure = Failure("no_answer", f"device 'pi5': no answer to {uid}.") if uid in self.silent else None
        return [Outcome(uid, None if failure else {}, failure)]


def measured(board: Board, *uids: str, device: str = "") -> dict[str, Failure | None]:
    executor = RetryingExecutor(board)  # type: ignore[arg-type]
    for uid in uids:
        executor.submit(Task(uid, "measure", {}, device=device if uid in board.silent else ""))
    ended = [outcome for _ in range(50) for outcome in executor.wait(0)]
    return {outcome.uid: outcome.failure for outcome in ended}


def test_a_device_that_answers_to_others_is_asked_again_and_stays_in_use() -> None:
    board = Board("c")
    found = measured(board, *"abcdef")
    assert "".join(board.asked) == "abcdefcc"
    assert found.pop("c") == Failure("no_answer", "device 'pi5': no answer to c.")
    assert set(found.values()) == {None}


def test_a_device_without_an_answer_three_times_in_a_row_is_given_up_whoever_asked() -> None:
    board = Board("bcd")
    found = measured(board, *"abcd")
    assert found["a"] is None
    given_up = found["d"]
    assert given_up is not None
    assert given_up.cause == "given_up"
    assert given_up.message.startswith("after 3 measurements in a row without an answer; the last: device 'pi5': no")
    assert given_up.message.endswith("Try the device with: nas devices")


def test_a_silent_device_is_given_up_though_another_one_answers() -> None:
    found = measured(Board("b"), *"abc", device="phone")
    given_up = found.pop("b")
    assert given_up is not None
    assert given_up.cause == "given_up"
    assert set(found.values()) == {None}


@pytest.mark.parametrize("cause", ["error", "diverged", "timeout"])
def test_what_a_task_did_wrong_is_not_repeated(cause: Any) -> None:
    (outcome,), submitted = run(cause, 1)
    assert outcome.failure is not None
    assert submitted == 1
