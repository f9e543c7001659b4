"""Post-training quantization of any bits, simulated: rounded weights and inputs of layers, computed in floats.

Knows modules; not ONNX, where the real 8-bit artefact is made (`compressors.int8`).
"""

import copy
from typing import ClassVar, Literal

import torch
from torch import nn

from compressors.activations import RoundedInput, collect
from compressors.base import Change, Material, Phase, Report, Skip
from compressors.calibration import RANGES, Histogram, calibrated
from compressors.quantizable import LAYERS, quantizable, size_figures, untouched
from compressors.schemes import SCHEMES, Uniform, scheme_for, uniform_for
from search_spaces.dimensions import Choice
from search_spaces.errors import ConfigError
from search_spaces.registry import unknown_name
from search_spaces.space import Condition, Space

SCOPES = ("none", "weights", "activations", "both")
CALIBRATIONS = ("dynamic", *RANGES)


class FakeQuantization:
    """Round the weights of Linear and Conv2d, what enters them, or both.

    Rounded weights are in the model for good. Inputs are rounded by hooks, which a saved or exported model loses: they
    tell what a runtime with such activations would answer. Ranges of inputs are those of each batch (``dynamic``) or
    found once on calibration rows.

    Source: Jacob et al. 2018, https://arxiv.org/abs/1712.05877, sec. 2 and 3; each scheme has its own.
    """

    name: ClassVar[str] = "fake_quantization"
    suits: ClassVar[str] = (
        "rounds weights and activations to 1..8 bits, simulated: what few bits cost, without training"
    )
    stage: ClassVar[Literal["model"]] = "model"
    phase: ClassVar[Phase] = "bits"

    def __init__(
        self,
        scope: str = "weights",
        scheme: str = "symmetric",
        bits: int | None = None,
        per_channel: bool = True,
        activation_scheme: str = "affine",
        activation_bits: int = 8,
        calibration: str = "dynamic",
        embeddings: bool = False,
    ) -> None:
        """Bind the knobs.

        Args:
            scope: What is rounded: ``none``, ``weights``, ``activations`` or ``both``.
            scheme: How weights are rounded; the names are those of `compressors.schemes`.
            bits: Of a weight; None = the most of the scheme.
            per_channel: A scale for every output channel; tables of embeddings always have one for all.
            activation_scheme: An evenly spaced scheme for the inputs of layers, one scale for each layer.
            activation_bits: Of an input.
            calibration: How the range of an input is found: ``dynamic`` (every batch its own), or on training rows.
            embeddings: Whether tables are rounded too, when weights are.

        Raises:
            ConfigError: A knob is unknown or out of its range.
        """
        if scope not in SCOPES:
            raise unknown_name(f"{self.name}.scope", scope, list(SCOPES))
        if calibration not in CALIBRATIONS:
            raise unknown_name(f"{self.name}.calibration", calibration, list(CALIBRATIONS))
        self.scheme, self.bits = scheme_for(self.name, scheme, bits)
        self.activation_scheme: Uniform = uniform_for(self.name, activation_scheme, activation_bits)
        self.scope, self.per_channel, self.embeddings = scope, per_channel, embeddings
        self.activation_bits, self.calibration = activation_bits, calibration
        self._report = Report(self.name, skipped=(Skip("model", "nothing was compressed yet"),))

    @classmethod
    def space(cls) -> Space:
        """Return the knobs; each counts only where it is read."""
        weights, activations = ("weights", "both"), ("activations", "both")
        evenly = tuple(name for name, scheme in SCHEMES.items() if isinstance(scheme, Uniform))
        return Space(
            {
                "scope": Choice(SCOPES),
                "scheme": Choice(tuple(SCHEMES)),
                "bits": Choice((8, 6, 4, 3, 2), ordered=True),
                "per_channel": Choice((True, False)),
                "activation_scheme": Choice(("affine", "symmetric")),
                "activation_bits": Choice((8, 6, 4), ordered=True),
                "calibration": Choice(CALIBRATIONS),
                "embeddings": Choice((False, True)),
            },
            {
                "scheme": Condition("scope", weights),
                "bits": Condition("scheme", evenly),
                "per_channel": Condition("scope", weights),
                "activation_scheme": Condition("scope", activations),
                "activation_bits": Condition("scope", activations),
                "calibration": Condition("scope", activations),
                "embeddings": Condition("scope", weights),
            },
        )

    def apply(self, model: nn.Module, material: Material) -> nn.Module:
        """Return the rounded model; see `ModelCompressor`.

        Raises:
            ConfigError: No layer can be quantized, or inputs are to be rounded and are already.
            DataError: There are no rows to calibrate on.
        """
        result = copy.deepcopy(model).eval()
        if self.scope == "none":
            self._report = Report(self.name, skipped=(Skip("model", "scope is none"),))
            return result
        weights = quantizable(self.name, result, self.embeddings)
        layers = [name for name in weights if isinstance(result.get_submodule(name), LAYERS)]
        has_inputs = self.scope in ("activations", "both")
        if has_inputs:
            self._check_new(result, layers)
        # before the weights are rounded: ranges are those of the model as it was trained
        is_static = has_inputs and self.calibration != "dynamic"
        seen = collect(self.name, result, layers, material.batches) if is_static else {}
        packed = self._round_weights(result, weights) if self.scope in ("weights", "both") else {}
        rounded = self._round_inputs(result, layers, seen) if has_inputs else []
        changed = [Change(f"{name}.weight", 32, self.bits) for name in packed]
        changed += [Change(f"{name}.input", 32, self.activation_bits) for name in rounded]
        never = [name for name in layers if has_inputs and name not in rounded]
        skipped = (*self._remarks(never), *untouched(result, weights))
        self._report = Report(self.name, tuple(changed), skipped, size_figures(result, weights, packed))
        return result

    def report(self) -> Report:
        """Return the bits of every rounded weight tensor and input of the latest `apply`; bytes are as if packed."""
        return self._report

    def _check_new(self, model: nn.Module, layers: list[str]) -> None:
        """Refuse to round what is rounded on its way in already."""
        for name in layers:
            if any(isinstance(hook, RoundedInput) for hook in model.get_submodule(name)._forward_pre_hooks.values()):
                raise ConfigError(
                    f"fake_quantization.scope: {self.scope!r} rounds the inputs of {name}, which are rounded already; "
                    "once is all. Set it to weights or leave the second out."
                )

    def _round_weights(self, model: nn.Module, weights: dict[str, torch.Tensor]) -> dict[str, int]:
        """Round in place and return the packed bits by layer."""
        packed = {}
        with torch.no_grad():
            for name, weight in weights.items():
                per_channel = self.per_channel and isinstance(model.get_submodule(name), LAYERS)
                weight.copy_(self.scheme.quantize(weight.float(), self.bits, per_channel))
                packed[name] = self.scheme.packed_bits(weight, self.bits, per_channel)
        return packed

    def _round_inputs(self, model: nn.Module, layers: list[str], seen: dict[str, Histogram]) -> list[str]:
        """Add the hooks and return the layers that got one."""
        is_dynamic = self.calibration == "dynamic"
        rounded = [name for name in layers if is_dynamic or name in seen]
        is_symmetric = self.activation_scheme.is_symmetric
        levels = 2**self.activation_bits - (1 if is_symmetric else 0)
        for name in rounded:
            ends = None if is_dynamic else calibrated(seen[name], self.calibration, levels, is_symmetric)
            hook = RoundedInput(self.activation_scheme, self.activation_bits, ends)
            model.get_submodule(name).register_forward_pre_hook(hook)
        return rounded

    def _remarks(self, never: list[str]) -> list[Skip]:
        """Return what is simulated only or left alone, among it layers whose inputs were never seen."""
        found = [Skip(f"{name}.input", "no calibration row entered this layer") for name in never]
        if self.scope != "weights":
            found.append(Skip("activations", "simulated by hooks: a saved or exported model has them no more"))
        if self.scope == "activations":
            found.append(Skip("weights", "scope is activations"))
        if self.scope == "activations" or self.scheme.has_runtime(self.bits):
            why = "simulated in floats, no faster; the artefact of row int8 is the real thing"
        else:
            what = f"{self.bits}-bit {self.scheme.name} weights"
            why = f"no runtime here computes with {what}: accuracy and packed size are told, not speed"
        return [*found, Skip("runtime", why)]
