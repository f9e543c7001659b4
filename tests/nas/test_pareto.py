from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from optuna._hypervolume import compute_hypervolume
from optuna.study._multi_objective import _fast_non_domination_rank

from nas.pareto import crowding_distance, hypervolume, non_dominated_sort, pareto_front
from search_spaces.errors import ShapeError


def clouds(max_costs: int = 4) -> st.SearchStrategy[np.ndarray]:
    """Small integer costs, so that ties and equal points are common."""
    shapes = st.tuples(st.integers(1, 14), st.integers(1, max_costs))
    return shapes.flatmap(lambda shape: hnp.arrays(np.float64, shape, elements=st.integers(0, 5).map(float)))


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a <= b).all() and (a < b).any())


@given(clouds())
def test_the_front_is_what_brute_force_says(costs):
    expected = [not any(dominates(other, point) for other in costs) for point in costs]
    assert pareto_front(costs).tolist() == expected


@given(clouds())
def test_ranks_are_what_peeling_front_by_front_says(costs):
    expected = np.full(len(costs), -1)
    for rank in range(len(costs)):
        left = np.flatnonzero(expected < 0)
        if len(left):
            expected[left[pareto_front(costs[left])]] = rank
    assert non_dominated_sort(costs).tolist() == expected.tolist()


@given(clouds())
def test_a_rank_is_the_longest_chain_of_points_that_dominate_it(costs):
    def chain(point: np.ndarray) -> int:
        return max((chain(other) + 1 for other in costs if dominates(other, point)), default=0)

    assert non_dominated_sort(costs).tolist() == [chain(point) for point in costs]


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 7), st.integers(2, 4)), elements=st.floats(0, 1.2)))
def test_the_volume_is_what_inclusion_and_exclusion_say(costs):
    expected = 0.0
    for n in range(1, len(costs) + 1):
        for chosen in combinations(costs, n):  # the boxes that some points dominate meet in a box, too
            expected -= (-1) ** n * np.prod(np.maximum(0, 1 - np.max(chosen, axis=0)))
    assert hypervolume(costs, np.ones(costs.shape[1])) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("n_costs", [2, 3, 4])
def test_the_volume_is_the_share_of_random_points_that_are_dominated(n_costs):
    rng = np.random.default_rng(n_costs)
    costs, darts, reference = rng.random((12, n_costs)), rng.random((40_000, n_costs)), np.full(n_costs, 1.0)
    share = (costs[:, None, :] <= darts).all(axis=2).any(axis=0).mean()
    assert hypervolume(costs, reference) == pytest.approx(share, abs=4 * 0.5 / np.sqrt(len(darts)))


def crowding_as_in_the_paper(costs: np.ndarray) -> list[float]:
    """Deb et al. 2002, sec. III-B, procedure crowding-distance-assignment, line by line."""
    distance = [0.0] * len(costs)
    for m in range(costs.shape[1]):
        order = sorted(range(len(costs)), key=lambda i: costs[i][m])
        low, high = costs[order[0]][m], costs[order[-1]][m]
        if low == high:
            continue  # the paper divides by zero here
        distance[order[0]] = distance[order[-1]] = float("inf")
        for before, i, after in zip(order, order[1:], order[2:], strict=False):
            distance[i] += (costs[after][m] - costs[before][m]) / (high - low)
    return distance


@given(clouds())
def test_crowding_is_what_the_procedure_of_the_paper_says(costs):
    np.testing.assert_allclose(crowding_distance(costs), crowding_as_in_the_paper(costs))


@pytest.mark.parametrize("n_costs", [1, 2, 3, 4])
def test_ranks_and_volume_agree_with_optuna(n_costs):
    rng = np.random.default_rng(n_costs)
    for n in (1, 2, 40, 90):
        costs = rng.random((n, n_costs)).round(2)
        assert non_dominated_sort(costs).tolist() == _fast_non_domination_rank(costs).tolist()
        reference = np.ones(n_costs)
        assert hypervolume(costs, reference) == pytest.approx(compute_hypervolume(costs, reference))


@given(clouds(max_costs=3))
def test_the_volume_is_the_number_of_dominated_unit_cells(costs):
    side = 5
    cells = np.stack(np.meshgrid(*[np.arange(side)] * costs.shape[1], indexing="ij"), -1).reshape(-1, costs.shape[1])
    covered = (costs[:, None, :] <= cells[None, :, :]).all(axis=2).any(axis=0).sum()
    assert hypervolume(costs, np.full(costs.shape[1], float(side))) == covered


def test_a_published_crowding_example_comes_out():
    costs = np.array([[0.0, 4.0], [1.0, 2.0], [3.0, 1.0], [4.0, 0.0]])
    # Deb 2002, sec. III-B: the inner points have (3 - 0) / 4 + (4 - 1) / 4 and (4 - 1) / 4 + (2 - 0) / 4
    assert crowding_distance(costs).tolist() == [np.inf, 1.5, 1.25, np.inf]


@given(clouds())
def test_crowding_does_not_depend_on_scale(costs):
    np.testing.assert_allclose(crowding_distance(costs), crowding_distance(costs * 8 - 3))


def test_a_cost_that_is_equal_everywhere_adds_no_crowding():
    costs = np.array([[0.0, 7.0], [1.0, 7.0], [2.0, 7.0]])
    assert crowding_distance(costs).tolist() == [np.inf, 1.0, np.inf]


def test_no_points_give_empty_answers():
    empty = np.empty((0, 2))
    assert len(pareto_front(empty)) == len(non_dominated_sort(empty)) == len(crowding_distance(empty)) == 0
    assert hypervolume(empty, np.ones(2)) == 0


def test_points_outside_the_reference_add_nothing():
    assert hypervolume(np.array([[2.0, 0.0], [0.5, 0.5], [0.0, 1.0]]), np.ones(2)) == 0.25


@pytest.mark.parametrize("function", [pareto_front, non_dominated_sort, crowding_distance])
def test_nan_and_infinity_never_reach_a_front(function):
    with pytest.raises(ShapeError, match="nan is not finite; leave failed trials out"):
        function(np.array([[0.0, np.nan]]))
    with pytest.raises(ShapeError, match=r"shape \(3,\) is not \(points, costs\)"):
        function(np.zeros(3))


@pytest.mark.parametrize("reference", [np.ones(3), np.array([1.0, np.inf])])
def test_a_reference_that_does_not_fit_is_refused(reference):
    with pytest.raises(ShapeError, match="does not fit costs of shape"):
        hypervolume(np.zeros((1, 2)), reference)


def test_arguments_are_not_changed():
    costs = np.array([[3.0, 1.0], [1.0, 2.0]])
    before = costs.copy()
    hypervolume(costs, np.full(2, 5.0))
    non_dominated_sort(costs)
    crowding_distance(costs)
    np.testing.assert_array_equal(costs, before)
