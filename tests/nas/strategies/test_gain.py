import numpy as np
import pytest

from nas.pareto import hypervolume
from nas.strategies.gain import hypervolume_gain

RNG = np.random.default_rng(0)


def by_definition(front: np.ndarray, reference: np.ndarray, points: np.ndarray) -> np.ndarray:
    before = hypervolume(front, reference)
    return np.array([hypervolume(np.vstack([front, point]), reference) - before for point in points])


@pytest.mark.parametrize("n_costs", [1, 2])
def test_the_gain_is_the_difference_of_two_hypervolumes(n_costs):
    for n in (0, 1, 7, 30):
        front, points = RNG.random((n, n_costs)), RNG.random((40, n_costs)) * 1.4 - 0.2
        reference = np.full(n_costs, 0.9)
        found = hypervolume_gain(front, reference, points, RNG)
        np.testing.assert_allclose(found, by_definition(front, reference, points), atol=1e-12)


def test_three_costs_are_estimated_within_the_error_of_sampling():
    front, points, reference = RNG.random((12, 3)), RNG.random((30, 3)), np.ones(3)
    found = hypervolume_gain(front, reference, points, RNG)
    np.testing.assert_allclose(found, by_definition(front, reference, points), atol=0.05)


def test_draws_keep_their_shape_and_dominated_points_add_nothing():
    front, reference = np.array([[0.0, 0.0]]), np.ones(2)
    assert hypervolume_gain(front, reference, RNG.random((3, 5, 2)), RNG).tolist() == np.zeros((3, 5)).tolist()
