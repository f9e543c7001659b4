import itertools

import numpy as np
import pytest

from compressors.layer_map import closest_layers, fixed_pairs, spread, taught_layers


def test_skip_spreads_the_teachers_layers_evenly():
    assert fixed_pairs("skip", 6, 12) == [(1, 2), (2, 4), (3, 6), (4, 8), (5, 10), (6, 12)]
    assert fixed_pairs("skip", 2, 3) == [(1, 2), (2, 3)]


def test_last_takes_the_last_layers_of_the_teacher():
    assert fixed_pairs("last", 3, 12) == [(1, 10), (2, 11), (3, 12)]
    assert fixed_pairs("last", 3, 2) == [(2, 1), (3, 2)]


@pytest.mark.parametrize("layer_map", ["skip", "last"])
def test_models_of_one_depth_are_compared_layer_by_layer(layer_map):
    assert fixed_pairs(layer_map, 4, 4) == [(i, i) for i in range(1, 5)]


def test_four_of_twelve_layers_teach_on_the_dynamic_map_as_in_cofi_and_never_more_than_there_are_students():
    assert taught_layers(12, 12) == [3, 6, 9, 12]
    assert taught_layers(2, 12) == [6, 12]
    assert taught_layers(3, 6) == [3, 6]
    assert taught_layers(1, 1) == [1]
    assert spread(5, 3)[0] >= 1


@pytest.mark.parametrize("seed", range(20))
def test_the_dynamic_map_is_the_best_of_all_that_keep_the_order(seed):
    rng = np.random.default_rng(seed)
    n_teacher = int(rng.integers(1, 5))
    n_student = int(rng.integers(n_teacher, 8))
    distances = rng.random((n_teacher, n_student)).round(1)  # with ties
    found = closest_layers(distances)
    assert found == sorted(set(found))
    assert all(0 <= layer < n_student for layer in found)
    sums = [sum(distances[range(n_teacher), way]) for way in itertools.combinations(range(n_student), n_teacher)]
    assert distances[range(n_teacher), found].sum() == pytest.approx(min(sums))


def test_the_nearest_layer_is_not_chosen_where_it_would_turn_the_order_around():
    distances = np.array([[9.0, 1.0, 0.0], [0.0, 9.0, 2.0]])  # each alone would take the last and the first
    assert closest_layers(distances) == [1, 2]
