import pytest

from nas.executor import Outcome, Task
from nas.inprocess import InProcessExecutor
from nas.meter import MeteredExecutor, _covered


class Later(InProcessExecutor):
    """Two slots; every task ends at once and says what it took."""

    def slots(self, kind: str) -> int:
        return 2

    def submit(self, task: Task) -> None:
        self.done = [*getattr(self, "done", []), Outcome(task.uid, value={"seconds": dict(task.spec)})]

    def wait(self, timeout_s: float) -> list[Outcome]:
        found, self.done = self.done, []
        return found


def test_time_counts_once_however_many_work_and_slots_count_each() -> None:
    meter = MeteredExecutor(Later())
    for uid in ("a", "b"):
        meter.submit(Task(uid, "train", {"build": 1.0, "train": 10.0}))
    meter.wait(0.0)
    totals = meter.totals()
    assert totals.worked_s == pytest.approx(10.0)
    assert totals.productive_s == pytest.approx(10.0, abs=0.1)


def test_laps_lie_one_after_the_other_and_the_last_ends_now() -> None:
    meter = MeteredExecutor(Later())
    meter.submit(Task("a", "measure", {"measure": 3.0, "export": 5.0}))
    meter.submit(Task("b", "train", {"train": 4.0}))  # while the other one exported: productive all the same
    meter.wait(0.0)
    assert meter.totals().productive_s == pytest.approx(7.0, abs=0.1)
    assert meter.totals().worked_s == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("intervals", "seconds"), [([], 0), ([(0, 2), (5, 6)], 3), ([(1, 4), (0, 2), (3, 9)], 9), ([(0, 9), (2, 3)], 9)]
)
def test_the_union_of_intervals_has_the_right_length(intervals: list[tuple[float, float]], seconds: float) -> None:
    assert _covered(intervals) == seconds
