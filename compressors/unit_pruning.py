"""Unit pruning: the least important heads, FFN neurons, hidden dimensions or channels are cut out of a trained model.

What is cut is gone: the matrices get smaller, and the model faster everywhere. Knows which share goes; how units are
scored and cut is told by `encoder_cut` for text encoders and by `group_scores` and `families.groups` for modules that
say their groups.
"""

import copy
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import nn

from compressors.base import Change, Material, Phase, Report, Skip
from compressors.encoder_cut import check_plain, cut_encoder, cut_shape, encoder_scores, keep_projection, unit_sizes
from compressors.group_scores import CRITERIA, score_groups
from search_spaces.dimensions import Choice
from search_spaces.errors import ConfigError
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder
from search_spaces.families.groups import HasUnitGroups, cut_units
from search_spaces.families.importance import most_important
from search_spaces.registry import unknown_name
from search_spaces.space import Space

MULTIPLE = 8  # of widths, as matrix kernels like them; heads are wide themselves
SHARES = (0.0, 0.25, 0.5, 0.75)


class UnitPruning:
    """Cut a share of the units of each kind, in every layer alike; which ones, their scores say.

    Used again, it cuts the same shares of what is left: prune, train, prune again.
    In a search the genes of a family choose widths too (``hidden``, ``ffn``, ``heads_i``), and a student inherits its
    teacher's most important units: leave one of the two out unless they are to be compared.

    Source: Michel et al. 2019, https://arxiv.org/abs/1905.10650 (heads); Hou et al. 2020, DynaBERT,
    https://arxiv.org/abs/2004.04037 (neurons, hidden width); Li et al. 2017, https://arxiv.org/abs/1608.08710
    (channels).
    """

    name: ClassVar[str] = "unit_pruning"
    suits: ClassVar[str] = "cuts heads, neurons, hidden width or channels of a trained model: smaller and really faster"
    stage: ClassVar[Literal["model"]] = "model"
    phase: ClassVar[Phase] = "structure"

    def __init__(
        self,
        criterion: str = "first_order",
        heads: float = 0.0,
        ffn: float = 0.0,
        hidden: float = 0.0,
        channels: float = 0.0,
    ) -> None:
        """Bind the knobs.

        Args:
            criterion: ``magnitude``, ``first_order``, ``activation`` or ``random``.
            heads: Share of the attention heads of every layer to cut, from 0 to below 1, as for all below.
            ffn: Share of the neurons of every feed-forward block.
            hidden: Share of the dimensions of the residual stream.
            channels: Share of the channels of every group of a convolutional network.

        Raises:
            ConfigError: A knob is out of its range.
        """
        if criterion not in CRITERIA:
            raise unknown_name(f"{self.name}.criterion", criterion, list(CRITERIA))
        self.criterion = criterion
        self.shares = {"heads": heads, "ffn": ffn, "hidden": hidden, "channels": channels}
        for knob, share in self.shares.items():
            if not 0 <= share < 1:
                raise ConfigError(f"unit_pruning.{knob}: {share} is out of range; 0 to below 1.")
        self._report = Report(self.name, skipped=(Skip("model", "nothing was cut yet"),))

    @classmethod
    def space(cls) -> Space:
        """Return the knobs; nothing is cut by default."""
        shares = Choice(SHARES, ordered=True)
        return Space(
            {
                "criterion": Choice(tuple(CRITERIA)),
                "heads": shares,
                "ffn": shares,
                "hidden": Choice((0.0, 1 / 6, 1 / 3, 0.5), ordered=True),
                "channels": shares,
            }
        )

    @property
    def needs_plain(self) -> bool:
        """Return True if anything is cut."""
        return any(self.shares.values())

    def shape(self, config: EncoderConfig) -> EncoderConfig:
        """Return the config of what `apply` makes of an encoder.

        Raises:
            ConfigError: As `apply`.
        """
        if not any(self.shares.values()):
            return config
        smaller = keep_projection(config, self._plan(unit_sizes(config))[0])
        check_plain(self.name, config)
        return cut_shape(config, smaller)

    def apply(self, model: nn.Module, material: Material) -> nn.Module:
        """Return the smaller model in evaluation mode; the argument is not changed.

        Raises:
            ConfigError: The model has no units of these kinds, or they cannot be cut.
            DataError: There are no rows, and the criterion needs them.
        """
        original = copy.deepcopy(model).eval()
        if not any(self.shares.values()):
            self._report = Report(self.name, skipped=(Skip("model", "every share is 0"),))
            return original
        sizes = _sizes(original)
        smaller, skipped = self._plan(sizes)
        if isinstance(original, TextEncoder):
            smaller = keep_projection(original.config, smaller)
        cut = self._cut(original, smaller, material)
        _check(original, cut, material)
        changed = tuple(Change(name, sizes[name], size) for name, size in smaller.items())
        figures = {"parameters_before": _parameters(original), "parameters_after": _parameters(cut)}
        self._report = Report(self.name, changed, skipped, figures)
        return cut

    def report(self) -> Report:
        """Return the units of every group before and after the latest `apply`; figures count parameters."""
        return self._report

    def _plan(self, sizes: Mapping[str, int]) -> tuple[dict[str, int], tuple[Skip, ...]]:
        """Return how many units stay of each group that shrinks, and why others do not."""
        smaller, skipped = {}, []
        for name, size in sizes.items():
            kind = name.split(".")[0]
            share = self.shares.get(kind, 0.0)
            if share and size > 1:
                smaller[name] = _staying(size, share, 1 if kind == "heads" else MULTIPLE)
            else:
                skipped.append(Skip(name, f"has {size} unit, and one stays" if share else f"the share of {kind} is 0"))
        kinds = {name.split(".")[0]: None for name in sizes}
        asked = [kind for kind, share in self.shares.items() if share]
        if not smaller:
            raise ConfigError(
                f"unit_pruning: 0 groups of {', '.join(asked)} can shrink; the model has {', '.join(kinds)}, and one "
                "unit of each group stays. Set the share of one of these."
            )
        return smaller, (*skipped, *(Skip(kind, "the model has none") for kind in asked if kind not in kinds))

    def _cut(self, model: nn.Module, smaller: Mapping[str, int], material: Material) -> nn.Module:
        """Return the model with the best units of each group."""
        if isinstance(model, TextEncoder):
            config = self.shape(model.config)
            return cut_encoder(model, config, encoder_scores(self.criterion, model, material))
        assert isinstance(model, HasUnitGroups)  # `_sizes` refuses all else
        groups = [group for group in model.unit_groups() if group.name in smaller]
        scores = score_groups(self.criterion, model, groups, material)
        return cut_units(model, groups, {name: most_important(scores[name], n) for name, n in smaller.items()})


def _sizes(model: nn.Module) -> dict[str, int]:
    """Return how many units each group of a model has."""
    if isinstance(model, TextEncoder):
        return unit_sizes(model.config)
    if isinstance(model, HasUnitGroups):
        return {group.name: group.size for group in model.unit_groups()}
    raise ConfigError(
        f"unit_pruning: a {type(model).__name__} does not say which units it has; a text encoder and a module with "
        "unit_groups() do. Give it that method (search_spaces.families.groups)."
    )


def _staying(size: int, share: float, multiple: int) -> int:
    """Return how many units stay: a multiple where one is near, and at least one stays and one goes."""
    wanted = size * (1 - share)
    width = multiple * round(wanted / multiple)
    if not 0 < width < size:
        width = round(wanted)
    return min(max(width, 1), size - 1)


def _check(original: nn.Module, cut: nn.Module, material: Material) -> None:
    """Refuse a cut that left tensors which do not fit each other; without a batch nothing can be said."""
    for inputs, _ in list(material.batches)[:1]:
        with torch.no_grad():
            wanted = tuple(original(*inputs).shape)
            try:
                shape = tuple(cut(*inputs).shape)
                why = f"it gives logits of shape {shape} in place of {wanted}" if shape != wanted else ""
            except RuntimeError as error:
                why = str(error).splitlines()[0]
        if why:
            raise ConfigError(
                f"unit_pruning: the cut model does not run ({why}); all tensors of a group must be its members, and "
                f"logits are no units. Correct unit_groups() of {type(original).__name__}."
            )


def _parameters(model: nn.Module) -> float:
    """Return the number of weights."""
    return float(sum(parameter.numel() for parameter in model.parameters()))
