import numpy as np
import pytest
from scipy import stats

from nas.goodness import errors, ranks, report_on, spearman


def test_ranks_and_their_correlation_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 30).astype(float), rng.random(30)
    np.testing.assert_array_equal(ranks(a), stats.rankdata(a))
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)


def test_equal_values_have_no_rank_correlation() -> None:
    assert spearman(np.ones(3), np.arange(3.0)) == 0.0


def test_the_share_within_ten_percent_counts_both_sides() -> None:
    found = errors(np.array([1.09, 0.91, 1.2, 0.5]), np.ones(4))
    assert found["within_10"] == 0.5
    assert found["mape"] == pytest.approx((0.09 + 0.09 + 0.2 + 0.5) / 4)


def test_an_error_beyond_all_bounds_counts_as_one_of_a_hundred_percent() -> None:
    found = errors(np.array([1.0, 0.5, 900.0]), np.ones(3))
    assert found["median"] == 0.5
    assert (found["mape"], found["bounded"]) == (pytest.approx(899.5 / 3), pytest.approx(1.5 / 3))


def test_a_report_is_over_all_rows_and_for_each_variant() -> None:
    report = report_on(np.array([1.0, 2.1, 3.0]), np.array([1.0, 2.0, 4.0]), np.array(["a", "b", "b"]))
    assert (report.n, report.within_10) == (3, pytest.approx(2 / 3))
    assert report.mape == pytest.approx((0.05 + 0.25) / 3)
    perfect = {"mape": 0.0, "median": 0.0, "bounded": 0.0, "within_10": 1.0, "spearman": 0.0, "n": 1.0}
    assert report.variants["a"] == perfect
    assert report.variants["b"]["mape"] == pytest.approx(0.15)
