from dataclasses import replace

import pytest

from nas.devices.base import Measurement
from nas.devices.verdict import verdict

BEFORE = Measurement(
    median_ms=2.0,
    p95_ms=2.2,
    low_ms=1.98,
    high_ms=2.02,
    n=100,
    reference_ms=None,
    speedup=None,
    contended=False,
    noisy=False,
    load_ms=5.0,
    size_bytes=1000,
)


def at(median_ms: float, **changes: object) -> Measurement:
    return replace(BEFORE, median_ms=median_ms, low_ms=0.99 * median_ms, high_ms=1.01 * median_ms, **changes)


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (at(1.0), "2.00x faster: 2 -> 1 ms"),
        (at(3.0), "1.50x slower here: 2 -> 3 ms"),
        (at(1.99), "no difference: 2 -> 1.99 ms, the 95 % intervals overlap"),
        (at(2.03), "no difference: 2 -> 2.03 ms, the 95 % intervals overlap"),
        (replace(at(1.0), high_ms=1.98), "no difference: 2 -> 1 ms, the 95 % intervals overlap"),
    ],
)
def test_only_what_the_intervals_allow_is_a_difference(after: Measurement, words: str) -> None:
    assert verdict(BEFORE, after) == words


def test_a_slower_machine_is_taken_out_by_the_reference_of_both() -> None:
    before, after = replace(BEFORE, reference_ms=4.0), at(3.0, reference_ms=6.0)
    assert verdict(before, after).startswith("no difference: 3 -> 3 ms")
    assert verdict(before, at(3.0, reference_ms=12.0)).startswith("2.00x faster: 6 -> 3 ms")
    assert verdict(before, at(3.0)).startswith("1.50x slower")


def test_doubtful_measurements_are_called_so() -> None:
    assert verdict(BEFORE, at(1.0, contended=True)).endswith("ms (contended measurement)")
    assert verdict(replace(BEFORE, noisy=True), at(1.0, contended=True)).endswith("(contended and noisy measurement)")
