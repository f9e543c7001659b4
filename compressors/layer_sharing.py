"""Layer sharing: consecutive layers of an encoder use one set of weights.

The file holds each set once and the model learns fewer weights; it computes as many layers as before, so it is not
faster. Knows text encoders; not files.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from compressors.base import Change, Material, Phase, Report, Skip
from compressors.importance import score_importance
from search_spaces.dimensions import Choice
from search_spaces.errors import ConfigError, DataError
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder
from search_spaces.space import Condition, Space

TAKES = ("average", "first", "important")
Shares = Mapping[int, Mapping[int, float]]
"""For each layer with weights of its own, how much of which old layer it gets."""


class LayerSharing:
    """Give each group of consecutive layers the weights of one.

    Only training makes up for it: layers that were trained apart do not fit into each other's place.

    Source: Lan et al. 2020 (ALBERT), https://arxiv.org/abs/1909.11942, sec. 3.1; groups: sec. 4.5 and the released
    code (``num_hidden_groups``). The most important layer is the one that turns the stream most: Men et al. 2024
    (ShortGPT), https://arxiv.org/abs/2403.03853, eq. 1.
    """

    name: ClassVar[str] = "layer_sharing"
    suits: ClassVar[str] = "consecutive layers use one set of weights: a smaller file, not faster, needs training"
    stage: ClassVar[Literal["model"]] = "model"
    phase: ClassVar[Phase] = "structure"

    def __init__(self, group: int = 2, take: str = "average") -> None:
        """Bind the knobs.

        Args:
            group: Layers that share; the last group may be smaller. 1 leaves the model as it is.
            take: What they get: the ``average`` of the group's weights, those of its ``first`` layer, or those of the
                most ``important`` one.

        Raises:
            ConfigError: A knob is out of its range.
        """
        if group < 1:
            raise ConfigError(f"layer_sharing.group: {group} is out of range; 1 or more.")
        if take not in TAKES:
            raise ConfigError(f"layer_sharing.take: {take!r} is unknown; known: {', '.join(TAKES)}.")
        self.group, self.take = group, take
        self._report = Report(self.name, skipped=(Skip("layers", "nothing was compressed yet"),))

    @classmethod
    def space(cls) -> Space:
        """Return the knobs; ``take`` means something only when anything is shared."""
        return Space(
            {"group": Choice((1, 2, 3, 6), ordered=True), "take": Choice(TAKES)},
            {"take": Condition("group", (2, 3, 6))},
        )

    @property
    def leaves_plain(self) -> bool:
        """Return False if layers share."""
        return self.group == 1

    def shape(self, config: EncoderConfig) -> EncoderConfig:
        """Return the config of what `apply` makes of an encoder.

        Raises:
            ConfigError: As `apply`.
        """
        owners, _ = self._owners(_checked(config))
        is_shared = len(set(owners)) < len(owners)
        if self.group > 1 and not is_shared:
            raise ConfigError(
                f"layer_sharing.group: no {self.group} consecutive layers of {config.depth} have one shape "
                f"(heads {config.heads}, FFN {config.ffn}). Set it to 1."
            )
        return replace(config, sharing=owners if is_shared else ())

    def apply(self, model: nn.Module, material: Material) -> TextEncoder:
        """Return an encoder whose list of layers holds the same layer several times.

        Args:
            model: A text encoder with layers of their own.
            material: Its rows are read to find the most ``important`` layer.

        Raises:
            ConfigError: The model is no text encoder, shares already, has factored layers, or no group of it has more
                than one layer of the same shape.
            DataError: ``important`` and no rows.
        """
        if not isinstance(model, TextEncoder):
            raise ConfigError(f"layer_sharing: a {type(model).__name__} has no list of layers; a text encoder has.")
        config = self.shape(model.config)
        owners, skipped = self._owners(model.config)
        if self.group == 1:
            skipped = [Skip("layers", "group is 1")]
        small = _shared(model, config, self._weights(model, owners, material))
        changed = [Change(f"layers.{i}", "own", f"layers.{o}") for i, o in enumerate(owners) if i != o]
        if changed:
            skipped.append(Skip("latency", "as many layers are computed as before: not faster"))
        n_before, n_after = (float(sum(p.numel() for p in each.parameters())) for each in (model, small))
        figures = {"parameters_before": n_before, "parameters_after": n_after, "sets": float(len(set(owners)))}
        self._report = Report(self.name, tuple(changed), tuple(skipped), figures)
        return small

    def report(self) -> Report:
        """Return which layer has whose weights; figures count each weight once."""
        return self._report

    def _owners(self, config: EncoderConfig) -> tuple[tuple[int, ...], list[Skip]]:
        """Return for each layer the first of its group; groups of several shapes are left alone."""
        owners, skipped = list(range(config.depth)), []
        for start in range(0, config.depth, self.group):
            layers = range(start, min(start + self.group, config.depth))
            shapes = {(config.heads[layer], config.ffn[layer]) for layer in layers}
            if len(shapes) == 1:
                owners[start : layers.stop] = [start] * len(layers)
            else:
                skipped.append(Skip(f"layers.{start} to {layers.stop - 1}", f"shapes differ: {sorted(shapes)}"))
        return tuple(owners), skipped

    def _weights(
        self, encoder: TextEncoder, owners: tuple[int, ...], material: Material
    ) -> dict[int, dict[int, float]]:
        """Return for each owner how much of which layer it gets."""
        scores: np.ndarray = np.zeros(len(owners))
        if self.take == "important" and self.group > 1:
            if not material.batches:
                raise DataError(f"layer_sharing.take: {self.take!r} needs rows and there are {len(material.batches)}.")
            scores = score_importance(encoder, material.batches, "activation").layers
        shares = {}
        for owner in sorted(set(owners)):
            members = [layer for layer, its in enumerate(owners) if its == owner]
            if self.take == "average":
                shares[owner] = {layer: 1 / len(members) for layer in members}
            else:
                shares[owner] = {max(members, key=lambda layer: scores[layer]): 1.0}
        return shares


def _checked(config: EncoderConfig) -> EncoderConfig:
    """Return the config if its layers can be shared."""
    if config.sharing:
        raise ConfigError(f"layer_sharing: layers share weights already {config.sharing}; only once is possible.")
    factored = [name for name, _ in config.ranks if name.startswith("layers.")]
    if factored:
        raise ConfigError(f"layer_sharing: {factored[0]} is factored; share first, then factor.")
    return config


def _shared(encoder: TextEncoder, config: EncoderConfig, shares: Shares) -> TextEncoder:
    """Return a model of its own with the mixed weights, in evaluation mode."""
    with torch.device("meta"):  # no time for weights that are about to be replaced
        small = TextEncoder(config)
    theirs = encoder.state_dict()
    small.load_state_dict({name: _mixed(theirs, name, shares) for name in small.state_dict()}, assign=True)
    return small.requires_grad_(True).eval()


def _mixed(theirs: Mapping[str, Tensor], name: str, shares: Shares) -> Tensor:
    """Return a weight of the new model: a weighted sum over its group, or a copy outside the layers."""
    kind, number, *rest = name.split(".")
    if kind != "layers":
        return theirs[name].clone()
    parts = [share * theirs[".".join([kind, str(layer), *rest])] for layer, share in shares[int(number)].items()]
    return torch.stack(parts).sum(0)
