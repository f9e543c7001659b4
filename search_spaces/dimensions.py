"""The values one gene may take: a choice, an integer, a float, or a grid of floats; how to draw, move and encode them.

Knows plain values only; not which genes there are (`search_spaces.space`) nor what a value does to a model.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np

from search_spaces.errors import ConfigError
from search_spaces.registry import unknown_name
from search_spaces.steps import Steps

Value = bool | int | float | str
Genes = Mapping[str, Value]

STRIDE = 0.1  # one step of a continuum, as a share of its range


class Listed:
    """What a choice and an integer share: finitely many values, in order or not.

    Attributes:
        values: Every value in order, never empty.
        ordered: Whether the order means something.
    """

    values: Sequence[Value]
    ordered: bool

    @property
    def default(self) -> Value:
        """Return the first value."""
        return self.values[0]

    @property
    def size(self) -> int:
        """Return the number of values."""
        return len(self.values)

    def contains(self, value: Value) -> bool:
        """Return whether this is one of the values; True is not 1, but 2 is 2.0."""
        return value in self.values and isinstance(value, bool) == isinstance(self.canonical(value), bool)

    def canonical(self, value: Value) -> Value:
        """Return a contained value in its declared type, e.g. 2.0 for 2."""
        return self.values[self.values.index(value)]

    def sample(self, rng: np.random.Generator) -> Value:
        """Return a value drawn uniformly."""
        return self.values[int(rng.integers(self.size))]

    def mutate(self, value: Value, rng: np.random.Generator, max_step: int = 2) -> Value:
        """Return a different value, at most ``max_step`` steps away where there is an order; the same when alone."""
        near = self._within(value, max_step)
        return near[int(rng.integers(len(near)))] if near else value

    def steps(self, value: Value) -> tuple[Value, ...]:
        """Return the neighbours: one step down and up where there is an order, else all other values."""
        return self._within(value, 1)

    def narrowed(self, values: Sequence[Value]) -> "Choice":
        """Return a choice of some of the values, in their old order."""
        return Choice(tuple(sorted(set(values), key=lambda value: self.values.index(value))), self.ordered)

    def _within(self, value: Value, reach: int) -> tuple[Value, ...]:
        """Return the other values at most ``reach`` places away, or all others where there is no order."""
        place = self.values.index(value)
        low, high = (max(0, place - reach), place + reach + 1) if self.ordered else (0, self.size)
        return (*self.values[low:place], *self.values[place + 1 : high])

    @property
    def columns(self) -> tuple[str, ...]:
        """Return a suffix for each column of `encode`: one empty, or one a value where there is no order."""
        return ("",) if self.ordered else tuple(f"={value!r}" for value in self.values)

    def encode(self, value: Value) -> tuple[float, ...]:
        """Return one number in [0, 1] a column: the place in the order, or one-hot where there is none."""
        place = self.values.index(value)
        if self.ordered:
            return (place / max(1, self.size - 1),)
        return tuple(float(other == place) for other in range(self.size))


@dataclass(frozen=True)
class Choice(Listed):
    """One of a few values; when ``ordered``, they lie on a line and mutation moves along it by steps.

    Raises:
        ConfigError: No values, two that are equal (Optuna cannot tell 1 from True), or one that JSON cannot hold.
    """

    values: tuple[Value, ...]
    ordered: bool = False

    def __post_init__(self) -> None:
        """Refuse a dimension without proper values."""
        object.__setattr__(self, "values", tuple(self.values))
        if not self.values:
            raise ConfigError(f"choice: {self.values} is empty; give at least one value.")
        odd = [value for value in self.values if not _is_plain(value)]
        if odd:
            raise ConfigError(f"choice: {odd[0]!r} cannot be a value; use bool, int, finite float or str.")
        if len(set(self.values)) < len(self.values):
            raise ConfigError(
                f"choice: {self.values} holds equal values; give each value once (1, 1.0, True are equal)."
            )

    @property
    def allowed(self) -> str:
        """Return the values in words."""
        return "one of " + ", ".join(map(repr, self.values))

    def optuna_json(self) -> dict[str, Any]:
        """Return a distribution of the same values in the JSON format of Optuna.

        Ordered integers at equal distances become an integer distribution, so that a sampler sees the order.
        """
        line = _line(self.values) if self.ordered else None
        if line is not None:
            return _optuna_line(line)
        return {"name": "CategoricalDistribution", "attributes": {"choices": list(self.values)}}

    def to_json(self) -> dict[str, Any]:
        """Return JSON values that `dimension_from_json` turns back into an equal dimension."""
        return {"kind": "choice", "values": list(self.values), "ordered": self.ordered}


@dataclass(frozen=True)
class Integer(Listed):
    """The integers ``low, low + step, ...`` up to ``high``, uniform in the logarithm when ``log``.

    Raises:
        ConfigError: ``low > high`` or ``step < 1``, or ``log`` with ``low < 1`` or a step.
    """

    low: int
    high: int
    step: int = 1
    log: bool = False
    values: range = field(init=False, repr=False, compare=False)
    ordered: bool = field(init=False, repr=False, compare=False, default=True)

    def __post_init__(self) -> None:
        """Refuse a dimension without proper values."""
        if self.step < 1 or self.low > self.high:
            raise ConfigError(f"integer: {self} has no values; low <= high and step >= 1 are needed.")
        if self.log and (self.low < 1 or self.step > 1):
            raise ConfigError(f"integer: {self} has no logarithm; low >= 1 and step = 1 are needed when log is set.")
        object.__setattr__(self, "values", range(self.low, self.high + 1, self.step))

    def contains(self, value: Value) -> bool:
        """Return whether this is one of the integers; True and 2.0 are not."""
        return type(value) is int and value in self.values

    def sample(self, rng: np.random.Generator) -> Value:
        """Return a value drawn uniformly, from the logarithms when ``log``."""
        return self._nearest(self._continuum.sample(rng)) if self.log else super().sample(rng)

    def mutate(self, value: Value, rng: np.random.Generator, max_step: int = 2) -> Value:
        """Return a different value at most ``max_step`` steps, or tenths of the logarithm's range, away."""
        moved = self._nearest(self._continuum.mutate(value, rng, max_step)) if self.log else value
        return moved if moved != value else super().mutate(value, rng, 1 if self.log else max_step)

    def encode(self, value: Value) -> tuple[float, ...]:
        """Return the place in the order, of the logarithm when ``log``, in [0, 1]."""
        return Float(self.low, self.high, log=True).encode(value) if self.log else super().encode(value)

    @property
    def _continuum(self) -> "Float":
        """Return the numbers that round to these integers."""
        return Float(self.low - 0.5, self.high + 0.5, log=True)

    def _nearest(self, number: float) -> int:
        """Return the integer that a number of the continuum stands for."""
        return min(self.high, max(self.low, round(number)))

    @property
    def allowed(self) -> str:
        """Return the values in words."""
        steps = f" in steps of {self.step}" if self.step > 1 else ""
        return f"an integer from {self.low} to {self.values[-1]}{steps}"

    def optuna_json(self) -> dict[str, Any]:
        """Return a distribution of the same values in the JSON format of Optuna."""
        return _optuna_line(self.values, self.log)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values that `dimension_from_json` turns back into an equal dimension."""
        log = {"log": True} if self.log else {}
        return {"kind": "integer", "low": self.low, "high": self.high, "step": self.step, **log}


@dataclass(frozen=True)
class Float:
    """The numbers from ``low`` to ``high``, uniform in the logarithm when ``log``; ``values`` are only its ends.

    Raises:
        ConfigError: ``low > high``, the distance is not finite, or ``log`` with ``low <= 0``.
    """

    low: float
    high: float
    log: bool = False
    values: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse a dimension without proper values."""
        if not (self.low <= self.high and math.isfinite(self.high - self.low)):
            raise ConfigError(f"float: {self} is no range; low <= high and a finite distance are needed.")
        if self.log and self.low <= 0:
            raise ConfigError(f"float: low {self.low} has no logarithm; low > 0 is needed when log is set.")
        ends = (self.canonical(self.low), self.canonical(self.high))
        object.__setattr__(self, "values", ends if ends[0] < ends[1] else ends[:1])

    @property
    def size(self) -> float:
        """Return infinity, or 1 when both bounds are equal."""
        return math.inf if len(self.values) > 1 else 1

    @property
    def default(self) -> float:
        """Return the lower bound."""
        return self.values[0]

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the suffix of the only column of `encode`."""
        return ("",)

    @property
    def allowed(self) -> str:
        """Return the values in words."""
        return f"a number from {self.low} to {self.high}"

    def contains(self, value: Value) -> bool:
        """Return whether this is a number within the bounds; True is not one."""
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    def canonical(self, value: Value) -> float:
        """Return the value as a float, and never as -0.0."""
        return float(value) + 0.0

    def sample(self, rng: np.random.Generator) -> float:
        """Return a value drawn uniformly, from the logarithms when ``log``."""
        return self.at(float(rng.random()))

    def mutate(self, value: Value, rng: np.random.Generator, max_step: int = 2) -> float:
        """Return a different value at most ``max_step`` tenths of the range away; the same when alone."""
        share = (1.0 - rng.random()) * STRIDE * max_step * (1 if rng.random() < 0.5 else -1)
        return next((near for near in (*self._moved(value, share), *self.values) if near != value), float(value))

    def steps(self, value: Value) -> tuple[float, ...]:
        """Return the values a tenth of the range below and above, within the bounds."""
        return tuple(near for near in self._moved(value, -STRIDE) if near != value)

    def encode(self, value: Value) -> tuple[float, ...]:
        """Return the place in the range, of the logarithm when ``log``, in [0, 1]."""
        low, high, place = (math.log(x) if self.log else x for x in (self.low, self.high, float(value)))
        return (min(1.0, max(0.0, (place - low) / (high - low))) if high > low else 0.0,)

    def narrowed(self, values: Sequence[Value]) -> Choice:
        """Return an ordered choice of some of the values."""
        return Choice(tuple(sorted(float(value) for value in set(values))), ordered=True)

    def at(self, place: float) -> float:
        """Return the value at a place in [0, 1]; a place outside is taken to the nearer bound."""
        place = min(1.0, max(0.0, place))
        low, high = (math.log(x) if self.log else x for x in (self.low, self.high))
        value = low + place * (high - low)
        return min(self.values[-1], max(self.values[0], math.exp(value) if self.log else value))

    def _moved(self, value: Value, share: float) -> tuple[float, float]:
        """Return the values a share of the range away in the one direction and in the other."""
        (place,) = self.encode(value)
        return self.at(place + share), self.at(place - share)

    def optuna_json(self) -> dict[str, Any]:
        """Return a distribution of the same values in the JSON format of Optuna."""
        bounds = {"low": self.values[0], "high": self.values[-1]}
        return {"name": "FloatDistribution", "attributes": {**bounds, "log": self.log, "step": None}}

    def to_json(self) -> dict[str, Any]:
        """Return JSON values that `dimension_from_json` turns back into an equal dimension."""
        return {"kind": "float", "low": self.low, "high": self.high, "log": self.log}


@dataclass(frozen=True)
class Grid(Listed):
    """The floats ``low, low + step, ...`` up to ``high``; 0.3 is the 0.30000000000000004 of three steps of 0.1.

    Raises:
        ConfigError: ``low > high``, the distance is not finite, or ``step`` is not positive.
    """

    low: float
    high: float
    step: float
    values: Steps = field(init=False, repr=False, compare=False)
    ordered: bool = field(init=False, repr=False, compare=False, default=True)

    def __post_init__(self) -> None:
        """Refuse a dimension without proper values."""
        if not (self.low <= self.high and math.isfinite(self.high - self.low) and 0 < self.step < math.inf):
            raise ConfigError(f"grid: {self} has no values; low <= high, a finite distance and step > 0 are needed.")
        low, high, step = (Decimal(str(number)) for number in (self.low, self.high, self.step))  # as Optuna counts
        last = float(low + (high - low) // step * step)
        object.__setattr__(self, "values", Steps(float(self.low), last, float(self.step)))

    @property
    def allowed(self) -> str:
        """Return the values in words."""
        return f"a number from {self.low} to {self.values[-1]} in steps of {self.step}"

    def optuna_json(self) -> dict[str, Any]:
        """Return a distribution of the same values in the JSON format of Optuna."""
        attributes = {"low": self.values.low, "high": self.values.high, "log": False, "step": self.step}
        return {"name": "FloatDistribution", "attributes": attributes}

    def to_json(self) -> dict[str, Any]:
        """Return JSON values that `dimension_from_json` turns back into an equal dimension."""
        return {"kind": "grid", "low": self.low, "high": self.high, "step": self.step}


Dimension = Choice | Integer | Float | Grid
KINDS: dict[str, type[Dimension]] = {"choice": Choice, "integer": Integer, "float": Float, "grid": Grid}


def dimension_from_json(data: Mapping[str, Any]) -> Dimension:
    """Return the dimension that ``to_json`` described.

    Raises:
        ConfigError: The kind is unknown, a field is missing or unknown, or the fields describe no dimension.
    """
    kind = str(data.get("kind"))
    if kind not in KINDS:
        raise unknown_name("dimension", kind, list(KINDS))
    try:
        return KINDS[kind](**{name: value for name, value in data.items() if name != "kind"})
    except TypeError as error:
        raise ConfigError(f"dimension {kind}: {error}; write what to_json() gave.") from None


def dimension_from_optuna(name: str, attributes: Mapping[str, Any]) -> Dimension | None:
    """Return the dimension of a distribution of Optuna, None when no gene can take its values, None among them, say.

    Args:
        name: Class of the distribution.
        attributes: Those with which it was made.
    """
    given = dict(attributes)
    try:
        if name == "CategoricalDistribution":
            return Choice(tuple(given["choices"]))
        if name == "IntDistribution":
            return Integer(given["low"], given["high"], given["step"], given["log"])
        step = given.pop("step")
        return Float(**given) if step is None else Grid(given["low"], given["high"], step)
    except ConfigError:
        return None


def _is_plain(value: object) -> bool:
    """Return whether a value survives JSON and Optuna unchanged."""
    return type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value))


def _line(values: tuple[Value, ...]) -> range | None:
    """Return the range that lists these values, None when there is none."""
    numbers = [value for value in values if type(value) is int]
    if len(values) < 2 or len(numbers) < len(values) or numbers[0] > numbers[1]:
        return None
    line = range(numbers[0], numbers[-1] + 1, numbers[1] - numbers[0])
    return line if list(line) == numbers else None


def _optuna_line(values: range, log: bool = False) -> dict[str, Any]:
    """Return an integer distribution in the JSON format of Optuna."""
    attributes = {"low": values[0], "high": values[-1], "step": values.step, "log": log}
    return {"name": "IntDistribution", "attributes": attributes}
