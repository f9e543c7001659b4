"""What a recipe asks for, on each of its devices.

A search for several devices tells their latencies apart by name, ``latency_ms@phone``; a plain name is then that of the
first device. Where there is one device, called "", all names are plain. So one front a device and one search over all
of them differ in which objectives are looked at, and in nothing else.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from nas.objectives import BY_DEVICE, LATENCY, Constraint, Objective, at, device_of, plain
from nas.recipe import Recipe
from search_spaces.errors import ConfigError
from search_spaces.registry import unknown_name

Goal = TypeVar("Goal", Objective, Constraint)


def objectives_of(recipe: Recipe) -> list[Objective]:
    """Return what a recipe optimises; a latency that names no device is one objective for each.

    Raises:
        ConfigError: A metric or a device is unknown.
    """
    found = (Objective.of(name) for name in recipe.objectives)
    return list(dict.fromkeys(o.on(device) for o in found for device in _devices("objectives", o.name, recipe)))


def constraints_of(recipe: Recipe) -> list[Constraint]:
    """Return what a recipe demands; a bound on latency that names no device holds on each.

    Raises:
        ConfigError: A text cannot be read, or a device is unknown.
    """
    found = (Constraint.parse(text) for text in recipe.constraints)
    return list(dict.fromkeys(c.on(device) for c in found for device in _devices("constraints", c.metric, recipe)))


def objectives_on(device: str, objectives: Sequence[Objective]) -> list[Objective]:
    """Return the objectives that count on one device."""
    return [o for o in objectives if device_of(o.name) in ("", device)]


def constraints_on(device: str, constraints: Sequence[Constraint]) -> list[Constraint]:
    """Return the constraints that count on one device."""
    return [c for c in constraints if device_of(c.metric) in ("", device)]


def miss_on(device: str, misses: Mapping[str, float]) -> float:
    """Return by how much, at most, constraints are missed that count on one device; they are named by their texts."""
    told = {text: device_of(Constraint.parse(text).metric) for text in misses}
    return max((miss for text, miss in misses.items() if told[text] in ("", device)), default=0.0)


def ceilings_on(device: str, constraints: Sequence[Constraint]) -> list[Constraint]:
    """Return the upper bounds on the latency of one device."""
    return [c for c in constraints if c.metric in (LATENCY, at(LATENCY, device)) and c.is_ceiling]


def seen_on(device: str, metrics: Mapping[str, float]) -> dict[str, float]:
    """Return all metrics with those of one device under their plain names, too."""
    own = {plain(name): value for name, value in metrics.items() if device and device_of(name) == device}
    return {**metrics, **own}


def on(device: str) -> str:
    """Return the words that say on which of several devices, with a space before them; nothing for the only one."""
    return f" on {device}" if device else ""


def _devices(where: str, name: str, recipe: Recipe) -> list[str]:
    """Return the devices that a metric is meant on, as far as it differs between them."""
    named, known = device_of(name), list(recipe.targets)
    if named and known == [""]:
        raise ConfigError(f"{where}: {name!r}: the search is for one device; write {plain(name)}, or give devices.")
    if named and named not in known:
        raise unknown_name(f"{where}: {name}: device", named, known)
    if named:
        return [named]
    return known if name in BY_DEVICE else [""]
