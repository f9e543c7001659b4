"""Structured pruning: whole attention heads and FFN neurons go, and the student really gets smaller and faster.

With schedule ``oneshot`` the slice that the student inherited is final. With the others the student starts wide and is
cut, while it learns, in a few milestones to exactly the target shape: what to keep is decided by the student's own
gradients and not once and for all by the teacher's. ``cubic`` cuts often and most at first; ``progressive`` cuts
rarely, each time by the same share of at most 30 %, and lets the student recover for as long after a cut as before it.

Knows encoders and optimisers; not losses, not the search.
"""

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from compressors.base import Change, Inner, Phase, Report, Skip
from compressors.schedule import cubic, geometric, rounds
from compressors.units import Cut, block_units, cut_parameter, head_scores, neuron_scores
from search_spaces.dimensions import Choice
from search_spaces.errors import ConfigError, StateError
from search_spaces.families.encoder_model import EncoderConfig, Layer, TextEncoder
from search_spaces.registry import unknown_name
from search_spaces.space import Condition, Space

SCHEDULES = ("oneshot", "cubic", "progressive")
GRADUAL = SCHEDULES[1:]
CRITERIA = ("first_order", "magnitude")
MILESTONES = 8  # of the cubic schedule
NEURON_MULTIPLE = 32  # widths between milestones; odd widths are slow
SCORE_EVERY = 4  # steps; scores move slowly and cost a pass over the weights
MEMORY = 0.9  # of the moving average of scores


class StructuredPruning(Inner):
    """Cut heads and FFN neurons of a student to a target shape while it is trained.

    Source: Zhu and Gupta 2017, https://arxiv.org/abs/1710.01878 (schedule); Hou et al. 2020 (DynaBERT),
    https://arxiv.org/abs/2004.04037, sec. 2.1 (importance of heads and neurons); see `compressors.schedule.rounds`.
    """

    name: ClassVar[str] = "structured_pruning"
    suits: ClassVar[str] = "cuts heads and neurons while the student learns: smaller and really faster everywhere"
    phase: ClassVar[Phase] = "structure"

    def __init__(self, schedule: str = "oneshot", criterion: str = "first_order", end: float = 0.5) -> None:
        """Bind the knobs.

        Args:
            schedule: ``oneshot``, ``cubic``, or ``progressive`` (one cut up to 30 %, two up to 51 %, three up to 66 %).
            criterion: ``first_order`` (|weight * gradient|, averaged over steps) or ``magnitude`` (of the weights).
            end: Share of the steps after which the target shape is reached, above 0 up to 1.

        Raises:
            ConfigError: A knob is not one of these.
        """
        if schedule not in SCHEDULES:
            raise unknown_name(f"{self.name}.schedule", schedule, list(SCHEDULES))
        if criterion not in CRITERIA:
            raise unknown_name(f"{self.name}.criterion", criterion, list(CRITERIA))
        if not 0 < end <= 1:
            raise ConfigError(f"{self.name}.end: {end} is out of range; above 0, at most 1.")
        self.schedule, self.criterion, self._end = schedule, criterion, end
        self._target: EncoderConfig | None = None
        self._student: TextEncoder | None = None
        self._scores: dict[str, Tensor] = {}
        self._n_steps, self._milestone, self._n_milestones = 0, 0, MILESTONES

    @classmethod
    def space(cls) -> Space:
        """Return the knobs; ``criterion`` and ``end`` mean something only where the student is cut."""
        return Space(
            {
                "schedule": Choice(SCHEDULES),
                "criterion": Choice(CRITERIA),
                "end": Choice((0.5, 0.7), ordered=True),
            },
            {"criterion": Condition("schedule", GRADUAL), "end": Condition("schedule", GRADUAL)},
        )

    @property
    def is_gradual(self) -> bool:
        """Return True if the student starts wider than its target."""
        return self.schedule in GRADUAL

    @property
    def needs_plain(self) -> bool:
        """Return True if it cuts: `compressors.units` cuts plain layers only."""
        return self.is_gradual

    @property
    def is_settled(self) -> bool:
        """Return whether the target shape is reached."""
        return not self._is_cutting()

    def aim(self, target: EncoderConfig) -> None:
        """Set the shape to reach; needed before `begin` when gradual."""
        self._target = target

    def begin(self, student: nn.Module, n_steps: int) -> None:
        """Take the student in hand; nothing is cut yet.

        Raises:
            StateError: Gradual, and no target was set.
            ConfigError: The student is no text encoder, or the target is not a narrower version of it.
        """
        if not isinstance(student, TextEncoder):
            raise ConfigError(
                f"structured_pruning: a {type(student).__name__} has no heads and neurons that can go; a text encoder "
                "has. Use unit_pruning."
            )
        if self.is_gradual and self._target is None:
            raise StateError(
                f"structured_pruning: schedule {self.schedule!r} has no target shape; aim() sets it. Call it first."
            )
        if self._target is not None:
            _check_narrower(student.config, self._target)
        self._student, self._n_steps, self._milestone = student, n_steps, 0
        self._start, self._scores = student.config, {}
        if self.schedule == "progressive":
            assert self._target is not None
            ends = zip(student.config.heads + student.config.ffn, self._target.heads + self._target.ffn, strict=True)
            self._n_milestones = max(rounds(start, target) for start, target in ends)

    def after_backward(self, step: int) -> None:
        """Average |weight * gradient| of every unit, at every fourth step."""
        if self.criterion == "first_order" and self._is_cutting() and step % SCORE_EVERY == 0:
            for name, score in self._measure(with_gradient=True).items():
                old = self._scores.get(name)
                self._scores[name] = score if old is None else MEMORY * old + (1 - MEMORY) * score

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> bool:
        """Cut to the next milestone when its step has come; True when parameters were replaced."""
        if not self._is_cutting():
            return False
        n = self._n_milestones
        milestone = min(n, int(n * (step + 1) / (self._end * self._n_steps) + 1e-9))
        if milestone == self._milestone:
            return False
        self._milestone = milestone
        return self._cut_to(self._shape_at(milestone), optimizer)

    def report(self) -> Report:
        """Return the widths of every layer before and now."""
        if not self.is_gradual:
            return Report(self.name, skipped=(Skip("layers", "schedule is oneshot: the inherited slice is final"),))
        if self._student is None:
            return Report(self.name, skipped=(Skip("layers", "training has not begun"),))
        before, now = self._start, self._student.config
        changed = [Change(f"heads.{i}", before.heads[i], now.heads[i]) for i in range(now.depth)]
        changed += [Change(f"ffn.{i}", before.ffn[i], now.ffn[i]) for i in range(now.depth)]
        same = [Skip(change.where, "already at its target") for change in changed if change.before == change.after]
        real = [change for change in changed if change.before != change.after]
        return Report(self.name, tuple(real), tuple(same), {"milestones": float(self._milestone)})

    def _is_cutting(self) -> bool:
        return self.is_gradual and self._student is not None and self._milestone < self._n_milestones

    def _shape_at(self, milestone: int) -> EncoderConfig:
        """Return the shape after a milestone; the last one is the target to the unit."""
        assert self._target is not None
        start, target = self._start, self._target
        heads = tuple(
            b + round((a - b) * self._left(milestone, a, b)) for a, b in zip(start.heads, target.heads, strict=True)
        )
        ffn = tuple(_between(a, b, self._left(milestone, a, b)) for a, b in zip(start.ffn, target.ffn, strict=True))
        return replace(start, heads=heads, ffn=ffn)

    def _left(self, milestone: int, start: int, target: int) -> float:
        """Return the share of what has to go of a width that is still there after a milestone."""
        done = milestone / self._n_milestones
        return 1 - (geometric(start, target, done) if self.schedule == "progressive" else cubic(done))

    def _measure(self, with_gradient: bool) -> dict[str, Tensor]:
        """Return the scores of all units, ``heads.i`` and ``ffn.i``."""
        assert self._student is not None
        scores = {}
        for index, layer in enumerate(self._student.layers):
            assert isinstance(layer, Layer)
            scores[f"heads.{index}"] = head_scores(layer, with_gradient)
            scores[f"ffn.{index}"] = neuron_scores(layer, with_gradient)
        return scores

    def _cut_to(self, shape: EncoderConfig, optimizer: torch.optim.Optimizer) -> bool:
        """Keep the best units of every layer that is wider than ``shape``; return whether any was."""
        student = self._student
        assert student is not None
        if shape == student.config:
            return False
        scores = self._scores if self.criterion == "first_order" else self._measure(with_gradient=False)
        for index, layer in enumerate(student.layers):
            assert isinstance(layer, Layer)
            heads = _best(scores[f"heads.{index}"], shape.heads[index])
            neurons = _best(scores[f"ffn.{index}"], shape.ffn[index])
            _cut_layer(layer, heads, neurons, optimizer)
            self._scores[f"heads.{index}"] = scores[f"heads.{index}"][heads]
            self._scores[f"ffn.{index}"] = scores[f"ffn.{index}"][neurons]
        student.config = shape
        return True


def _check_narrower(start: EncoderConfig, target: EncoderConfig) -> None:
    """Refuse a target that cutting heads and neurons cannot reach."""
    same = replace(start, heads=target.heads, ffn=target.ffn) if start.depth == target.depth else None
    pairs = [*zip(target.heads, start.heads, strict=False), *zip(target.ffn, start.ffn, strict=False)]
    if same != target or any(narrow > wide for narrow, wide in pairs):
        raise ConfigError(
            f"structured_pruning: the target has heads {target.heads}, ffn {target.ffn}, hidden {target.hidden}, the "
            f"student heads {start.heads}, ffn {start.ffn}, hidden {start.hidden}; only heads and ffn can shrink. "
            "Start with the family's widen(target)."
        )


def _between(start: int, target: int, left: float) -> int:
    """Return a width on the way, a multiple of 32 above the target."""
    width = target + (start - target) * left
    return min(start, target + NEURON_MULTIPLE * round((width - target) / NEURON_MULTIPLE))


def _best(scores: Tensor, n: int) -> Tensor:
    """Return the ``n`` best units in their original order; of equals the first."""
    return torch.argsort(scores, descending=True, stable=True)[:n].sort().values


def _cut_layer(layer: Layer, heads: Tensor, neurons: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Slice every tensor of a layer that has a head or neuron axis, and its optimiser state."""
    inner = block_units(heads, layer.head_size)
    for linear in (layer.query, layer.key, layer.value):
        cut_parameter(linear, "weight", Cut(0, inner), optimizer)
        cut_parameter(linear, "bias", Cut(0, inner), optimizer)
        linear.out_features = len(inner)
    cut_parameter(layer.out, "weight", Cut(1, inner), optimizer)
    layer.out.in_features = len(inner)
    cut_parameter(layer.up, "weight", Cut(0, neurons), optimizer)
    cut_parameter(layer.up, "bias", Cut(0, neurons), optimizer)
    cut_parameter(layer.down, "weight", Cut(1, neurons), optimizer)
    layer.up.out_features = layer.down.in_features = len(neurons)
