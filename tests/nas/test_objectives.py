import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.objectives import METRICS, Constraint, Objective, check_consistent
from search_spaces.errors import ConfigError

TEACHER = {
    "accuracy": 0.9,
    "latency_ms": 5.0,
    "size_bytes": 90e6,
    "parameters": 22e6,
    "macs": 1e9,
    "latency_ms@pi-5.b": 2.0,
}


@pytest.mark.parametrize("name", METRICS)
def test_a_better_value_is_a_smaller_cost_and_comes_back(name):
    objective = Objective.of(name)
    better, worse = (2.0, 1.0) if objective.direction == "maximize" else (1.0, 2.0)
    assert objective.cost(better) < objective.cost(worse)
    assert objective.value(objective.cost(0.7)) == 0.7


def test_an_alias_is_the_metric_it_stands_for():
    assert Objective.of("size") == Objective.of("size_bytes")
    assert Objective.of("latency").unit == "ms"


def test_an_unknown_metric_lists_the_known_ones_and_the_nearest():
    with pytest.raises(ConfigError, match=r"'acuracy' is unknown; known: accuracy, .* Did you mean 'accuracy'"):
        Objective.of("acuracy")


@pytest.mark.parametrize(
    ("text", "metric", "limit", "canonical"),
    [
        ("latency_ms <= 1.0", "latency_ms", 1.0, "latency_ms <= 1"),
        ("latency<=900us", "latency_ms", 0.9, "latency_ms <= 0.9"),
        ("latency_ms <= 20%", "latency_ms", 1.0, "latency_ms <= 20%"),
        ("accuracy >= 0.85", "accuracy", 0.85, "accuracy >= 0.85"),
        ("accuracy >= 98%", "accuracy", 0.98 * 0.9, "accuracy >= 98%"),
        ("accuracy_drop <= 1%", "accuracy", 0.99 * 0.9, "accuracy_drop <= 1%"),
        ("accuracy_drop <= 0.01", "accuracy", 0.89, "accuracy_drop <= 0.01"),
        ("size <= 25%", "size_bytes", 22.5e6, "size_bytes <= 25%"),
        ("size <= 10MB", "size_bytes", 10e6, "size_bytes <= 10000000"),
        ("size <= 1.5 MiB", "size_bytes", 1.5 * 2**20, "size_bytes <= 1572864"),
        ("parameters <= 5M", "parameters", 5e6, "parameters <= 5000000"),
        ("macs <= 1e8", "macs", 1e8, "macs <= 100000000"),
        ("latency@pi-5.b<=1ms", "latency_ms@pi-5.b", 1.0, "latency_ms@pi-5.b <= 1"),
        ("latency_ms@pi-5.b <= 50%", "latency_ms@pi-5.b", 1.0, "latency_ms@pi-5.b <= 50%"),
        ("latency_ms_drop@pi-5.b <= 1", "latency_ms@pi-5.b", 3.0, "latency_ms_drop@pi-5.b <= 1"),
    ],
)
def test_a_constraint_is_read_with_its_unit_and_scale(text, metric, limit, canonical):
    constraint = Constraint.parse(text)
    assert (constraint.metric, str(constraint)) == (metric, canonical)
    assert constraint.limit(TEACHER) == pytest.approx(limit)
    assert constraint.violation({metric: limit}, TEACHER) == pytest.approx(0, abs=1e-12)
    worse = limit * (1.1 if constraint.is_ceiling else 0.9)
    assert constraint.violation({metric: worse}, TEACHER) == pytest.approx(0.1)


@given(
    st.sampled_from(["latency_ms <= ", "accuracy_drop <= ", "size <= ", "macs >= "]),
    st.floats(0, 1e12),
    st.sampled_from(["", "%"]),
)
def test_the_text_of_a_constraint_reads_back_as_the_same_constraint(start, number, suffix):
    constraint = Constraint.parse(f"{start}{number!r}{suffix}")
    assert Constraint.parse(str(constraint)) == constraint


def test_a_nan_metric_is_never_feasible():
    assert Constraint.parse("latency_ms <= 1").violation({"latency_ms": math.nan}, {}) == math.inf


def test_a_bound_of_zero_counts_the_excess_itself():
    assert Constraint.parse("latency_ms <= 0").violation({"latency_ms": 0.25}, {}) == 0.25


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latency_ms < 1", "is not a constraint; write e.g."),
        ("1 >= latency_ms", "is not a constraint"),
        ("", "is not a constraint"),
        ("speed >= 2", "'speed' is unknown; known: accuracy"),
        ("sise <= 25%", "Did you mean 'size'"),
        ("size <= 10PB", "'PB' is unknown; known: %, B, kB, MB"),
        ("latency_ms <= 10MB", "'MB' is unknown; known: %, us, ms, s"),
        ("latency_ms <= 1.0.0", "'1.0.0' is not a number"),
        ("latency_ms <= 1e999", "is not finite"),
        ("latency_ms <= -1", "-1 is negative; a bound is at least 0"),
        ("accuracy >= 90", "accuracy is at most 1. Write 0.9, or 90%"),
        ("accuracy_drop >= 1%", "a drop has no lower bound; write accuracy_drop <= 1"),
        (
            "accuracy_drop@pi5 <= 1%",
            "'accuracy_drop@pi5' is not told apart by device; latency_ms is. Write accuracy_drop",
        ),
        ("latency_ms@ <= 1", "is not a constraint"),
        ("latnecy@pi5 <= 1", "Did you mean 'latency'"),
    ],
)
def test_a_constraint_nobody_can_mean_is_refused_in_one_line(text, message):
    with pytest.raises(ConfigError) as caught:
        Constraint.parse(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("texts", "teacher"),
    [
        (("latency_ms <= 1", "latency_ms >= 2"), None),
        (("latency_ms <= 10%", "latency_ms >= 20%"), None),
        (("accuracy_drop <= 1%", "accuracy <= 98%"), None),
        (("latency_ms <= 1", "latency_ms >= 40%"), TEACHER),
        (("accuracy_drop <= 0.01", "accuracy <= 0.8"), TEACHER),
    ],
)
def test_contradictory_bounds_are_found(texts, teacher):
    with pytest.raises(ConfigError, match="contradict each other"):
        check_consistent([Constraint.parse(text) for text in texts], teacher)


def test_a_bound_beyond_what_the_metric_can_reach_is_found_once_the_teacher_is_known():
    constraints = [Constraint.parse("accuracy >= 115%")]
    check_consistent(constraints, None)
    with pytest.raises(ConfigError, match=r"asks for 1\.035; accuracy is at most 1"):
        check_consistent(constraints, TEACHER)


def test_bounds_of_different_scales_are_compared_only_when_the_teacher_is_known():
    constraints = [Constraint.parse(text) for text in ("latency_ms <= 1", "latency_ms >= 40%", "size <= 25%")]
    check_consistent(constraints, None)
    check_consistent([Constraint.parse(text) for text in ("latency_ms <= 1", "accuracy_drop <= 1%")], TEACHER)
