"""Mixed precision: every layer's weights get the bits they need, under a budget of bits in all; simulated.

Knows modules; how layers are measured is in `compressors.bit_sensitivity`, the exact choice in `compressors.knapsack`.
"""

import copy
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from compressors.base import Change, Material, Phase, Report, Skip
from compressors.bit_sensitivity import SENSITIVITIES, answers, bit_damages, divergence
from compressors.knapsack import solve
from compressors.quantizable import quantizable, size_figures, untouched
from compressors.schemes import scheme_for
from search_spaces.dimensions import Choice
from search_spaces.errors import ConfigError, DataError
from search_spaces.registry import unknown_name
from search_spaces.space import Condition, Space


class MixedPrecision:
    """Round each layer to one of several numbers of bits, so that the summed damage of single layers is least.

    The choice is exact for that sum; the damage of all layers together is another figure, and told.

    Source: Dong et al. 2020 (HAWQ-V2), https://arxiv.org/abs/1911.03852 (summed sensitivities under a budget of size).
    """

    name: ClassVar[str] = "mixed_precision"
    suits: ClassVar[str] = "chooses every layer's bits by how much it minds, under an average: simulated"
    stage: ClassVar[Literal["model"]] = "model"
    phase: ClassVar[Phase] = "bits"

    def __init__(
        self,
        average: float = 4.0,
        bits: Sequence[int] = (2, 3, 4, 6, 8),
        scheme: str = "symmetric",
        per_channel: bool = True,
        sensitivity: str = "fisher",
        exclude: Sequence[str] = (),
    ) -> None:
        """Bind the knobs.

        Args:
            average: Most bits of a weight on average over the layers that are not excluded, scales not counted; 32
                leaves the model alone.
            bits: To choose from.
            scheme: How weights are rounded; the names are those of `compressors.schemes`.
            per_channel: A scale for every output channel.
            sensitivity: ``fisher`` (seconds), ``kl`` or ``loss`` (minutes for a model of many layers); see
                `compressors.bit_sensitivity.bit_damages`.
            exclude: Names of layers that stay in float32, e.g. ``head.*``; ``*`` and ``?`` as in a shell.

        Raises:
            ConfigError: A knob is unknown or out of its range.
        """
        if sensitivity not in SENSITIVITIES:
            raise unknown_name(f"{self.name}.sensitivity", sensitivity, list(SENSITIVITIES))
        if not bits:
            raise ConfigError(f"{self.name}.bits: {list(bits)} is empty; at least one number of bits.")
        self.bits = tuple(sorted(set(bits), reverse=True))
        self.scheme = {n: scheme_for(self.name, scheme, n)[0] for n in self.bits}[self.bits[0]]  # checks all
        if not self.bits[-1] <= average <= 32:
            least = f"{self.bits[-1]} (the least of bits)"
            raise ConfigError(f"{self.name}.average: {average} is out of range; {least} to 32.")
        self.average, self.per_channel = average, per_channel
        self.sensitivity, self.exclude = sensitivity, tuple(exclude)
        self._report = Report(self.name, skipped=(Skip("model", "nothing was compressed yet"),))

    @classmethod
    def space(cls) -> Space:
        """Return the knobs; the others mean something only below 32 bits."""
        averages = (32.0, 6.0, 5.0, 4.0, 3.0)
        return Space(
            {
                "average": Choice(averages, ordered=True),
                "scheme": Choice(("symmetric", "affine")),
                "per_channel": Choice((True, False)),
                "sensitivity": Choice(SENSITIVITIES),
            },
            {name: Condition("average", averages[1:]) for name in ("scheme", "per_channel", "sensitivity")},
        )

    def apply(self, model: nn.Module, material: Material) -> nn.Module:
        """Return the rounded model; see `ModelCompressor`.

        Raises:
            ConfigError: No layer can be quantized, a pattern of ``exclude`` matches no layer, or all layers have few
                bits already, as when the method is used twice.
            DataError: There are no rows.
        """
        result = copy.deepcopy(model).eval()
        if self.average == 32:
            self._report = Report(self.name, skipped=(Skip("model", "the average is 32 bits"),))
            return result
        if not material.batches:
            raise DataError(f"{self.name}.sensitivity: {len(material.batches)} batches to measure on; at least one.")
        weights = quantizable(self.name, result)
        included = self._included(weights)
        self._check_new(included)
        options = (self.bits, self._quantized)
        damages = bit_damages(result, included, material.batches, options, self.sensitivity)
        chosen = self._choose(included, damages)
        before = answers(result, material.batches)
        with torch.no_grad():
            for name, n in chosen.items():
                included[name].copy_(self._quantized(included[name], n))
        figures = {
            "average_bits": sum(n * included[name].numel() for name, n in chosen.items()) / _size(included),
            "damage_foretold": sum(damages[name][self.bits.index(n)] for name, n in chosen.items()),
            "divergence": divergence(before, answers(result, material.batches)),
        }
        self._report = self._reported(result, weights, chosen, figures)
        return result

    def report(self) -> Report:
        """Return every layer's bits of the latest `apply`.

        Figures: ``damage_foretold`` sums the chosen damages; ``divergence`` is KL(before || after) of all roundings
        together in nats on the same rows; bytes are as if packed.
        """
        return self._report

    def _included(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the layers that no pattern excludes."""
        for pattern in self.exclude:
            if not any(fnmatchcase(name, pattern) for name in weights):
                some = ", ".join(list(weights)[:8])
                raise ConfigError(
                    f"{self.name}.exclude: no layer matches {pattern!r}; the model has {len(weights)} layers, "
                    f"first: {some}."
                )
        left = {n: w for n, w in weights.items() if not any(fnmatchcase(n, pattern) for pattern in self.exclude)}
        if not left:
            raise ConfigError(
                f"{self.name}.exclude: {list(self.exclude)} match all {len(weights)} layers; leave at least one."
            )
        return left

    def _check_new(self, weights: Mapping[str, Tensor]) -> None:
        """Refuse a model all of whose weights lie on grids of the bits to choose from."""
        for weight in weights.values():
            if not any(torch.allclose(self._quantized(weight, n), weight, rtol=1e-5, atol=0) for n in self.bits):
                return
        raise ConfigError(
            f"{self.name}.average: {self.average} bits, and all {len(weights)} layers have {self.bits[0]} or fewer "
            "already; weights in float32 can be rounded. Leave the second rounding out."
        )

    def _choose(self, weights: Mapping[str, Tensor], damages: Mapping[str, list[float]]) -> dict[str, int]:
        """Return the bits of every layer."""
        costs = [[float(n * weight.numel()) for n in self.bits] for weight in weights.values()]
        places = solve([damages[name] for name in weights], costs, self.average * _size(weights))
        assert places is not None  # the average is not below the least bits
        return {name: self.bits[place] for name, place in zip(weights, places, strict=True)}

    def _quantized(self, weight: Tensor, bits: int) -> Tensor:
        """Return a weight rounded."""
        return self.scheme.quantize(weight.detach().float(), bits, self.per_channel)

    def _reported(
        self, model: nn.Module, weights: Mapping[str, Tensor], chosen: Mapping[str, int], figures: dict[str, float]
    ) -> Report:
        """Return what was done."""
        packed = {n: self.scheme.packed_bits(weights[n], bits, self.per_channel) for n, bits in chosen.items()}
        changed = tuple(Change(f"{name}.weight", 32, bits) for name, bits in chosen.items())
        skipped = [Skip("runtime", "no runtime here mixes such bits: accuracy and packed size are told, not speed")]
        skipped += [Skip(f"{name}.weight", "excluded: stays in float32") for name in weights if name not in chosen]
        sizes = size_figures(model, weights, packed)
        return Report(self.name, changed, (*skipped, *untouched(model, weights)), {**figures, **sizes})


def _size(weights: Mapping[str, Tensor]) -> int:
    """Return the number of all weights."""
    return sum(weight.numel() for weight in weights.values())
