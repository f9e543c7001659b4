import numpy as np

from nas.columns import Columns, block_table, own_places, sums, transfers


def test_a_sum_is_the_features_and_a_constant() -> None:
    (found,) = sums(np.array([[1.0, 2.0], [3.0, 4.0]]), ["layers", "gflop"])
    np.testing.assert_array_equal(found.of(np.array([[5.0, 6.0]])), [[5, 6, 1]])


def test_memory_is_missed_from_half_beyond_the_cache_on() -> None:
    columns = Columns((0, 1), memory=(1,), cache_mb=10.0)
    rows = np.array([[1.0, 9.0], [1.0, 12.0], [1.0, 15.0], [1.0, 30.0]])
    np.testing.assert_allclose(columns.of(rows)[:, 2], [0, 12 * 0.4, 15, 30])


def test_cache_sizes_lie_between_the_smallest_and_the_largest_memory() -> None:
    found = sums(np.array([[1.0, 2.0], [2.0, 20.0], [3.0, 5.0]]), ["layers", "weights_mb"])
    caches = [each.cache_mb for each in found]
    assert caches[0] is None
    assert all(2 < cache < 20 for cache in caches[1:] if cache is not None)
    assert len(caches) == 9


def test_memory_that_never_varies_tells_nothing_of_the_cache() -> None:
    assert [each.cache_mb for each in sums(np.ones((3, 1)), ["weights_mb"])] == [None]
    assert [each.cache_mb for each in sums(np.zeros((3, 1)), ["weights_mb"])] == [None]


def test_a_table_is_exact_at_its_entries_and_interpolates_between_them() -> None:
    widths = np.array([[1.0], [2.0], [4.0], [8.0]])
    columns = block_table(widths, ["width"])
    costs = np.array([3.0, 1.0, 7.0, 2.0])
    prices = np.linalg.solve(columns.of(widths), costs)
    np.testing.assert_allclose(columns.of(np.array([[3.0], [6.0]])) @ prices, [4.0, 4.5])


def test_a_feature_of_many_values_has_few_entries_and_one_of_two_has_none() -> None:
    rng = np.random.default_rng(0)
    columns = block_table(np.stack([rng.random(100), rng.integers(0, 2, 100)], axis=1), ["a", "b"])
    assert [len(each) for each in columns.entries] == [3, 0]


def test_predictions_for_another_device_count_only_in_transfers() -> None:
    names = ["layers", "on pi5"]
    assert own_places(names) == [0]
    assert sums(np.ones((2, 2)), names)[0].used == block_table(np.ones((2, 2)), names).used == (0,)
    assert [each.used for each in transfers(names)] == [(1,), (1, 0)]
    assert transfers(["layers"]) == []
