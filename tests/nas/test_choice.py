import numpy as np

from nas.choice import best, finalists
from nas.objectives import Constraint, Objective

OBJECTIVES = [Objective.of("accuracy"), Objective.of("latency_ms")]
TEACHER = {"accuracy": 0.9, "latency_ms": 5.0}
STUDENTS = [
    {"accuracy": 0.89, "latency_ms": 1.0},
    {"accuracy": 0.88, "latency_ms": 0.4},
    {"accuracy": 0.70, "latency_ms": 0.1},
]


def test_finalists_come_from_the_feasible_front_and_dominated_points_never_do() -> None:
    costs = np.array([[0.0, 3.0], [1.0, 1.0], [3.0, 0.0], [2.0, 2.0], [-1.0, -1.0]])
    violations = np.array([0.0, 0.0, 0.0, 0.0, 0.5])
    assert sorted(finalists(costs, violations, 3, first=1)) == [0, 1, 2]
    assert finalists(costs, violations, 1, first=1) == [1]


def test_the_one_that_is_best_now_is_a_finalist_and_the_others_add_the_most() -> None:
    costs = np.array([[0.0, 3.0], [0.1, 2.9], [1.0, 1.0], [3.0, 0.0]])
    assert finalists(costs, np.zeros(4), 2, first=1) == [1, 2]
    assert finalists(costs, np.array([0.0, 0.9, 0.0, 0.0]), 2, first=1) == [1, 2]


def test_the_most_accurate_one_of_the_front_is_the_second_finalist() -> None:
    costs = np.array([[3.0, 0.0], [2.9, 0.1], [1.0, 1.0], [0.0, 3.0]])  # accuracy is the second objective
    assert finalists(costs, np.zeros(4), 2, first=2, end=1) == [2, 0]
    assert finalists(costs, np.array([0.5, 0.0, 0.0, 0.0]), 2, first=2, end=1) == [2, 1]
    assert finalists(costs, np.zeros(4), 2, first=0, end=1) == [0, 2]
    assert finalists(costs, np.zeros(4), 1, first=2, end=1) == [2]


def test_when_too_few_are_feasible_the_least_infeasible_follow() -> None:
    costs = np.array([[0.0, 3.0], [1.0, 1.0], [3.0, 0.0]])
    assert finalists(costs, np.array([0.3, 0.1, 0.2]), 2, first=1) == [1, 2]
    assert finalists(costs, np.array([-0.3, 0.1, 0.2]), 3, first=0) == [0, 1, 2]


def test_the_best_student_is_best_in_the_objective_that_has_no_limit() -> None:
    drop, fast = Constraint.parse("accuracy_drop <= 3%"), Constraint.parse("latency_ms <= 0.5")
    assert best(STUDENTS, OBJECTIVES, [drop], TEACHER) == 1
    assert best(STUDENTS, OBJECTIVES, [fast], TEACHER) == 1
    assert best(STUDENTS, OBJECTIVES, [Constraint.parse("latency_ms <= 2")], TEACHER) == 0


def test_the_best_student_without_limits_is_the_knee_and_with_none_feasible_the_nearest() -> None:
    assert best(STUDENTS, OBJECTIVES, [], TEACHER) == 1
    assert best(STUDENTS, OBJECTIVES, [Constraint.parse("latency_ms <= 0.05")], TEACHER) == 2
