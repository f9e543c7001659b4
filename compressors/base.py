"""What every compressor is: knobs declared as dimensions, a stage, and a report of what it did.

A compressor belongs to one of three stages. ``loss`` gives the loss of the training loop, ``training`` acts between
optimiser steps (pruning on a schedule), ``artefact`` rewrites the exported model (quantization).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import nn

from search_spaces.space import Space

Stage = Literal["loss", "training", "artefact"]


@dataclass(frozen=True)
class Change:
    """One thing a compressor changed: where, what it was, what it is now (both JSON values, e.g. a width or bytes)."""

    where: str
    before: int | float | str
    after: int | float | str


@dataclass(frozen=True)
class Skip:
    """One thing a compressor left alone, and why."""

    where: str
    why: str


@dataclass(frozen=True)
class Report:
    """What one compressor did to one model; nothing happens silently."""

    compressor: str
    changed: tuple[Change, ...] = ()
    skipped: tuple[Skip, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return asdict(self)


@runtime_checkable
class Compressor(Protocol):
    """A method with its knobs bound: ``COMPRESSORS.load(name)(**knobs)``; every knob has a default."""

    name: ClassVar[str]
    stage: ClassVar[Stage]

    @classmethod
    def space(cls) -> Space:
        """Return the knobs as a space of their own (unprefixed names), conditions included."""
        ...

    def report(self) -> Report:
        """Return what was changed and skipped so far."""
        ...


class TrainingCompressor(Compressor, Protocol):
    """Acts between the optimiser steps of one training run; it owns the student it was given by `begin`."""

    def begin(self, student: nn.Module, n_steps: int) -> None:
        """Take the student in hand before the first of ``n_steps`` steps."""
        ...

    def after_backward(self, step: int) -> None:
        """Read gradients before the optimiser uses them; ``step`` counts from 0."""
        ...

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> bool:
        """Change the student after an optimiser step; True when parameters were replaced by smaller ones.

        A compressor that replaces a parameter also moves the parameter's optimiser state, sliced alike.
        """
        ...


class ArtefactCompressor(Compressor, Protocol):
    """Rewrites an exported ONNX model."""

    def apply(self, artefact: bytes) -> bytes:
        """Return the compressed model; the argument is not changed."""
        ...
