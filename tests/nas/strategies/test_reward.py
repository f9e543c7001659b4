import numpy as np
import pytest

from nas.strategies.history import Observation
from nas.strategies.reward import best, mnasnet, preferred, rewards
from search_spaces.errors import ConfigError


def seen(costs: list[float] | None, violation: float = 0.0) -> Observation:
    return Observation(0, {}, None if costs is None else np.array(costs), violation)


def test_a_reward_is_the_share_of_the_others_that_are_worse_and_a_tie_counts_half():
    results = [seen([0.0])] * 5
    assert rewards(results, np.array([[3.0, 1.0, 2.0, 2.0, -9.0]])).tolist() == [[1.0, 0.25, 0.625, 0.625, 0.0]]
    assert rewards(results[:1], np.array([[3.0]])).tolist() == [[0.0]]


def test_the_infeasible_are_worse_than_the_feasible_by_violation_and_the_failed_are_worst():
    results = [seen([0.0], 0.5), seen([9.0]), seen(None), seen([0.0], 0.1), seen([5.0])]
    scores = np.array([[100.0, -9.0, 100.0, 100.0, -5.0], [100.0, -5.0, 100.0, 100.0, -9.0]])
    assert rewards(results, scores).tolist() == [[0.25, 0.75, 0.0, 0.5, 1.0], [0.25, 1.0, 0.0, 0.5, 0.75]]


def test_one_objective_is_rewarded_by_its_rank_whatever_its_scale():
    results = [seen([1.0]), seen([1e9]), seen([-3.0]), seen([1.0001])]
    gained = rewards(results, preferred(results, np.array([[1.0]])))
    assert np.allclose(gained, [[2 / 3, 0, 1, 1 / 3]])


def test_a_preference_is_served_as_the_augmented_chebyshev_distance_says():
    results = [seen([0.0, 30.0]), seen([1.0, 20.0]), seen([50.0, 10.0]), seen(None), seen([-9.0, -9.0], 1.0)]
    preferences = np.array([[1.0, 0.0], [0.25, 0.75]])
    # places per cost: (0, 1), (1/2, 1/2), (1, 0)
    expected = [[-0.0, -0.525, -1.05], [-0.75 * 1.05, -0.375 - 0.025, -0.25 * 1.05]]
    scores = preferred(results, preferences)
    assert np.allclose(scores[:, :3], expected)
    assert (scores[:, 3:] == -np.inf).all()


def test_each_end_and_the_knee_of_a_front_are_best_for_some_preference_and_no_dominated_point_is():
    results = [seen([0.0, 4.0]), seen([1.0, 1.0]), seen([4.0, 0.0]), seen([2.0, 2.0]), seen([4.0, 4.0])]
    preferences = np.stack([np.linspace(0, 1, 21), np.linspace(1, 0, 21)], axis=1)
    assert set(rewards(results, preferred(results, preferences)).argmax(1)) == {0, 1, 2}


def test_the_score_of_a_soft_target_is_that_of_the_mnasnet_paper():
    results = [seen([-0.8, 80.0]), seen([-0.8, 160.0]), seen([-0.8, 40.0]), seen(None), seen([-0.9, 1.0], 0.1)]
    scores = mnasnet(results, 80.0, -0.07)
    assert scores[:3].tolist() == pytest.approx([0.8, 0.8 * 2**-0.07, 0.8 * 0.5**-0.07])
    assert scores[1] / scores[0] == pytest.approx(0.95, abs=0.005)  # 5 % of the accuracy for twice the latency
    assert (scores[3:] == -np.inf).all()


def test_a_negative_value_gets_worse_with_the_latency_too():
    scores = mnasnet([seen([2.0, 80.0]), seen([2.0, 160.0]), seen([2.0, 40.0])], 80.0, -0.07)
    assert scores.tolist() == pytest.approx([-2.0, -2.0 * 2**0.07, -2.0 * 0.5**0.07])


@pytest.mark.parametrize("costs", [[-0.8], [-0.8, 0.0], [-0.8, -3.0], [-0.8, 3.0, 1.0]])
def test_a_target_needs_two_costs_of_which_the_second_is_positive(costs):
    with pytest.raises(ConfigError, match=r"search\.options\.target: trial 0 has the costs .*; two are allowed"):
        mnasnet([seen(costs)], 80.0, -0.07)


def test_the_best_are_kept_in_the_order_they_came_and_failed_ones_go_first():
    results = [
        seen([3.0, 3.0]),
        seen(None),
        seen([0.0, 0.0], 0.1),
        seen([1.0, 2.0]),
        seen([2.0, 1.0]),
        seen([1.5, 1.5]),
    ]
    assert best(results, 6) == results
    assert best(results, 5) == [results[i] for i in (0, 2, 3, 4, 5)]
    assert best(results, 4) == [results[i] for i in (0, 3, 4, 5)]
    assert best(results, 2) == results[3:5]
