from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau

from nas.fidelity import SuccessiveHalving, kendall_tau
from nas.recipe import FidelitySettings
from search_spaces.errors import StateError


def halving(**changes: Any) -> SuccessiveHalving:
    settings = {"rungs": (0.1, 0.3, 1.0), "eta": 3.0, "buckets": 1, **changes}
    return SuccessiveHalving(FidelitySettings(**settings))


def decide(found: SuccessiveHalving, reports: list[tuple[float, float]], rung: float = 0.1) -> list[bool]:
    """Report (score, latency) one after the other; return what was decided of each at once."""
    decisions = []
    for number, (score, latency_ms) in enumerate(reports):
        found.report(number, rung, score, latency_ms)
        decisions.append(found.is_promoted(number, rung))
    return decisions


def test_a_worked_example_of_one_bucket() -> None:
    # 0, 1: fewer than three, so nobody goes on. 2: best of 3. 3, 4: dominated. 5: second of 6, of which two go on:
    # it is fast. 6: two of seven go on, and of the three that nobody dominates it is the fastest, an end of the front.
    reports = [(0.5, 2.0), (0.6, 2.0), (0.2, 2.0), (0.55, 2.0), (0.58, 2.0), (0.3, 1.5), (0.7, 1.0)]
    assert decide(halving(), reports) == [False, False, True, False, False, True, True]


def test_whoever_was_stopped_goes_on_when_it_is_among_the_best_later() -> None:
    found = halving()
    assert found.overlooked() == found.overlooked(is_last_call=True) == []
    assert decide(found, [(0.2, 1.0), (0.3, 1.0)]) == [False, False]
    assert found.overlooked() == []
    assert found.overlooked(is_last_call=True) == [(0, 0.1)]
    found.report(2, 0.1, 0.4, 1.0)
    assert found.overlooked() == [(0, 0.1)]
    found.report(0, 0.3, 0.1, 1.0)
    assert found.overlooked() == []
    assert found.overlooked(is_last_call=True) == [(0, 0.3)]
    found.report(0, 1.0, 0.1, 1.0)
    assert found.overlooked(is_last_call=True) == []


def test_the_highest_rung_comes_first() -> None:
    found = halving()
    decide(found, [(0.01 * i, 1.0) for i in range(12)])
    for number in range(3):
        found.report(number, 0.3, 0.01 * number, 1.0)
    assert found.overlooked() == [(0, 0.3), (3, 0.1)]


def test_of_equally_ranked_the_ends_go_on_then_the_better_score_then_the_earlier_trial() -> None:
    found = halving()
    for number, (score, latency_ms) in enumerate([(0.1, 4.0), (0.2, 3.0), (0.3, 2.0), (0.4, 1.0)]):
        found.report(number, 0.1, score, latency_ms)
    assert [found.is_promoted(number, 0.1) for number in range(4)] == [True, False, False, False]
    last = [found.is_promoted(number, 0.1, is_last_call=True) for number in range(4)]
    assert last == [True, False, False, True]
    equal = halving()
    assert decide(equal, [(0.5, 1.0)] * 4) == [False, False, False, False]
    assert [equal.is_promoted(number, 0.1) for number in range(4)] == [True, False, False, False]


def test_nobody_is_promoted_from_the_last_rung() -> None:
    assert decide(halving(), [(0.1, 1.0), (0.2, 1.0)], rung=1.0) == [False, False]


def test_rungs_are_judged_apart() -> None:
    found = halving()
    decide(found, [(0.1, 1.0), (0.2, 1.0), (0.3, 1.0), (0.4, 1.0), (0.5, 1.0), (0.6, 1.0)])
    found.report(5, 0.3, 0.9, 1.0)
    assert not found.is_promoted(5, 0.1)
    assert found.is_promoted(5, 0.3, is_last_call=True)  # it is the only one there


def test_a_bucket_protects_fast_students_that_are_worse_than_slow_ones() -> None:
    slow = [(0.25 - i / 64, 10.0 + i) for i in range(6)]
    fast = [(0.5 + i / 64, 1.0 + i / 8) for i in range(6)]  # of these the first dominates the others
    promoted = []
    for n_buckets in (1, 2):
        found = halving(buckets=n_buckets)
        decide(found, [*slow, *fast])
        promoted.append([n for n in range(12) if found.is_promoted(n, 0.1)])
    assert promoted == [[0, 4, 5, 6], [0, 5, 6, 7]]  # a third of all, or of each six


def test_the_order_of_the_reports_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    reports = list(enumerate(rng.random((40, 2)).tolist()))
    decisions = []
    for order in (reports, reports[::-1]):
        found = halving(buckets=3)
        for number, (score, latency_ms) in order:
            found.report(number, 0.1, score, latency_ms)
        decisions.append([found.is_promoted(number, 0.1) for number in range(40)])
    assert decisions[0] == decisions[1]
    assert 0 < sum(decisions[0]) < 20


def test_of_equal_reports_the_same_go_on_in_whatever_order_they_came() -> None:
    reports = [(0.1, 3.0)] * 4 + [(0.3, 1.0), (0.9, 9.0)]
    decisions = []
    for order in ((0, 1, 2, 3, 4, 5), (1, 0, 2, 3, 4, 5), (5, 2, 4, 3, 1, 0)):
        found = halving()
        for number in order:
            found.report(number, 0.1, *reports[number])
        decisions.append([number for number in range(6) if found.is_promoted(number, 0.1)])
    assert decisions == [[0, 3]] * 3  # both ends of the front


def both_ends(found: SuccessiveHalving, last: list[float]) -> None:
    for number, score in enumerate(last):
        found.report(number, 0.1, float(number), 1.0)
        found.report(number, 1.0, score, 1.0)


def test_a_rung_that_says_little_of_the_last_one_stops_fewer() -> None:
    loyal, fickle = halving(), halving()
    both_ends(loyal, [0, 1, 2, 3, 5, 4])
    both_ends(fickle, [5, 4, 0, 2, 3, 1])
    assert loyal.tau(0.1) == pytest.approx(13 / 15)  # one of fifteen pairs is the wrong way round
    assert (loyal.is_widened(0.1), loyal.eta(0.1)) == (False, 3.0)
    assert fickle.tau(0.1) == pytest.approx(-7 / 15)
    assert (fickle.is_widened(0.1), fickle.eta(0.1)) == (True, 1.5)
    kept = [[n for n in range(6) if found.is_promoted(n, 0.1)] for found in (loyal, fickle)]
    assert kept == [[0, 1], [0, 1, 2, 3]]
    assert not fickle.is_widened(1.0)


def test_a_few_pairs_widen_nothing_and_eta_never_falls_below_one_and_a_half() -> None:
    few, gentle, low = halving(), halving(eta=2.0), halving(eta=1.2)
    both_ends(few, [4, 3, 2, 1, 0])
    assert (few.tau(0.1), few.eta(0.1)) == (-1.0, 3.0)
    for found, eta in ((gentle, 1.5), (low, 1.2)):
        both_ends(found, [5, 4, 3, 2, 1, 0])
        assert found.eta(0.1) == eta


def test_the_rank_correlation_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        first, second = rng.integers(0, 6, (2, 12)).astype(float)
        assert kendall_tau(first, second) == pytest.approx(kendalltau(first, second).statistic)
    assert kendall_tau(np.ones(5), np.arange(5.0)) is None
    assert kendall_tau(np.ones(1), np.ones(1)) is None


def test_the_summary_has_a_row_for_every_rung() -> None:
    found = halving()
    both_ends(found, [5, 4, 3, 2, 1, 0])
    assert found.summary() == [
        {"rung": 0.1, "reached": 6, "tau": -1.0, "eta": 1.5, "widened": True},
        {"rung": 0.3, "reached": 0, "tau": None, "eta": 3.0, "widened": False},
        {"rung": 1.0, "reached": 6, "tau": None, "eta": 3.0, "widened": False},
    ]


def test_a_report_that_makes_no_sense_is_refused_and_changes_nothing() -> None:
    found = halving()
    with pytest.raises(StateError, match=r"trial 3: reported rung 0\.2; the rungs are 0\.1, 0\.3, 1\."):
        found.report(3, 0.2, 0.5, 1.0)
    with pytest.raises(StateError, match=r"trial 3: reported nan at 1\.0 ms"):
        found.report(3, 0.1, float("nan"), 1.0)
    assert found.reached(0.1) == 0
