import pytest

from nas import meter
from nas.executor import Failure, Task
from nas.meter import MeteredExecutor, Stopwatch
from tests.nas.phases import Formula

LAPS = {"build": 1.0, "train": 6.0, "export": 1.0, "score": 2.0, "measure": 4.0}


def spent(kind: str, slots: int) -> float:
    metered = MeteredExecutor(Formula(lambda task: {"seconds": LAPS}, slots))
    metered.submit(Task("a", kind, {}))  # type: ignore[arg-type]
    assert [outcome.uid for outcome in metered.wait(0)] == ["a"]
    return metered.totals()[0]


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
    assert metered.totals()[0] == 5.0


def test_a_stopwatch_adds_up_laps_of_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 2.0, 5.0, 6.0])
    monkeypatch.setattr(meter.time, "monotonic", lambda: next(now))
    clock = Stopwatch()
    for name in ("train", "score", "train"):
        clock.lap(name)
    assert clock.laps == {"train": 3.0, "score": 3.0}
