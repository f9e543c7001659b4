"""Quantization-aware training: the student learns while the weights that compute are rounded.

Knows modules and training hooks; not losses. In bfloat16 training the weights are rounded in float32, from the
student's own, and the result is cast: a level is then off by bfloat16's error, below 0.4 %, until training ends.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from compressors.activations import RoundedInput, RoundedInputs
from compressors.base import Change, Inner, Phase, Report, Skip
from compressors.learned_range import LearnedRange
from compressors.learned_step import LearnedStep
from compressors.quantizable import LAYERS, quantizable, size_figures, untouched
from compressors.schemes import SCHEMES, Uniform, scheme_for, uniform_for
from search_spaces.dimensions import Choice
from search_spaces.errors import ConfigError
from search_spaces.registry import unknown_name
from search_spaces.space import Condition, Space

KNOWN = ("none", *SCHEMES, "lsq")
MODES = ("none", "dynamic", "moving", "learned")
MEMORY = 0.99  # of moving ranges, each time a layer is called


class QuantizationAware(Inner):
    """Round the weights of Linear and Conv2d in every step, and on request what enters them.

    The gradient of a rounded weight is taken as that of the weight. At the end the student keeps its rounded weights:
    what is exported is what was trained. Inputs are rounded in training only; a runtime rounds its own. Ranges that
    are the same for all batches at the end (``moving``, ``learned``) are in the report, and `static_int8` fixes them.

    Source: Bengio et al. 2013, https://arxiv.org/abs/1308.3432 (straight through); Jacob et al. 2018,
    https://arxiv.org/abs/1712.05877, sec. 3 (activations); ``lsq``: `compressors.learned_step`; ``learned``:
    `compressors.learned_range`.
    """

    name: ClassVar[str] = "quantization_aware"
    suits: ClassVar[str] = "learns with rounded weights: keeps at 2..4 bits what rounding afterwards loses"
    phase: ClassVar[Phase] = "bits"

    def __init__(
        self,
        scheme: str = "symmetric",
        bits: int | None = None,
        per_channel: bool = True,
        activations: str = "none",
        activation_bits: int = 8,
        start: float = 0.0,
        embeddings: bool = False,
    ) -> None:
        """Bind the knobs.

        Args:
            scheme: How weights are rounded: ``none``, a scheme of `compressors.schemes`, or ``lsq``, whose steps learn.
            bits: Of a weight; None = the most of the scheme.
            per_channel: A scale for every output channel; tables of embeddings always have one for all.
            activations: ``none``, ``dynamic`` (range of every batch), ``moving`` (average of the ranges) or ``learned``
                (both ends of the range learn).
            activation_bits: Of an input, affine.
            start: Share of the steps before which training is plain, 0 to below 1.
            embeddings: Whether tables are rounded too.

        Raises:
            ConfigError: A knob is unknown or out of its range.
        """
        if scheme not in KNOWN:
            raise unknown_name(f"{self.name}.scheme", scheme, list(KNOWN))
        if activations not in MODES:
            raise unknown_name(f"{self.name}.activations", activations, list(MODES))
        if not 0 <= start < 1:
            raise ConfigError(f"{self.name}.start: {start} is out of range; 0 to below 1.")
        # learned steps have the levels of two's complement, in channels as symmetric ones
        self._scheme, self.bits = scheme_for(self.name, "symmetric" if scheme in ("lsq", "none") else scheme, bits)
        self._activation_scheme: Uniform = uniform_for(self.name, "affine", activation_bits)
        self.scheme, self.per_channel, self.embeddings = scheme, per_channel, embeddings
        self.activations, self.activation_bits, self.start = activations, activation_bits, start
        self._student: nn.Module = nn.Module()
        self._twin: nn.Module | None = None  # the one that has hooks
        self._layers: list[str] = []
        self._learned: dict[str, LearnedStep] = {}
        self._inputs: RoundedInputs[RoundedInput | LearnedRange] = RoundedInputs(self._rounding)
        self._optimizer: torch.optim.Optimizer | None = None  # of learned ranges
        self._step = self._n_steps = 0

    @classmethod
    def space(cls) -> Space:
        """Return the knobs; each counts only where it is read."""
        rounding = KNOWN[1:]
        evenly = (*(name for name, scheme in SCHEMES.items() if isinstance(scheme, Uniform)), "lsq")
        return Space(
            {
                "scheme": Choice(KNOWN),
                "bits": Choice((8, 6, 4, 3, 2), ordered=True),
                "per_channel": Choice((True, False)),
                "activations": Choice(MODES),
                "activation_bits": Choice((8, 6, 4), ordered=True),
                "start": Choice((0.0, 0.3, 0.6), ordered=True),
                "embeddings": Choice((False, True)),
            },
            {
                "bits": Condition("scheme", evenly),
                "per_channel": Condition("scheme", rounding),
                "activations": Condition("scheme", rounding),
                "activation_bits": Condition("activations", MODES[1:]),
                "start": Condition("scheme", rounding),
                "embeddings": Condition("scheme", rounding),
            },
        )

    @property
    def rewrites(self) -> bool:
        """Return whether anything is rounded."""
        return self.scheme != "none" or self.activations != "none"

    @property
    def is_settled(self) -> bool:
        """Return whether everything is rounded by now."""
        return self._step >= self.start * self._n_steps

    def begin(self, student: nn.Module, n_steps: int) -> None:
        """Take the student in hand; nothing is rounded yet.

        Raises:
            ConfigError: No layer can be quantized.
        """
        self._student, self._n_steps, self._step = student, n_steps, 0
        self._twin, self._optimizer, self._layers, self._learned = None, None, [], {}
        self._inputs = RoundedInputs(self._rounding)
        if self.rewrites:
            self._layers = list(quantizable(self.name, student, self.embeddings))

    def rewrite(self, twin: nn.Module) -> None:
        """Round the twin's weights, and once a twin hook the rounding of its inputs, when its time has come."""
        if not self.is_settled:
            return
        if self.scheme != "none":
            with torch.no_grad():
                for name in self._layers:
                    weight = _weight(twin, name)
                    weight.copy_(self._rounded(name, _source(_weight(self._student, name), weight)))
        if self.activations != "none" and twin is not self._twin:
            self._hook(twin)

    def after_backward(self, step: int) -> None:
        """Give learned steps their gradient; it is closed, from that of the rounded weights."""
        for name, learned in self._learned.items():
            gradient = _weight(self._student, name).grad
            if gradient is not None:
                learned.take_gradient(gradient)

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> bool:
        """Move the learned steps and ranges at the weights' learning rate; never replaces parameters."""
        lr = float(optimizer.param_groups[0]["lr"])
        for learned in self._learned.values():
            learned.update(lr)
        self._move_ranges([given for given in self._inputs.all if isinstance(given, LearnedRange)], lr)
        self._step = step + 1
        return False

    def end(self) -> None:
        """Leave the student with its rounded weights."""
        if self.scheme != "none":
            with torch.no_grad():
                for name in self._layers:
                    weight = _weight(self._student, name)
                    weight.copy_(self._rounded(name, weight))
        self._twin = None

    def report(self) -> Report:
        """Return the bits of every layer's weights and inputs; bytes are as if packed."""
        if not self._layers:
            why = "training has not begun" if self.rewrites else "scheme and activations are none"
            return Report(self.name, skipped=(Skip("layers", why),))
        weights = {name: _weight(self._student, name) for name in self._layers}
        changed, packed = [], {}
        if self.scheme != "none":
            changed += [Change(f"{name}.weight", 32, self.bits) for name in weights]
            packed = {n: self._scheme.packed_bits(w, self.bits, self._has_channels(n)) for n, w in weights.items()}
        changed += [Change(f"{name}.input", 32, self.activation_bits) for name in self._inputs.by_layer]
        skipped = (*self._why_not_kept(), *untouched(self._student, weights))
        return Report(self.name, tuple(changed), skipped, size_figures(self._student, weights, packed), self._ranges())

    def _has_channels(self, name: str) -> bool:
        """Return whether a layer has a scale for each output channel."""
        return self.per_channel and isinstance(self._student.get_submodule(name), LAYERS)

    def _rounded(self, name: str, weight: Tensor) -> Tensor:
        """Return a layer's weights rounded; learned steps start anew where channels were cut."""
        if self.scheme != "lsq":
            return self._scheme.quantize(weight, self.bits, self._has_channels(name))
        if name not in self._learned or not self._learned[name].fits(weight):
            self._learned[name] = LearnedStep(weight, self.bits, self._has_channels(name))
        return self._learned[name].round(weight)

    def _hook(self, twin: nn.Module) -> None:
        """Round what enters a new twin's layers; moving and learned ranges go on."""
        for name in self._layers:
            module = twin.get_submodule(name)
            if isinstance(module, LAYERS):
                module.register_forward_pre_hook(self._inputs.hook(name))
        self._twin = twin

    def _move_ranges(self, learned: Sequence[LearnedRange], lr: float) -> None:
        """Move learned ranges by their gradients; which there are is known after the first batch."""
        if not learned:
            return
        if self._optimizer is None:
            self._optimizer = torch.optim.Adam([given.moved for given in learned])
        self._optimizer.param_groups[0]["lr"] = lr
        self._optimizer.step()
        self._optimizer.zero_grad()
        for given in learned:
            given.stay_open()

    def _ranges(self) -> dict[str, tuple[float, float]]:
        """Return the least and largest value that a layer's input is rounded to, where every batch has the same."""
        with torch.no_grad():
            found = {name: given.ends for name, given in self._inputs.by_layer.items()}
        return {name: (float(ends[0]), float(ends[1])) for name, ends in found.items() if ends is not None}

    def _rounding(self, device: torch.device) -> RoundedInput | LearnedRange:
        """Return what rounds the inputs of one layer."""
        if self.activations == "learned":
            return LearnedRange(self.activation_bits, device)
        memory = MEMORY if self.activations == "moving" else None
        return RoundedInput(self._activation_scheme, self.activation_bits, memory=memory)

    def _why_not_kept(self) -> list[Skip]:
        """Return what the student does not keep, or what no runtime does faster."""
        found = []
        if self._inputs.by_layer:
            whose = "the ranges of training, if static_int8 follows" if self._ranges() else "ranges of its own"
            found.append(Skip("activations", f"rounded in training only: a runtime rounds with {whose}"))
        if self.scheme == "lsq":
            found.append(Skip("runtime", "simulated: an artefact chooses its own scales and rounds once more"))
        elif self.scheme != "none" and not self._scheme.has_runtime(self.bits):
            what = f"{self.bits}-bit {self.scheme} weights"
            found.append(Skip("runtime", f"no runtime here computes with {what}: packed size is told, not speed"))
        return found


def _weight(model: nn.Module, name: str) -> Tensor:
    """Return the weight of a layer."""
    weight = model.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight


def _source(master: Tensor, twin: Tensor) -> Tensor:
    """Return what to round, in float32: the student's weight, except where another compressor rewrote the twin's."""
    if not master.requires_grad:  # the twin keeps its rounded weight from the step before
        return master.detach()
    return torch.where(twin == master.to(twin.dtype), master, twin.float())
