"""What every compressor is: knobs declared as dimensions, a stage, and a report of what it did.

A compressor acts at one of four stages. ``model`` makes another model of a trained one (pruning at once, low rank,
sharing), ``loss`` gives the loss of a training run, ``training`` acts between its optimiser steps (pruning on a
schedule, quantization-aware training), ``artefact`` rewrites the exported model (quantization).

Its phase says what may follow what in a recipe: ``structure`` changes shapes, ``weights`` sets single weights to zero,
``bits`` leaves values that fit few bits, which every later change would undo. A recipe's phases never go back;
``learning`` fits anywhere before ``bits``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces.space import Space

Stage = Literal["model", "loss", "training", "artefact"]
Phase = Literal["structure", "weights", "learning", "bits"]
Sample = tuple[tuple[Tensor, ...], Tensor]
"""Inputs of a model, each ``(rows, ...)`` (of a text encoder ids, mask and types), and ``(rows,)`` int64 labels."""

Run = Callable[[bytes], Iterator[Mapping[str, np.ndarray]]]
"""Runs an ONNX model on calibration rows of the *training* split and yields its outputs by name, batch by batch."""


@dataclass(frozen=True)
class Material:
    """What a compressor may look at besides the model.

    Attributes:
        batches: Some hundred rows of the *training* split, for scores and calibration.
        seed: Of every random choice.
        corpus: ``(vocab_size,)`` int64, how often each token occurs in the *whole* training split; None = unknown.
        tokenizer: The model's fast tokenizer of `transformers`; None = unknown or no text.
    """

    batches: Sequence[Sample]
    seed: int = 0
    corpus: np.ndarray | None = None
    tokenizer: Any = None


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
    """What one compressor did to one model; nothing happens silently.

    Attributes:
        compressor: Its name.
        changed: What it changed.
        skipped: What it left alone.
        figures: Numbers by name.
        ranges: Name of a layer -> least and largest input that a training rounded to, for whoever fixes such ranges.
    """

    compressor: str
    changed: tuple[Change, ...] = ()
    skipped: tuple[Skip, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "Report":
        """Return the report that `to_json` wrote, also before there were ``ranges``."""
        changed = tuple(Change(**change) for change in told["changed"])
        skipped = tuple(Skip(**skip) for skip in told["skipped"])
        ranges = {layer: (low, high) for layer, (low, high) in told.get("ranges", {}).items()}
        return cls(told["compressor"], changed, skipped, told["figures"], ranges)


@runtime_checkable
class Compressor(Protocol):
    """A method with its knobs bound: ``COMPRESSORS.load(name)(**knobs)``; every knob has a default.

    Attributes:
        name: Its row of the table.
        suits: What it does and what it is good for, in one line of at most 100 letters.
        stage: When it acts.
        phase: What may follow it.
    """

    name: ClassVar[str]
    suits: ClassVar[str]
    stage: ClassVar[Stage]
    phase: ClassVar[Phase]

    @classmethod
    def space(cls) -> Space:
        """Return the knobs as a space of their own (unprefixed names), conditions included."""
        ...

    def report(self) -> Report:
        """Return what was changed and skipped so far."""
        ...


class ModelCompressor(Compressor, Protocol):
    """Makes another model of a model.

    Where the new shape follows from the old one and the knobs alone, a method may also have
    ``shape(config: EncoderConfig) -> EncoderConfig``: the config of what `apply` makes of an encoder of this config; it
    raises ConfigError where `apply` would for the config's sake. A search then knows what a candidate costs before it
    is made, and refuses what cannot be made. Without it every choice of the knobs is measured for every shape.

    A layer is plain if its matrices are neither factored nor shared. `compressors.steps` refuses a method whose
    ``needs_plain`` is True after one whose ``leaves_plain`` is False; both are optional properties of a bound method.
    """

    def apply(self, model: nn.Module, material: Material) -> nn.Module:
        """Return the compressed model in evaluation mode; it shares no memory with the argument, which is not changed.

        Args:
            model: Called with the inputs of a sample it returns ``(rows, labels)`` logits.
            material: Rows to score or calibrate on.

        Raises:
            ConfigError: Nothing in the model can be compressed so; names the layers there are.
        """
        ...


class TrainingCompressor(Compressor, Protocol):
    """Acts in one training run; `Inner` has the calls that most leave out.

    What computes is a twin of the student: the trained weights, rounded to the number type of the machine and then
    rewritten by the compressors. Gradients of the twin's weights become those of the student's, which is the
    straight-through estimator (Bengio et al. 2013, https://arxiv.org/abs/1308.3432).

    """

    @property
    def rewrites(self) -> bool:
        """Return whether `rewrite` does anything with these knobs; if not, the student itself may be what computes."""
        ...

    @property
    def is_settled(self) -> bool:
        """Return whether all is done that is to be done at some step, so that a training may end before its last."""
        ...

    def begin(self, student: nn.Module, n_steps: int) -> None:
        """Take the student in hand before the first of ``n_steps`` steps; parameters added here are trained."""
        ...

    def rewrite(self, twin: nn.Module) -> None:
        """Change what computes, after it got the student's weights: at the beginning and after every step.

        Args:
            twin: Has the student's modules. Its weights are overwritten before every call; hooks stay, unless a
                compressor replaced parameters, which makes a new twin.
        """
        ...

    def after_backward(self, step: int) -> None:
        """Read or change the student's gradients before the optimiser uses them; ``step`` counts from 0."""
        ...

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> bool:
        """Change the student after an optimiser step; True when parameters were replaced by smaller ones.

        A compressor that replaces a parameter also moves the parameter's optimiser state, sliced alike.
        """
        ...

    def end(self) -> None:
        """Leave the student as it is to be kept: with the weights that computed, and nothing else."""
        ...


class Inner:
    """A training compressor that does nothing."""

    stage: ClassVar[Literal["training"]] = "training"

    @property
    def rewrites(self) -> bool:
        """Return False."""
        return False

    @property
    def is_settled(self) -> bool:
        """Return True."""
        return True

    def begin(self, student: nn.Module, n_steps: int) -> None:
        """Do nothing; see `TrainingCompressor`, as for all below."""

    def rewrite(self, twin: nn.Module) -> None:
        """Do nothing."""

    def after_backward(self, step: int) -> None:
        """Do nothing."""

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> bool:
        """Replace nothing."""
        return False

    def end(self) -> None:
        """Do nothing."""


class ArtefactCompressor(Compressor, Protocol):
    """Rewrites an exported model.

    One that needs an optional package also has ``why_not() -> str | None``, a class method: what to install, or None.
    One that fixes the ranges of activations also has ``take(ranges)``, called before `apply` with those that a
    training found, see `Report`.

    Attributes:
        formats: The formats of artefacts, see `nas.devices.base.FILES`, that stay what they are when it rewrites them.
        same_cost: Knobs that change neither the time nor the bytes of the artefact; a search measures one value.
    """

    formats: ClassVar[tuple[str, ...]]
    same_cost: ClassVar[tuple[str, ...]]

    def apply(self, artefact: bytes, run: Run | None = None) -> bytes:
        """Return the compressed model; the argument is not changed.

        Args:
            artefact: A file of one of the formats.
            run: For a method that has to see activations.

        Raises:
            ConfigError: Nothing in the model can be compressed so, or ``run`` is missing where it is needed.
        """
        ...
