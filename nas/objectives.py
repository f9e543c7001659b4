"""What a search optimises and what a student must keep to: metrics, objectives, hard constraints.

The one place where a direction is turned into a cost and where ``%``, ``MB`` and ``ms`` get their meaning. Knows
numbers by the name of their metric; not where they come from.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from search_spaces.errors import ConfigError
from search_spaces.registry import unknown_name

Direction = Literal["minimize", "maximize"]


class Metric(NamedTuple):
    """How to read the numbers of one metric: what is better, the unit, and the largest value there can be."""

    direction: Direction
    unit: str
    highest: float = math.inf


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric("maximize", "", 1.0),
    "latency_ms": Metric("minimize", "ms"),
    "size_bytes": Metric("minimize", "B"),
    "parameters": Metric("minimize", ""),
    "macs": Metric("minimize", ""),
}
ALIASES: Mapping[str, str] = {"latency": "latency_ms", "size": "size_bytes"}
SCALES: Mapping[str, Mapping[str, float]] = {  # unit of a metric -> suffix a person may write -> factor
    "ms": {"us": 1e-3, "ms": 1.0, "s": 1e3},
    "B": {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30},
    "": {"K": 1e3, "M": 1e6, "G": 1e9},
}
DROP = "_drop"
AT = "@"  # between a metric and the device it is meant on, where a search is for several
LATENCY = "latency_ms"
BY_DEVICE = (LATENCY,)  # metrics that the search tells apart by device
PATTERN = re.compile(r"\s*(\w+(?:@[\w.-]+)?)\s*(<=|>=)\s*([+-]?[\d_.]+(?:[eE][+-]?\d+)?)\s*(%|[A-Za-z]*)\s*")
FORMS = "write e.g. 'latency_ms <= 1.0', 'accuracy_drop <= 1%' or 'size <= 25%' (% is relative to the teacher)"


@dataclass(frozen=True)
class Objective:
    """A metric to optimise; inside the search it is a cost, smaller is better.

    Attributes:
        name: Of the metric, e.g. ``accuracy``, or ``latency_ms@phone`` on one of several devices.
        direction: What is better.
        unit: Of its values.
    """

    name: str
    direction: Direction
    unit: str

    @classmethod
    def of(cls, name: str) -> "Objective":
        """Return the objective of a metric or one of its aliases.

        Raises:
            ConfigError: The metric is unknown.
        """
        metric = _metric_name(name, "objectives", name)
        return cls(metric, metric_of(metric).direction, metric_of(metric).unit)

    def on(self, device: str) -> "Objective":
        """Return the same objective on a device."""
        return replace(self, name=at(plain(self.name), device))

    def cost(self, value: float) -> float:
        """Return a value of the metric as a cost."""
        return -value if self.direction == "maximize" else value

    def value(self, cost: float) -> float:
        """Return a cost as a value of the metric; the inverse of `cost`."""
        return self.cost(cost)


@dataclass(frozen=True)
class Constraint:
    """A bound that a student must keep.

    Attributes:
        metric: The metric that is bounded; that of ``accuracy_drop`` is ``accuracy``, and that of
            ``latency_ms@phone`` is named so.
        sense: Which side of the bound is allowed, of the metric or of its drop, as written.
        bound: The number as written: in per cent of the teacher's value when ``is_relative``, else in the metric's
            unit.
        is_relative: Whether the teacher's value is the scale.
        is_drop: Whether what is bounded is how much worse than the teacher the student is.
    """

    metric: str
    sense: Literal["<=", ">="]
    bound: float
    is_relative: bool = False
    is_drop: bool = False

    @classmethod
    def parse(cls, text: str) -> "Constraint":
        """Return the constraint that a person wrote.

        Args:
            text: ``<metric> <= <number>`` or ``>=``; the number may have ``%`` or a unit of the metric (``10MB``).

        Raises:
            ConfigError: The text, the metric or the unit is unknown, or no student can ever meet the bound.
        """
        where = f"constraints: {text!r}"
        match = PATTERN.fullmatch(text)
        if match is None:
            raise ConfigError(f"{where} is not a constraint; {FORMS}.")
        name, sense, number, suffix = match.groups()
        written, device = plain(name), device_of(name)
        is_drop = written.endswith(DROP)
        metric = _metric_name(at(written.removesuffix(DROP), device), where, name)
        factor = 1.0 if suffix in ("", "%") else _factor(metric_of(metric).unit, suffix, where)
        bound = _number(number, where) * factor
        constraint = cls(metric, "<=" if sense == "<=" else ">=", bound, suffix == "%", is_drop)
        constraint._check_possible(where)
        return constraint

    def __str__(self) -> str:
        """Return the text that `parse` turns back into an equal constraint."""
        number = repr(self.bound).removesuffix(".0")
        name = at(plain(self.metric) + DROP * self.is_drop, device_of(self.metric))
        return f"{name} {self.sense} {number}{'%' * self.is_relative}"

    def on(self, device: str) -> "Constraint":
        """Return the same constraint on a device."""
        return replace(self, metric=at(plain(self.metric), device))

    def limit(self, teacher: Mapping[str, float]) -> float:
        """Return the bound as a value of the metric.

        Args:
            teacher: Metric -> the teacher's value; only read when the bound is relative or a drop.

        Raises:
            KeyError: The teacher's value is needed and not there.
        """
        bound = self.bound / 100 * abs(teacher[self.metric]) if self.is_relative else self.bound
        if not self.is_drop:
            return bound
        return teacher[self.metric] + (-bound if metric_of(self.metric).direction == "maximize" else bound)

    @property
    def is_ceiling(self) -> bool:
        """Return whether the metric itself must stay at or below the limit."""
        return self.sense == "<=" and not (self.is_drop and metric_of(self.metric).direction == "maximize")

    def violation(self, metrics: Mapping[str, float], teacher: Mapping[str, float]) -> float:
        """Return how far a student is beyond the bound, as a share of the bound; at most 0 means feasible.

        Args:
            metrics: Metric -> the student's value; NaN violates every bound.
            teacher: Metric -> the teacher's value.

        Raises:
            KeyError: A value that the constraint needs is missing.
        """
        value, limit = metrics[self.metric], self.limit(teacher)
        if math.isnan(value):
            return math.inf
        excess = value - limit if self.is_ceiling else limit - value
        return excess / abs(limit) if limit else excess

    def _check_possible(self, where: str) -> None:
        """Check what can be checked without a teacher."""
        highest = metric_of(self.metric).highest
        if self.is_drop and self.sense == ">=":
            raise ConfigError(f"{where}: a drop has no lower bound; write {self.metric}{DROP} <= {self.bound:g}.")
        if self.bound < 0:
            raise ConfigError(f"{where}: {self.bound:g} is negative; a bound is at least 0.")
        if self.sense == ">=" and not self.is_relative and self.bound > highest:
            hint = f"{self.bound / 100:g}, or {self.bound:g}% for a share of the teacher's"
            raise ConfigError(f"{where}: {self.metric} is at most {highest:g}. Write {hint}.")


def at(metric: str, device: str) -> str:
    """Return the name of a metric on one of several devices; on the only one, called "", it is the plain name."""
    return f"{metric}{AT}{device}" if device else metric


def plain(name: str) -> str:
    """Return the metric of a name without its device."""
    return name.partition(AT)[0]


def device_of(name: str) -> str:
    """Return the device that a metric's name says, "" where it says none."""
    return name.partition(AT)[2]


def metric_of(name: str) -> Metric:
    """Return how to read the numbers of a known metric, on whatever device."""
    return METRICS[plain(name)]


def check_consistent(constraints: Iterable[Constraint], teacher: Mapping[str, float] | None) -> None:
    """Check that some value of every metric can meet all constraints at once.

    Args:
        constraints: All hard constraints of a search.
        teacher: The teacher's metrics; None before they are known: then absolute bounds are compared with absolute
            ones and relative ones with relative ones.

    Raises:
        ConfigError: Two bounds contradict each other, or one is beyond what the metric can reach.
    """
    groups: dict[tuple[str, bool], list[tuple[Constraint, float]]] = {}
    for constraint in constraints:
        scale = teacher if teacher is not None else {constraint.metric: 1.0}
        if constraint.is_drop and not constraint.is_relative and teacher is None:
            continue  # says nothing without the teacher
        is_share = constraint.is_relative and teacher is None
        groups.setdefault((constraint.metric, is_share), []).append((constraint, constraint.limit(scale)))
    for (metric, is_share), limits in groups.items():
        _check_bounds(limits, math.inf if is_share else metric_of(metric).highest)


def _check_bounds(limits: list[tuple[Constraint, float]], highest: float) -> None:
    """Check that the largest lower limit of one metric is below its smallest upper limit."""
    floors = [pair for pair in limits if not pair[0].is_ceiling]
    if not floors:
        return
    floor, low = max(floors, key=lambda pair: pair[1])
    if low > highest:
        raise ConfigError(f"constraints: '{floor}' asks for {low:g}; {floor.metric} is at most {highest:g}. Lower it.")
    for ceiling, high in limits:
        if ceiling.is_ceiling and high < low:
            raise ConfigError(
                f"constraints: '{floor}' and '{ceiling}' contradict each other; no {floor.metric} meets both. Drop one."
            )


def _metric_name(name: str, where: str, written: str) -> str:
    """Return the metric behind a name or an alias, with its device; ``written`` is what the error quotes."""
    metric, device = ALIASES.get(plain(name), plain(name)), device_of(name)
    if metric not in METRICS:
        raise unknown_name(f"{where}: metric", written, [*METRICS, *ALIASES, f"accuracy{DROP}"])
    if AT in name and metric not in BY_DEVICE:
        raise ConfigError(
            f"{where}: {written!r} is not told apart by device; {' and '.join(BY_DEVICE)} is. Write {plain(written)}."
        )
    return at(metric, device)


def _factor(unit: str, suffix: str, where: str) -> float:
    """Return how many of a metric's units one of the written unit is."""
    if suffix not in SCALES[unit]:
        raise unknown_name(f"{where}: unit", suffix, ["%", *SCALES[unit]])
    return SCALES[unit][suffix]


def _number(text: str, where: str) -> float:
    """Return a written number."""
    try:
        number = float(text)
    except ValueError:
        raise ConfigError(f"{where}: {text!r} is not a number; {FORMS}.") from None
    if not math.isfinite(number):
        raise ConfigError(f"{where}: {text!r} is not finite; {FORMS}.")
    return number
