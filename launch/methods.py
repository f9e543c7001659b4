"""`nas compressors`: how a model can be made smaller, by name, and what may be set of each way."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

from compressors import COMPRESSORS
from compressors.steps import knob_defaults
from launch.listing import print_line, print_lines, print_table
from search_spaces.dimensions import Choice


def methods(name: str | None) -> int:
    """Print all methods, or one with its knobs; return the exit code."""
    if name is None:
        loaded = [(row, COMPRESSORS.load(row)) for row in COMPRESSORS]
        print_lines(("method", "acts on", "what it does"), [(row, cls.stage, cls.suits) for row, cls in loaded])
        print_line("Show the knobs of one with: nas compressors METHOD")
        return 0
    cls = COMPRESSORS.load(name)
    print_line(f"{name}: {cls.suits}; acts on: {cls.stage}; phase: {cls.phase}")
    print_table(("knob", "default", "a search tries", "what it does"), _knobs(name, cls))
    print_line(f"Set one with: --step {name}:KNOB=VALUE")
    return 0


def _knobs(name: str, cls: Any) -> Iterator[tuple[str, ...]]:
    """Return knob, default, choices of a search and meaning of all knobs of a method."""
    space, meanings = cls.space(), _meanings(cls)
    for knob, default in knob_defaults(name).items():
        dimension = space.dimensions.get(knob)
        yield knob, str(default), _choices(dimension), meanings.get(knob, "").replace("`", "")


def _choices(dimension: Any) -> str:
    """Return what a search tries of a knob, numbers with three digits."""
    if not isinstance(dimension, Choice):
        return dimension.allowed if dimension else ""
    return ", ".join(f"{value:.3g}" if isinstance(value, float) else str(value) for value in dimension.values)


def _meanings(cls: Any) -> dict[str, str]:
    """Return what the docstring of a constructor says of its arguments."""
    text = inspect.getdoc(cls.__init__) or ""
    section = re.search(r"^Args:\n((?:    .*\n?|\n)*)", text, re.MULTILINE)
    entries = re.findall(r"^    (\w+): (.*(?:\n {8,}.*)*)", section.group(1) if section else "", re.MULTILINE)
    return {knob: " ".join(words.split()) for knob, words in entries}
