from typing import Any

import pytest

from nas.goals import ceilings_on, constraints_of, constraints_on, miss_on, objectives_of, objectives_on, seen_on
from nas.recipe import Recipe
from search_spaces.errors import ConfigError

BOTH = {"devices": ["server", "phone"]}


def recipe(**sections: Any) -> Recipe:
    return Recipe.model_validate(sections)


def texts(goals: list[Any]) -> list[str]:
    return [getattr(goal, "name", None) or str(goal) for goal in goals]


def test_a_latency_that_names_no_device_is_meant_on_each() -> None:
    several = recipe(**BOTH, constraints=["latency_ms <= 8%", "size <= 25%", "latency@phone <= 2"])
    assert texts(objectives_of(several)) == ["accuracy", "latency_ms@server", "latency_ms@phone"]
    assert texts(constraints_of(several)) == [
        "latency_ms@server <= 8%",
        "latency_ms@phone <= 8%",
        "size_bytes <= 25%",
        "latency_ms@phone <= 2",
    ]
    assert texts(objectives_on("phone", objectives_of(several))) == ["accuracy", "latency_ms@phone"]
    assert texts(constraints_on("server", constraints_of(several))) == ["latency_ms@server <= 8%", "size_bytes <= 25%"]
    assert texts(ceilings_on("phone", constraints_of(several))) == ["latency_ms@phone <= 8%", "latency_ms@phone <= 2"]


def test_one_device_has_plain_names_only() -> None:
    one = recipe(constraints=["latency_ms <= 8%"])
    assert texts(objectives_of(one)) == ["accuracy", "latency_ms"]
    assert constraints_of(one) == constraints_on("", constraints_of(one)) == ceilings_on("", constraints_of(one))
    assert texts(constraints_of(one)) == ["latency_ms <= 8%"]


def test_an_objective_is_one_however_often_it_is_named() -> None:
    assert texts(objectives_of(recipe(**BOTH, objectives=["latency_ms@phone", "latency"]))) == [
        "latency_ms@phone",
        "latency_ms@server",
    ]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {**BOTH, "objectives": ["latency_ms@phoen"]},
            r"latency_ms@phoen: device: 'phoen' is unknown.*Did you mean 'phone'",
        ),
        (
            {"objectives": ["latency_ms@cpu"]},
            "'latency_ms@cpu': the search is for one device; write latency_ms, or give",
        ),
        ({**BOTH, "objectives": ["accuracy@phone"]}, "'accuracy@phone' is not told apart by device"),
    ],
)
def test_a_device_that_is_not_there_is_refused_in_one_line(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        objectives_of(recipe(**sections))
    assert "\n" not in str(caught.value)


def test_metrics_are_seen_from_a_device_under_plain_names() -> None:
    metrics = {"accuracy": 0.9, "latency_ms": 1.0, "latency_ms@server": 1.0, "latency_ms@phone": 7.0}
    assert seen_on("phone", metrics) == {**metrics, "latency_ms": 7.0}
    assert seen_on("", metrics) == metrics
    assert seen_on("", {"latency_ms": 2.0}) == {"latency_ms": 2.0}


def test_a_bound_of_another_device_is_none_here() -> None:
    misses = {"latency_ms@phone <= 8%": 0.5, "latency_ms@server <= 8%": -0.5, "accuracy >= 90%": -0.1}
    assert [miss_on(device, misses) for device in ("phone", "server")] == [0.5, -0.1]
    assert miss_on("", {"latency_ms <= 1": 0.2}) == 0.2
    assert miss_on("phone", {}) == 0.0
