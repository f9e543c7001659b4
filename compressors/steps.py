"""A recipe of compression: named methods with their knobs, one after the other, and which orders make sense.

Knows the table and what a row says of itself; neither models nor files.
"""

import hashlib
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Any

from compressors import COMPRESSORS
from compressors.base import Compressor
from search_spaces.errors import ConfigError
from search_spaces.registry import unknown_name

Value = bool | int | float | str
RANK = {"structure": 0, "weights": 1, "bits": 2}  # phases that never go back
TRAINED = ("loss", "training")  # stages that act inside a training run
_KNOB = re.compile(r",(?=\w+=)")  # a comma that a knob follows; values may hold commas


@dataclass(frozen=True)
class Step:
    """One method of the table with its knobs; knobs left out have the method's defaults.

    Attributes:
        name: Row of the table.
        knobs: Name -> value, checked; a copy of what was given.
    """

    name: str
    knobs: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse an unknown method or knob, or a value that the method does not take.

        Raises:
            ConfigError: One line with the knob and its value.
        """
        defaults = knob_defaults(self.name)
        for knob, value in self.knobs.items():
            if knob not in defaults:
                raise unknown_name(f"step {self.name}: knob", knob, list(defaults))
            _check_type(f"{self.name}.{knob}", value, defaults[knob])
        object.__setattr__(self, "knobs", dict(self.knobs))
        self.bind()

    @classmethod
    def parse(cls, text: str) -> "Step":
        """Return the step that ``name`` or ``name:knob=value,knob=value`` means.

        Raises:
            ConfigError: It is not written so, or means nothing.
        """
        name, _, rest = text.strip().partition(":")
        defaults = knob_defaults(name)
        knobs: dict[str, Value] = {}
        for part in _KNOB.split(rest) if rest else []:
            knob, equals, value = part.partition("=")
            if not equals or knob in knobs:
                raise ConfigError(f"step {text!r}: {part!r} is no knob; write name:knob=value,knob=value, each once.")
            knobs[knob] = value if isinstance(defaults.get(knob), str) else _read(value)
        return cls(name, knobs)

    @classmethod
    def from_json(cls, value: object) -> "Step":
        """Return what `to_json` wrote; a plain name and ``{name: {knob: value}}`` are read as well.

        Raises:
            ConfigError: It is none of these.
        """
        if isinstance(value, str):
            return cls.parse(value)
        if isinstance(value, Mapping) and set(value) <= {"name", "knobs"} and isinstance(value.get("name"), str):
            name, knobs = value["name"], value.get("knobs") or {}
        elif isinstance(value, Mapping) and len(value) == 1:
            name, knobs = next(iter(value.items()))
            knobs = knobs or {}
        else:
            raise ConfigError(f"step {value!r}: is no step; write a name, or {{name: {{knob: value}}}}.")
        if not isinstance(name, str) or not isinstance(knobs, Mapping):
            raise ConfigError(f"step {value!r}: is no step; write a name, or {{name: {{knob: value}}}}.")
        return cls(name, {str(knob): setting for knob, setting in knobs.items()})

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"name": self.name, "knobs": dict(self.knobs)}

    def bind(self) -> Compressor:
        """Return the method with these knobs, ready for one use.

        Raises:
            ConfigError: The method does not take a value.
        """
        compressor: Compressor = COMPRESSORS.load(self.name)(**self.knobs)
        return compressor

    @property
    def stage(self) -> str:
        """Return when the method acts."""
        return str(COMPRESSORS.load(self.name).stage)

    @property
    def phase(self) -> str:
        """Return what may follow the method."""
        return str(COMPRESSORS.load(self.name).phase)

    @property
    def needs_plain(self) -> bool:
        """Return whether the method, with these knobs, works on layers with matrices of their own only."""
        return bool(getattr(self.bind(), "needs_plain", False))

    @property
    def leaves_plain(self) -> bool:
        """Return whether the method, with these knobs, neither factors nor shares the matrices of layers."""
        return bool(getattr(self.bind(), "leaves_plain", True))

    def __str__(self) -> str:
        """Return the step as `parse` reads it."""
        words = ",".join(f"{knob}={_written(value)}" for knob, value in self.knobs.items())
        return f"{self.name}:{words}" if words else self.name


def knob_defaults(name: str) -> dict[str, Any]:
    """Return the knobs of a method with their defaults.

    Raises:
        ConfigError: The method is not in the table.
    """
    parameters = inspect.signature(COMPRESSORS.load(name)).parameters
    return {knob: parameter.default for knob, parameter in parameters.items()}


def check_order(steps: Sequence[Step]) -> None:
    """Refuse an order in which a step would undo, or never see, what another does.

    Raises:
        ConfigError: One line that names both steps.
    """
    if not steps:
        raise ConfigError(f"steps: {len(steps)} were given; at least one is needed. See them all with: nas compressors")
    for i, later in enumerate(steps):
        for earlier in steps[:i]:
            why = _conflict(earlier, later)
            if why:
                raise ConfigError(f"steps: {later.name!r} cannot follow {earlier.name!r}: {why}.")
    for run in blocks(steps):
        _check_run(run)


def check_standalone(steps: Sequence[Step]) -> None:
    """Refuse steps that only a search can give what they need.

    Raises:
        ConfigError: A step is cut to a target shape, which is a gene of a search.
    """
    for step in steps:
        if hasattr(COMPRESSORS.load(step.name), "aim"):
            raise ConfigError(
                f"steps: {step.name!r} needs a target shape, which only a search gives it; "
                "use unit_pruning to cut heads and neurons by a share."
            )


def blocks(steps: Sequence[Step]) -> list[tuple[Step, ...]]:
    """Return the steps that act together: neighbours of a training run are one block, any other step is its own."""
    numbered = enumerate(steps)
    grouped = groupby(numbered, key=lambda pair: -1 if pair[1].stage in TRAINED else pair[0])
    return [tuple(step for _, step in group) for _, group in grouped]


def prefix_key(steps: Sequence[Step], basis: Mapping[str, Any]) -> str:
    """Return the name of what these steps make: equal steps on an equal basis have equal names.

    Args:
        steps: Those done so far, in order; knobs left out count as their defaults.
        basis: JSON values of all else that determines the result: teacher, data, training, seed.

    Returns:
        sha256 of the canonical JSON, 64 hex digits.
    """
    told = [[step.name, {**knob_defaults(step.name), **step.knobs}] for step in steps]
    text = json.dumps({"steps": told, "basis": dict(basis)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _conflict(earlier: Step, later: Step) -> str:
    """Return why one step cannot come after another; '' when it can."""
    if earlier.stage == "artefact" and later.stage != "artefact":
        return f"{earlier.name!r} rewrites the exported file, so everything else comes before it"
    if later.needs_plain and not earlier.leaves_plain:
        return f"it cuts layers, which must not be factored or shared then; put it before {earlier.name!r}"
    if later.phase == "learning":
        return "training would undo the rounding; put it first" if earlier.phase == "bits" else ""
    if earlier.phase != "learning" and RANK[later.phase] < RANK[earlier.phase]:
        return f"{later.phase} comes before {earlier.phase}, which it would undo"
    if earlier.stage == "artefact" and earlier.name == later.name:
        return "the second would find nothing left to do"
    return ""


def _check_run(run: Sequence[Step]) -> None:
    """Refuse a training run with two losses, or with one method twice."""
    if run[0].stage not in TRAINED:
        return
    losses = [step for step in run if step.stage == "loss"]
    for first, second in [*pairwise(losses), *((a, b) for i, b in enumerate(run) for a in run[:i] if a.name == b.name)]:
        raise ConfigError(
            f"steps: {second.name!r} cannot follow {first.name!r} in one training run, which has one loss and each "
            "method once; leave one out."
        )


def _check_type(where: str, value: object, default: object) -> None:
    """Refuse a value of another kind than the default's."""
    kind = type(default)
    if kind is float and type(value) is int:
        return
    if kind in (bool, int, float, str) and type(value) is not kind:
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
        raise ConfigError(f"{where}: {value!r} is no value for it; write {words[kind]}, e.g. {_written(default)}.")


def _read(text: str) -> Value:
    """Return a value as a person writes it: a number, true, false, or a word."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _written(value: object) -> str:
    """Return a value as `_read` reads it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
