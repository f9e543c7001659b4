"""Layer pruning: whole layers of a trained text encoder go, and the rest is joined up.

The surest way to a faster model: latency falls nearly in proportion to the layers. Knows which layers stay; not how
they are cut out (`encoder_cut`).
"""

import copy
from typing import ClassVar, Literal

from torch import nn

from compressors.base import Change, Material, Phase, Report, Skip
from compressors.encoder_cut import check_plain, encoder_scores, keep_layers, keep_shape
from search_spaces.dimensions import Choice
from search_spaces.errors import ConfigError
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder
from search_spaces.families.importance import most_important
from search_spaces.registry import unknown_name
from search_spaces.space import Condition, Space

KEPT = (0, 1, 2, 3, 4, 6)
CHOICES = ("importance", "stride", "first", "last")


class LayerPruning:
    """Keep some layers of an encoder.

    In a search the genes of a family choose layers too (``keep_i``): leave one of the two out unless they are to be
    compared.

    Source: Sanh et al. 2019, DistilBERT, https://arxiv.org/abs/1910.01108, sec. 3 (every second); Men et al. 2024,
    ShortGPT, https://arxiv.org/abs/2403.03853, eq. 1 (block influence); Sajjad et al. 2020,
    https://arxiv.org/abs/2004.03844 (first and last layers).
    """

    name: ClassVar[str] = "layer_pruning"
    suits: ClassVar[str] = "keeps some layers of a trained encoder: smaller and faster in proportion; distil afterwards"
    stage: ClassVar[Literal["model"]] = "model"
    phase: ClassVar[Phase] = "structure"

    def __init__(self, keep: int = 0, choice: str = "importance") -> None:
        """Bind the knobs.

        Args:
            keep: How many layers stay; 0 = all.
            choice: Which: ``importance`` (those that turn the stream most, 1 - cos(x_l, x_l+1)), ``stride`` (evenly
                spaced from the first, as DistilBERT takes every second), ``first`` or ``last``.

        Raises:
            ConfigError: A knob is out of its range.
        """
        if keep < 0:
            raise ConfigError(f"layer_pruning.keep: {keep} is out of range; 0 (all layers) or more.")
        if choice not in CHOICES:
            raise unknown_name(f"{self.name}.choice", choice, list(CHOICES))
        self.keep, self.choice = keep, choice
        self._report = Report(self.name, skipped=(Skip("layers", "nothing was cut yet"),))

    @classmethod
    def space(cls) -> Space:
        """Return the knobs; ``choice`` means something only when any layer goes."""
        return Space(
            {"keep": Choice(KEPT, ordered=True), "choice": Choice(CHOICES)},
            {"choice": Condition("keep", KEPT[1:])},
        )

    @property
    def needs_plain(self) -> bool:
        """Return True if layers may go."""
        return self.keep > 0

    def shape(self, config: EncoderConfig) -> EncoderConfig:
        """Return the config of what `apply` makes of an encoder.

        Where layers differ in shape and ``importance`` chooses, which stay is up to the rows; evenly spaced ones stand
        for them.

        Raises:
            ConfigError: As `apply`.
        """
        if self.keep > config.depth:
            raise ConfigError(f"layer_pruning.keep: {self.keep} is out of range; the model has {config.depth} layers.")
        if self.keep in (0, config.depth):
            return config
        check_plain(self.name, config)
        return keep_shape(config, self._places(config.depth))

    def apply(self, model: nn.Module, material: Material) -> nn.Module:
        """Return the shallower model in evaluation mode; the argument is not changed.

        Raises:
            ConfigError: The model is no text encoder, has fewer layers, or layers that share or factor weights.
            DataError: There are no rows to tell the importance from.
        """
        if not isinstance(model, TextEncoder):
            raise ConfigError(
                f"layer_pruning: a {type(model).__name__} has no layers that can be left out; a text encoder has."
            )
        depth = model.config.depth
        if self.shape(model.config) == model.config:
            self._report = Report(self.name, skipped=(Skip("layers", f"all {depth} layers are to stay"),))
            return copy.deepcopy(model).eval()
        layers = self._layers(model, material)
        sizes = [sum(parameter.numel() for parameter in layer.parameters()) for layer in model.layers]
        gone = tuple(Change(f"layers.{i}", n, 0) for i, n in enumerate(sizes) if i not in layers)
        kept = tuple(Skip(f"layers.{i}", f"stays, as layers.{now}") for now, i in enumerate(layers))
        self._report = Report(self.name, gone, kept, {"layers_before": float(depth), "layers_after": float(self.keep)})
        return keep_layers(model, layers)

    def report(self) -> Report:
        """Return the layers that went and those that stayed in the latest `apply`, with their parameters."""
        return self._report

    def _layers(self, model: TextEncoder, material: Material) -> tuple[int, ...]:
        """Return the layers that stay, ascending."""
        if self.choice != "importance":
            return self._places(model.config.depth)
        chosen = most_important(encoder_scores("activation", model, material)["layers"], self.keep)
        return tuple(int(layer) for layer in chosen)

    def _places(self, depth: int) -> tuple[int, ...]:
        """Return the layers that stay whatever they hold; evenly spaced ones where that decides."""
        n = self.keep
        if self.choice in ("stride", "importance"):
            return tuple(layer * depth // n for layer in range(n))
        first = depth - n if self.choice == "last" else 0
        return tuple(range(first, first + n))
