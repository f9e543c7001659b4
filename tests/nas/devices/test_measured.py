"""Several processes that measured one artefact, taken as one measurement."""

from itertools import combinations

import numpy as np
import pytest

from nas.devices.base import Measurement
from nas.devices.measured import pooled

TRUTH_MS = 2.0


def measurement(median_ms: float, own: float, **figures: float | bool | None) -> Measurement:
    """One process, which knows its own median to a share of ``own``."""
    told = {"p95_ms": 3.0, "n": 10, "reference_ms": 4.0, "speedup": 2.0, "contended": False, "noisy": False}
    told |= {"load_ms": 5.0, "size_bytes": 6, **figures}
    return Measurement(median_ms, low_ms=median_ms * (1 - own), high_ms=median_ms * (1 + own), **told)


def sessions(n: int, starts: int, between: float, within: float) -> list[Measurement]:
    """Sessions of a device whose processes differ by a standard deviation, each of which sees itself with an error."""
    rng = np.random.default_rng(0)
    medians = TRUTH_MS * np.exp(rng.normal(0, between, (n, starts)) + rng.normal(0, within, (n, starts)))
    return [pooled([measurement(ms, 1.96 * within) for ms in each]) for each in medians.tolist()]


def covers(each: Measurement) -> bool:
    return each.low_ms <= TRUTH_MS <= each.high_ms


@pytest.mark.parametrize(("between", "within"), [(0.02, 0.005), (0.02, 0.0), (0.01, 0.01), (0.0, 0.01)])
@pytest.mark.parametrize("starts", [2, 3, 5])
def test_the_interval_of_several_processes_covers_their_mean_at_least_95_times_in_100(
    between: float, within: float, starts: int
) -> None:
    seen = sessions(2000, starts, between, within)
    assert np.mean([covers(each) for each in seen]) >= 0.94


def test_two_sessions_agree_where_single_processes_do_not() -> None:
    rates = {}
    for starts in (1, 3):
        pairs = list(combinations(sessions(60, starts, 0.02, 0.005), 2))
        rates[starts] = np.mean([a.low_ms <= b.high_ms and b.low_ms <= a.high_ms for a, b in pairs])
    assert rates[3] >= 0.95
    assert rates[1] < 0.7


def test_one_process_is_taken_as_it_is() -> None:
    seen = measurement(2.0, 0.02)
    assert pooled([seen]) == seen


def test_processes_that_agree_better_than_they_know_themselves_are_no_more_certain_together() -> None:
    seen = pooled([measurement(2.0, 0.02)] * 3)
    assert seen.median_ms == pytest.approx(2.0)
    assert seen.low_ms < 2.0 * 0.98
    assert seen.high_ms > 2.0 * 1.02


def test_what_a_device_knows_exactly_stays_exact() -> None:
    seen = pooled([measurement(2.0, 0.0)] * 3)
    assert (seen.low_ms, seen.high_ms) == (pytest.approx(2.0), pytest.approx(2.0))


def test_the_interval_of_the_speed_up_is_over_processes_too_and_narrow_where_only_the_machine_drifts() -> None:
    rng = np.random.default_rng(0)
    starts = []
    for drift in rng.uniform(1, 1.6, 3).tolist():  # slows student and teacher alike
        ratio = 8.0 * float(np.exp(rng.normal(0, 0.005)))
        ends = {"speedup": ratio, "speedup_low": ratio * 0.99, "speedup_high": ratio * 1.01}
        starts.append(measurement(2.0 * drift, 0.01, reference_ms=16.0 * drift, **ends))
    seen = pooled(starts)
    assert seen.speedup is not None
    assert seen.speedup_low is not None
    assert seen.speedup_high is not None
    assert seen.speedup_low <= 8.0 <= seen.speedup_high
    assert (seen.speedup_high - seen.speedup_low) / seen.speedup < 0.05 < (seen.high_ms - seen.low_ms) / seen.median_ms


def test_without_an_interval_of_some_process_there_is_none_of_the_speed_up() -> None:
    seen = pooled([measurement(2.0, 0.01, speedup_low=1.9, speedup_high=2.1), measurement(2.0, 0.01)])
    assert (seen.speedup, seen.speedup_low, seen.speedup_high) == (2.0, None, None)


def test_figures_are_the_middle_ones_calls_are_counted_and_doubts_are_kept() -> None:
    seen = pooled(
        [
            measurement(2.0, 0.01, p95_ms=3.0, reference_ms=4.0, speedup=2.0, load_ms=1.0),
            measurement(2.1, 0.01, p95_ms=9.0, reference_ms=5.0, speedup=2.5, load_ms=2.0, contended=True),
            measurement(2.2, 0.01, p95_ms=5.0, reference_ms=6.0, speedup=9.0, load_ms=9.0, noisy=True),
        ]
    )
    assert (seen.p95_ms, seen.reference_ms, seen.speedup, seen.load_ms) == (5.0, 5.0, 2.5, 2.0)
    assert (seen.n, seen.starts, seen.contended, seen.noisy) == (30, 3, True, True)
    assert seen.median_ms == pytest.approx((2.0 * 2.1 * 2.2) ** (1 / 3))
    assert (seen.p99_ms, Measurement.from_json(seen.to_json())) == (None, seen)
