import numpy as np
import pytest

from compressors.calibration import RANGES, Histogram, calibrated, entropy, least_error, min_max, percentile
from search_spaces.errors import ConfigError, ShapeError


def draws(seed, n=20_000):
    return np.random.default_rng(seed).normal(size=n)


@pytest.mark.parametrize("parts", [1, 7, 50])
def test_batches_one_by_one_count_what_all_together_count(parts):
    values = draws(0) * np.geomspace(0.01, 5, 20_000)  # later batches are wider
    seen, *more = [Histogram.of(part) for part in np.array_split(values, parts)]
    for histogram in more:
        seen = seen + histogram
    whole = Histogram.of(values)
    assert (seen.low, seen.high) == (values.min(), values.max())
    assert (seen.first, seen.width) == (whole.first, whole.width)
    assert np.array_equal(seen.counts, whole.counts)


def test_a_histogram_counts_every_value_in_its_bin():
    values = draws(1)
    seen = Histogram.of(values)
    edges = (seen.first + np.arange(len(seen.counts) + 1)) * seen.width
    assert np.array_equal(np.histogram(values, edges)[0], seen.counts)
    assert 0.0 in edges
    assert 2048 <= len(seen.counts) <= 4096


def test_magnitudes_fold_the_histogram_at_zero():
    values = draws(2)
    folded = Histogram.of(values).magnitudes()
    edges = np.arange(len(folded.counts) + 1) * folded.width
    assert np.array_equal(np.histogram(np.abs(values), edges)[0], folded.counts)
    assert folded.high == np.abs(values).max()


@pytest.mark.parametrize("values", [[3.0, 5.0], [-5.0, -3.0], [0.0], [1000.0, 1000.1]])
@pytest.mark.parametrize("name", list(RANGES))
def test_every_range_holds_zero_and_lies_within_what_was_seen(values, name):
    low, high = RANGES[name](Histogram.of(np.array(values)), 16)
    assert min(*values, 0) <= low <= 0 <= high <= max(*values, 0)
    assert isinstance(low, float)


def test_min_max_is_exact():
    values = draws(3)
    assert min_max(Histogram.of(values)) == (values.min(), values.max())


@pytest.mark.parametrize("share", [0.9, 0.99, 0.999])
def test_the_percentile_cuts_both_ends_alike(share):
    values = draws(4)
    seen = Histogram.of(values)
    expected = np.quantile(values, [(1 - share) / 2, (1 + share) / 2])
    assert percentile(seen, share=share) == pytest.approx(expected, abs=3 * seen.width)
    assert percentile(Histogram.of(np.abs(values)), share=share) == pytest.approx(
        (0, np.quantile(np.abs(values), share)), abs=3 * seen.width
    )


def test_the_whole_share_cuts_nothing():
    values = draws(5)
    assert percentile(Histogram.of(values), share=1.0) == (values.min(), values.max())


def test_an_outlier_is_cut_by_the_least_error_unless_there_are_levels_enough():
    seen = Histogram.of(np.concatenate([draws(6), [40.0]]))
    highest = [least_error(seen, levels)[1] for levels in (4, 16, 4096)]
    assert highest[0] < highest[1] < 10
    assert highest[2] == 40


def test_symmetric_ranges_are_as_long_on_both_sides():
    seen = Histogram.of(draws(7) - 1)
    for name in RANGES:
        low, high = calibrated(seen, name, 255, is_symmetric=True)
        assert -low == high > 0


def test_entropy_keeps_everything_where_there_are_as_many_levels_as_bins():
    seen = Histogram.of(draws(8))
    assert entropy(seen, 2 * 4096) == min_max(seen)


@pytest.mark.parametrize("values", [[], [[np.nan, 1.0]], [np.inf]])
def test_values_without_a_range_are_refused(values):
    with pytest.raises(ShapeError, match="calibration: an array of shape"):
        Histogram.of(np.array(values))


def test_an_unknown_calibration_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"calibration: 'kl' is unknown; known: min_max, percentile, mse, entropy"):
        calibrated(Histogram.of(np.ones(3)), "kl", 256)
