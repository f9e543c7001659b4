import gc
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from nas.devices.timing import QUICK, Patience, Timing, median_interval, take_turns, time_call, time_calls

SHORT = Patience(width=0.5, rounds=(6, 8), attempts=2, block_ms=0.5)


def timing(medians_ms: list[float], disturbed: float = 0.0) -> Timing:
    return Timing(np.array(medians_ms), np.empty(0), np.array(medians_ms), disturbed)


@pytest.fixture
def busy_processor() -> Iterator[None]:
    """Share one processor with two processes that never rest."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system cannot pin a process to a processor")
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    yield
    for burner in burners:
        burner.kill()
        burner.wait()
    os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(("n", "low", "high"), [(6, 1, 6), (9, 2, 8), (20, 6, 15), (100, 40, 61)])
def test_the_interval_of_the_median_has_the_published_ranks(n: int, low: int, high: int) -> None:
    values = np.random.default_rng(0).permutation(np.arange(1, n + 1))
    assert median_interval(values) == (low, high)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_values_give_their_extremes(n: int) -> None:
    assert median_interval(np.arange(n)) == (0, n - 1)


def test_the_interval_covers_the_median_of_a_skewed_distribution_at_least_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    intervals = [median_interval(rng.exponential(size=15)) for _ in range(2000)]
    covered = np.mean([low <= np.log(2) <= high for low, high in intervals])
    assert covered >= 0.945


def test_reference_and_candidate_take_turns_in_blocks() -> None:
    calls: list[str] = []
    (result,) = take_turns([lambda: calls.append("candidate")], lambda: calls.append("reference"), SHORT)
    changes = [after for before, after in pairwise(calls) if after != before]
    assert len(result.medians_ms) == len(result.reference_ms)
    assert SHORT.rounds[0] <= len(result.medians_ms) <= SHORT.rounds[1]
    assert changes == ["candidate", *["reference", "candidate"] * len(result.medians_ms)]


def test_all_candidates_take_turns_and_leave_when_their_medians_are_known() -> None:
    calls: list[str] = []
    lengths = itertools.count(1)

    def steady() -> None:
        calls.append("steady")
        time.sleep(0.002)

    def slower_and_slower() -> None:
        calls.append("slower")
        time.sleep(0.0001 * next(lengths))

    def reference() -> None:
        calls.append("reference")
        time.sleep(0.002)

    patience = Patience(width=0.1, rounds=(6, 12), attempts=1, block_ms=1.0)
    first, second = take_turns([steady, slower_and_slower], reference, patience)
    rounds = [name for name, _ in itertools.groupby(calls)][3:]  # the first three are the warm-up
    n_steady, n_slower = len(first.medians_ms), len(second.medians_ms)
    both, alone = ["reference", "steady", "slower"], ["reference", "slower"]
    assert rounds == both * n_steady + alone * (n_slower - n_steady)
    assert n_steady < n_slower == 12
    assert first.reference_ms.tolist() == second.reference_ms.tolist()[:n_steady]
    assert 2.0 <= np.median(first.medians_ms) <= 2.5
    assert len(first.calls_ms) == calls.count("steady") - calls[: calls.index("slower")].count("steady") - 2 * n_steady


def test_only_what_is_off_is_timed_again_and_the_best_attempt_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    good, wide, wider = timing([1.0] * 9), timing(list(np.linspace(1, 2, 9))), timing(list(np.linspace(1, 3, 9)))
    contended = timing([1.0] * 9, disturbed=0.5)
    attempts = iter([[good, wider, contended], [wide, wide], [wider, good]])
    asked: list[Any] = []

    def take(candidates: Any, reference: Any, patience: Patience) -> list[Timing]:
        asked.append((candidates, reference))
        return next(attempts)

    monkeypatch.setattr("nas.devices.timing.take_turns", take)
    a, b, c, other = (lambda: 1), (lambda: 2), (lambda: 3), (lambda: 4)
    patience = Patience(width=0.02, rounds=(6, 8), attempts=3, block_ms=1.0)
    found = time_calls([a, b, c], other, patience)
    assert asked == [([a, b, c], other), ([b, c], other), ([b, c], other)]
    assert found[0] is good
    assert found[1] is wide  # the narrowest of three that are all too wide
    assert found[2] is good  # at last undisturbed


def test_without_a_reference_there_are_no_reference_times() -> None:
    (result,) = take_turns([lambda: sum(range(100))], None, SHORT)
    assert len(result.reference_ms) == 0
    assert len(result.calls_ms) >= len(result.medians_ms)


def test_the_garbage_collector_rests_during_the_turns_and_works_again_after_a_failure() -> None:
    seen: list[bool] = []

    def fail_late() -> None:
        seen.append(gc.isenabled())
        if len(seen) > 10:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        take_turns([fail_late], None, SHORT)
    assert not any(seen)
    assert gc.isenabled()


def test_one_outlier_moves_neither_the_median_nor_its_interval() -> None:
    calm = timing([1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 1.0, 1.01, 0.99])
    spiked = timing([1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 1.0, 10.0, 0.99])
    assert np.median(spiked.medians_ms) == np.median(calm.medians_ms)
    assert spiked.width == pytest.approx(calm.width, abs=0.01)


def test_two_processes_on_the_same_processor_are_noticed_after_every_attempt(busy_processor: None) -> None:
    attempts = time_call(lambda: sum(range(20_000)), None, QUICK)
    assert attempts.is_contended


def test_a_tenth_of_disturbed_blocks_is_tolerated() -> None:
    assert not timing([1.0], disturbed=0.1).is_contended
    assert timing([1.0], disturbed=0.11).is_contended


def test_the_lengths_of_a_mix_count_as_often_as_they_occur() -> None:
    def call(seconds: float) -> Callable[[], None]:
        return lambda: time.sleep(seconds)

    (mixed,) = take_turns([[(call(0.002), 0.75), (call(0.010), 0.25)]], call(0.002), SHORT)
    assert 4.0 <= np.median(mixed.medians_ms) <= 4.8  # 0.75 x 2 ms + 0.25 x 10 ms
    assert len(mixed.reference_ms) == len(mixed.medians_ms)
    assert mixed.percentile(50) < 3.0  # three calls of four take 2 ms
    assert mixed.percentile(95) > 9.9
