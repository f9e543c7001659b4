"""Structured pruning: FFN neurons and attention heads physically removed, at once or gradually while distilling.

The search decides the student's final shape; this decides how training gets there. ``oneshot`` starts from the
inherited slice of that shape. ``cubic`` starts with the teacher's full widths and removes the least important units
in a few steps along the cubic schedule, so that every removal is chosen by what the student has learnt by then.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from compressors.base import Change, Report, Skip
from compressors.schedule import cubic
from search_spaces.dimensions import Choice
from search_spaces.errors import ConfigError, StateError
from search_spaces.families.encoder_model import EncoderConfig, Layer, TextEncoder
from search_spaces.space import Condition, Space

SCHEDULES = ("oneshot", "cubic")
CRITERIA = ("first_order", "magnitude")
MILESTONES = 8  # removals in all: each costs about as much as a few optimiser steps
MEMORY = 0.9  # of the running importance, a step; about the last 10 batches count
PARTS: Mapping[str, tuple[tuple[str, int], ...]] = {  # kind of unit -> its Linears and the axis it runs over
    "ffn": (("up", 0), ("down", 1)),
    "heads": (("query", 0), ("key", 0), ("value", 0), ("out", 1)),
}


class StructuredPruning:
    """Brings a student from a wide shape to its target shape.

    Source: cubic schedule, Zhu and Gupta 2017, https://arxiv.org/abs/1710.01878; first-order importance of a unit,
    Michel et al. 2019, https://arxiv.org/abs/1905.10650, and Hou et al. 2020 (DynaBERT), sec. 2.1.
    """

    name: ClassVar[str] = "structured_pruning"
    stage: ClassVar[Literal["training"]] = "training"

    def __init__(self, schedule: str = "oneshot", criterion: str = "first_order", end: float = 0.5) -> None:
        """Bind the knobs.

        Args:
            schedule: ``oneshot`` or ``cubic``.
            criterion: ``first_order`` (|w*g| summed over a unit, running mean) or ``magnitude`` (norm of its weights).
            end: Share of the training after which the target shape is reached, above 0 up to 1.

        Raises:
            ConfigError: A knob is out of its range.
        """
        if schedule not in SCHEDULES:
            raise ConfigError(f"structured_pruning.schedule: {schedule!r}; one of {', '.join(SCHEDULES)}.")
        if criterion not in CRITERIA:
            raise ConfigError(f"structured_pruning.criterion: {criterion!r}; one of {', '.join(CRITERIA)}.")
        if not 0 < end <= 1:
            raise ConfigError(f"structured_pruning.end: {end} is out of range; above 0 up to 1.")
        self.schedule, self.criterion, self.end = schedule, criterion, end
        self._target: EncoderConfig | None = None
        self._student: TextEncoder | None = None
        self._start: EncoderConfig | None = None
        self._milestones: dict[int, float] = {}
        self._scores: dict[tuple[int, str], Tensor] = {}

    @classmethod
    def space(cls) -> Space:
        """Return the knobs; the criterion and the end matter only when pruning is gradual."""
        return Space(
            {
                "schedule": Choice(SCHEDULES),
                "criterion": Choice(CRITERIA),
                "end": Choice((0.3, 0.5, 0.7), ordered=True),
            },
            {"criterion": Condition("schedule", ("cubic",)), "end": Condition("schedule", ("cubic",))},
        )

    @property
    def is_gradual(self) -> bool:
        """Return True if training begins wider than it ends."""
        return self.schedule == "cubic"

    def aim(self, target: EncoderConfig) -> None:
        """Set the shape to reach; called before `begin` when pruning is gradual."""
        self._target = target

    def begin(self, student: nn.Module, n_steps: int) -> None:
        """Plan the removals.

        Raises:
            StateError: No target was set, or the student is nowhere wide enough for it.
        """
        assert isinstance(student, TextEncoder)
        self._student, self._start = student, student.config
        if not self.is_gradual:
            return
        if self._target is None:
            raise StateError(f"structured_pruning.schedule: {self.schedule!r} needs a target shape. Call aim() first.")
        _check_reachable(student.config, self._target)
        last = max(1, round(self.end * n_steps))
        steps = sorted({max(1, round(last * (i + 1) / MILESTONES)) for i in range(MILESTONES)})
        self._milestones = {step - 1: cubic(step / last) for step in steps}
        self._scores = {}

    def after_backward(self, step: int) -> None:
        """Follow the importance of every unit that may go."""
        if not self._milestones or self.criterion != "first_order" or step > max(self._milestones):
            return
        for key, layer in self._units():
            scores = _scores(layer, key[1], self.criterion, self._head_size)
            before = self._scores.get(key)
            self._scores[key] = scores if before is None else MEMORY * before + (1 - MEMORY) * scores

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> bool:
        """Remove units at a milestone; True when parameters were replaced."""
        share = self._milestones.get(step)
        if share is None:
            return False
        changed = False
        for key, layer in self._units():
            changed |= self._shrink(key, layer, share, optimizer)
        self._note_shape()
        return changed

    def report(self) -> Report:
        """Return the widths before and after, layer by layer."""
        if self._student is None or self._start is None or not self.is_gradual:
            return Report(self.name, skipped=(Skip("all layers", "oneshot: the student was inherited in its shape"),))
        changed, skipped = [], []
        for kind in PARTS:
            for i, (before, after) in enumerate(zip(_widths(self._start, kind), _widths(self._now, kind), strict=True)):
                where = f"layers.{i}.{kind}"
                if before == after:
                    skipped.append(Skip(where, "has its target width already"))
                else:
                    changed.append(Change(where, before, after))
        return Report(self.name, tuple(changed), tuple(skipped))

    @property
    def _now(self) -> EncoderConfig:
        """Return the student's present shape."""
        assert self._student is not None
        return self._student.config

    @property
    def _head_size(self) -> int:
        """Return the width of a head."""
        return self._now.head_size

    def _units(self) -> Iterator[tuple[tuple[int, str], Layer]]:
        """Yield layer index and kind of every set of units that is not at its target yet."""
        assert self._student is not None
        assert self._target is not None
        for i, layer in enumerate(self._student.layers):
            for kind in PARTS:
                if _width(layer, kind, self._head_size) > _widths(self._target, kind)[i]:
                    assert isinstance(layer, Layer)
                    yield (i, kind), layer

    def _shrink(self, key: tuple[int, str], layer: Layer, share: float, optimizer: torch.optim.Optimizer) -> bool:
        """Cut one set of units to its width at a share of the way."""
        assert self._target is not None
        assert self._start is not None
        index, kind = key
        first, last = _widths(self._start, kind)[index], _widths(self._target, kind)[index]
        present, wanted = _width(layer, kind, self._head_size), last + round((1 - share) * (first - last))
        if wanted >= present:
            return False
        scores = self._scores.get(key)
        if scores is None:
            scores = _scores(layer, kind, self.criterion, self._head_size)
        units = torch.topk(scores, wanted).indices.sort().values
        size = self._head_size if kind == "heads" else 1
        kept = (units[:, None] * size + torch.arange(size, device=units.device)).flatten()
        for name, axis in PARTS[kind]:
            _cut(getattr(layer, name), axis, kept, optimizer)
        if key in self._scores:
            self._scores[key] = self._scores[key][units]
        return True

    def _note_shape(self) -> None:
        """Make the student's config say what its tensors are."""
        assert self._student is not None
        layers = self._student.layers
        heads = tuple(_width(layer, "heads", self._head_size) for layer in layers)
        ffn = tuple(_width(layer, "ffn", self._head_size) for layer in layers)
        self._student.config = replace(self._student.config, heads=heads, ffn=ffn)


def _check_reachable(start: EncoderConfig, target: EncoderConfig) -> None:
    """Check that a target can be reached by removing heads and FFN neurons only."""
    same = replace(start, heads=target.heads, ffn=target.ffn)
    if start.depth != target.depth or same != target:
        raise StateError(f"structured_pruning: {target} differs from {start} in more than heads and ffn widths.")
    for kind in PARTS:
        for i, (before, after) in enumerate(zip(_widths(start, kind), _widths(target, kind), strict=True)):
            if before < after:
                raise StateError(f"structured_pruning: layers.{i}.{kind}: {before} cannot grow to {after}.")


def _widths(config: EncoderConfig, kind: str) -> tuple[int, ...]:
    """Return how many units of a kind each layer of a shape has."""
    return config.heads if kind == "heads" else config.ffn


def _width(layer: Any, kind: str, head_size: int) -> int:
    """Return how many units of a kind a layer has."""
    return int(layer.query.out_features) // head_size if kind == "heads" else int(layer.up.out_features)


def _scores(layer: Layer, kind: str, criterion: str, head_size: int) -> Tensor:
    """Return the importance of every unit of a layer; larger = keep."""
    if criterion == "magnitude":
        parts = [_by_unit(getattr(layer, name).weight.detach() ** 2, axis) for name, axis in PARTS[kind]]
    elif kind == "heads":  # dL/dgate of a head is the sum of w*g over its columns of the output projection
        parts = [_by_unit(_product(layer.out.weight), 1)]
    else:
        parts = [(_by_unit(_product(layer.up.weight), 0) + _product(layer.up.bias)).abs()]
        parts.append(_by_unit(_product(layer.down.weight), 1).abs())
    total = torch.stack(parts).sum(dim=0)
    if kind == "heads":
        total = total.view(-1, head_size).sum(dim=1)
    return total.abs()


def _product(parameter: Tensor) -> Tensor:
    """Return w*g."""
    assert parameter.grad is not None, "after_backward comes after backward"
    return parameter.detach() * parameter.grad


def _by_unit(matrix: Tensor, axis: int) -> Tensor:
    """Return the sums over all but one axis."""
    return matrix.sum(dim=1 - axis)


def _cut(linear: nn.Linear, axis: int, kept: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Keep these rows (axis 0, with the bias) or columns (axis 1) of a Linear, its gradients and optimiser state."""
    linear.weight = _sliced(linear.weight, axis, kept, optimizer)
    if axis == 0:
        linear.bias = _sliced(linear.bias, 0, kept, optimizer)
        linear.out_features = len(kept)
    else:
        linear.in_features = len(kept)


def _sliced(old: Tensor, axis: int, kept: Tensor, optimizer: torch.optim.Optimizer) -> nn.Parameter:
    """Return a smaller parameter that takes the old one's place in the optimiser."""
    new = nn.Parameter(old.detach().index_select(axis, kept).contiguous(), old.requires_grad)
    for group in optimizer.param_groups:
        group["params"] = [new if p is old else p for p in group["params"]]
    state = optimizer.state.pop(old, None)
    if state is not None:
        optimizer.state[new] = {
            name: value.index_select(axis, kept).contiguous() if _is_like(value, old) else value
            for name, value in state.items()
        }
    return new


def _is_like(value: object, parameter: Tensor) -> bool:
    """Return True for optimiser state that has an entry for each weight."""
    return isinstance(value, Tensor) and value.shape == parameter.shape
