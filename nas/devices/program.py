"""A loaded artefact, whatever the runtime: what goes in, what comes out, and one call of it.

Knows arrays. Imports nothing but numpy and the project's kernel, for it also runs in the small process that weighs an
artefact, and on boards.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import numpy as np

from nas.devices.base import Workload
from search_spaces.registry import Table
from search_spaces.seeding import rng_for

VOCABULARY = 16  # ids to draw from for a file that does not say how many it has

Feed = dict[str, np.ndarray]
Load = Callable[[bytes, int, Mapping[str, Any]], "Program"]
"""Loads an artefact for a number of threads, with the options of the backend as plain values; raises `RefusalError`."""

PROGRAMS = Table(
    "runtime",
    {
        "executorch": "nas.devices.executorch_program:load",
        "litert": "nas.devices.litert_program:load",
        "onnxruntime": "nas.devices.onnxruntime_program:load",
        "openvino": "nas.devices.openvino_program:load",
        "torch": "nas.devices.torch_program:load",
    },
)


class RefusalError(Exception):
    """A runtime's own refusal, in its words."""


@dataclass(frozen=True)
class Port:
    """An input or an output: its name, its shape (None = free), its type in numpy."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]


class Program(Protocol):
    """An artefact in its runtime.

    Attributes:
        inputs: What it wants, in order.
        outputs: What it gives, in order.
        vocabulary: Ids that a text model knows; None where the artefact does not say.
    """

    inputs: Sequence[Port]
    outputs: Sequence[Port]
    vocabulary: int | None

    def run(self, feed: Feed) -> list[np.ndarray]:
        """Return the outputs of one call.

        Raises:
            RefusalError: The runtime refuses an input.
        """
        ...

    def call(self, feed: Feed) -> Callable[[], object]:
        """Return the call that production would make again and again with such an input; it has not run yet."""
        ...


def text_feed(program: Program, ids: np.ndarray, types: np.ndarray) -> Feed:
    """Return what a text encoder wants of ``(rows, tokens)`` ids without padding.

    Raises:
        RefusalError: It wants something else.
    """
    given = {"input_ids": ids, "attention_mask": np.ones(ids.shape), "token_type_ids": types}
    for port in program.inputs:
        if port.name not in given:
            refuse(f"its input {port.name!r} is none of a text encoder: {', '.join(given)}")
    return {port.name: given[port.name].astype(port.dtype) for port in program.inputs}


def filled(program: Program, workload: Workload, tokens: int) -> Feed:
    """Return inputs of the shapes that a workload means: random but always the same ids and numbers, no padding.

    Masks are ones, types of tokens zeros. The first free axis is the batch, every other one has ``tokens``.

    Raises:
        RefusalError: An input is no tensor of numbers, or a shape is given for an input that does not exist.
    """
    names = [port.name for port in program.inputs]
    for name in workload.shapes:
        if name not in names:
            refuse(f"there is no input {name!r}; it has {', '.join(names)}")
    words = program.vocabulary or VOCABULARY
    return {port.name: _values(port, _shape(port, workload, tokens), words) for port in program.inputs}


def refuse(reason: str) -> NoReturn:
    """Raise a refusal of ours."""
    raise RefusalError(reason)


def _shape(port: Port, workload: Workload, tokens: int) -> tuple[int, ...]:
    """Return the whole shape of one input."""
    if port.name in workload.shapes:
        return tuple(workload.shapes[port.name])
    free = (workload.batch, *([tokens] * len(port.shape)))
    return tuple(free[axis] if size is None else size for axis, size in enumerate(port.shape))


def _values(port: Port, shape: tuple[int, ...], words: int) -> np.ndarray:
    """Return the content of one input, by its type and name."""
    kind, rng = port.dtype.kind, rng_for(0, "workload", *shape)
    if kind == "O":
        refuse(f"input {port.name!r} is no tensor of numbers")
    if kind == "b" or "mask" in port.name:
        return np.ones(shape, port.dtype)
    if kind in "iu":
        is_type = "type" in port.name
        return np.zeros(shape, port.dtype) if is_type else rng.integers(0, words, shape).astype(port.dtype)
    return rng.standard_normal(shape).astype(port.dtype)
