"""One-shot pruning: the least important single weights of a trained model become zero, at once and without training.

The matrices stay as large as they were: zeros compress well in a file, but ONNX Runtime's CPU kernels are no faster for
them. Knows modules; how weights are scored and chosen is told by `criteria` and `masks`.
"""

import copy
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import nn

from compressors.base import Change, Material, Phase, Report, Skip
from compressors.criteria import CRITERIA, score_weights
from compressors.masks import Masks, Rule, check_knobs, zeros_first
from compressors.prunable import prunable
from search_spaces.dimensions import Choice
from search_spaces.errors import ConfigError
from search_spaces.registry import unknown_name
from search_spaces.space import Condition, Space

SPARSITIES = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9)


class OneShotPruning:
    """Zero single weights by a criterion; pruning twice by the same knobs changes nothing the second time.

    Source: Gale et al. 2019, https://arxiv.org/abs/1902.09574 (what magnitude reaches); each criterion has its own.
    """

    name: ClassVar[str] = "one_shot_pruning"
    suits: ClassVar[str] = "zeroes single weights at once, without training: smaller when zipped, not faster on CPUs"
    stage: ClassVar[Literal["model"]] = "model"
    phase: ClassVar[Phase] = "weights"

    def __init__(
        self, sparsity: float = 0.0, criterion: str = "magnitude", scope: str = "layer", pattern: str = "none"
    ) -> None:
        """Bind the knobs.

        Args:
            sparsity: Share of zeros, from 0 to below 1.
            criterion: What makes a weight important: its size, or what the loss says of it on training rows.
            scope: ``layer`` (every layer gets equally sparse; with ``wanda`` every output row) or ``global``.
            pattern: ``none``, ``2:4`` or ``4:8``; these two leave half of the weights zero.

        Raises:
            ConfigError: A knob is out of its range, or two do not go together.
        """
        check_knobs(self.name, sparsity, Rule(scope, pattern))
        if criterion not in CRITERIA:
            raise unknown_name(f"{self.name}.criterion", criterion, list(CRITERIA))
        if scope == "global" and criterion == "wanda":
            raise ConfigError(
                f"{self.name}.scope: {scope!r} does not go with wanda, whose scores compare within an output row; "
                "with wanda only layer. Set one_shot_pruning.scope to layer."
            )
        self.sparsity, self.criterion = sparsity, criterion
        self.rule = Rule("row" if criterion == "wanda" else scope, pattern)
        self._report = Report(self.name, skipped=(Skip("model", "nothing was pruned yet"),))

    @classmethod
    def space(cls) -> Space:
        """Return the knobs; the others mean something only when anything is pruned."""
        some = Condition("sparsity", SPARSITIES[1:])
        return Space(
            {
                "sparsity": Choice(SPARSITIES, ordered=True),
                "criterion": Choice(tuple(CRITERIA)),
                "scope": Choice(("layer", "global")),
                "pattern": Choice(("none", "2:4", "4:8")),
            },
            {
                "criterion": some,
                "scope": Condition("criterion", tuple(name for name in CRITERIA if name != "wanda")),
                "pattern": Condition("sparsity", (0.5,)),
            },
        )

    def apply(self, model: nn.Module, material: Material) -> nn.Module:
        """Return the pruned model in evaluation mode; the argument is not changed.

        Raises:
            ConfigError: Nothing can be pruned, or the pattern does not divide a width.
            DataError: There are no rows, and the criterion needs them.
        """
        pruned = copy.deepcopy(model).eval()
        if not self.sparsity:
            self._report = Report(self.name, skipped=(Skip("model", "sparsity is 0"),))
            return pruned
        weights, skipped = prunable(pruned, self.name)
        scores = score_weights(self.criterion, pruned, list(weights), material)
        apply_masks(weights, self.rule.find(zeros_first(scores, weights), self.sparsity))
        self._report = pruning_report(self.name, weights, skipped)
        return pruned

    def report(self) -> Report:
        """Return the weights that are left in every matrix by the latest `apply`; figures hold the share of zeros."""
        return self._report


def apply_masks(weights: Mapping[str, nn.Parameter], masks: Masks) -> None:
    """Set the weights to zero where their mask is False."""
    with torch.no_grad():
        for name, mask in masks.items():
            weights[name].mul_(mask)


def pruning_report(compressor: str, weights: Mapping[str, nn.Parameter], skipped: tuple[Skip, ...]) -> Report:
    """Return the non-zero weights of every matrix, and the share of zeros in all together."""
    left = {name: int(weight.count_nonzero()) for name, weight in weights.items()}
    changed = tuple(Change(name, weight.numel(), left[name]) for name, weight in weights.items())
    n = sum(weight.numel() for weight in weights.values())
    return Report(compressor, changed, skipped, {"sparsity": 1 - sum(left.values()) / n})
