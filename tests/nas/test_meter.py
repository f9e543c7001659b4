import pytest

from nas import meter
from nas.executor import Failure, Task
from nas.meter import MeteredExecutor, Stopwatch, _covered
from tests.nas.phases import Formula

LAPS = {"build": 1.0, "train": 6.0, "export": 1.0, "score": 2.0, "measure": 4.0}


def spent(kind: str, slots: int) -> float:
    metered = MeteredExecutor(Formula(lambda task: {"seconds": LAPS}, slots))
    metered.submit(Task("a", kind, {}))  # type: ignore[arg-type]
    assert [outcome.uid for outcome in metered.wait(0)] == ["a"]
    return metered.totals().worked_s


@pytest.mark.parametrize(("kind", "slots", "seconds"), [("train", 1, 12), ("train", 4, 3), ("measure", 4, 12)])
def test_a_training_second_counts_by_its_share_of_the_slots_and_a_measuring_one_in_full(
    kind: str, slots: int, seconds: float
) -> None:
    assert spent(kind, slots) == pytest.approx(seconds)


def test_a_failure_and_an_empty_wait_book_nothing_and_work_of_the_driver_counts() -> None:
    metered = MeteredExecutor(Formula(lambda task: Failure("error", "bad luck")))
    metered.submit(Task("a", "train", {}))
    assert metered.wait(0)[0].failure is not None
    assert metered.wait(0) == []
    metered.add({"teacher": 5.0, "data": 100.0})
    assert metered.totals().worked_s == 5.0


def test_a_stopwatch_adds_up_laps_of_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 2.0, 5.0, 6.0])
    monkeypatch.setattr(meter.time, "monotonic", lambda: next(now))
    clock = Stopwatch()
    for name in ("train", "score", "train"):
        clock.lap(name)
    assert clock.laps == {"train": 3.0, "score": 3.0}


def test_time_counts_once_however_many_work_and_slots_count_each() -> None:
    meter = MeteredExecutor(Formula(lambda task: {"seconds": dict(task.spec)}, 2))
    for uid in ("a", "b"):
        meter.submit(Task(uid, "train", {"build": 1.0, "train": 10.0}))
    meter.wait(0.0)
    meter.wait(0.0)
    totals = meter.totals()
    assert totals.worked_s == pytest.approx(10.0)
    assert totals.productive_s == pytest.approx(10.0, abs=0.1)


def test_laps_lie_one_after_the_other_and_the_last_ends_now() -> None:
    meter = MeteredExecutor(Formula(lambda task: {"seconds": dict(task.spec)}, 2))
    meter.submit(Task("a", "measure", {"measure": 3.0, "export": 5.0}))
    meter.submit(Task("b", "train", {"train": 4.0}))  # while the other one exported: productive all the same
    meter.wait(0.0)
    meter.wait(0.0)
    assert meter.totals().productive_s == pytest.approx(7.0, abs=0.1)
    assert meter.totals().worked_s == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("intervals", "seconds"), [([], 0), ([(0, 2), (5, 6)], 3), ([(1, 4), (0, 2), (3, 9)], 9), ([(0, 9), (2, 3)], 9)]
)
def test_the_union_of_intervals_has_the_right_length(intervals: list[tuple[float, float]], seconds: float) -> None:
    assert _covered(intervals) == seconds
