"""Which students a text encoder has: genes, what they mean, and the shapes a search begins with.

``uniform`` students are plain Hugging Face models, so attention heads go with the hidden width. ``per_layer``
students choose heads and FFN width for every layer, and may factor the word table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from search_spaces.dimensions import Choice, Dimension
from search_spaces.families.encoder_model import EncoderConfig
from search_spaces.space import Condition, Genes, Space, Value

Mode = Literal["uniform", "per_layer"]
FFN_SHARES = (1 / 12, 1 / 6, 1 / 3, 1 / 2, 3 / 4, 1)
HEAD_SHARES = (1 / 4, 1 / 2, 3 / 4, 1)
HIDDEN_SHARES: Mapping[Mode, tuple[float, ...]] = {
    "uniform": (1 / 4, 1 / 2, 2 / 3, 5 / 6, 1),
    "per_layer": (1 / 2, 2 / 3, 5 / 6, 1),  # heads and FFN get narrow on their own there
}
RANK_SHARES = (1 / 3, 2 / 3)
LADDER = ((2 / 3, 1 / 2), (1 / 2, 1 / 2), (1 / 3, 1 / 3), (1 / 6, 1 / 3), (0, 1 / 3))
"""Share of the layers and of the FFN width of the shapes that a search begins with, dearest first."""


@dataclass(frozen=True)
class Architecture:
    """One student: which of the teacher's layers it keeps, and its shape."""

    layers: tuple[int, ...]
    config: EncoderConfig

    def describe(self) -> str:
        """Return the shape in words, e.g. ``3 layers (0,2,5), hidden 384, ffn 768``."""
        config = self.config
        noun = "layer" if config.depth == 1 else "layers"
        parts = [f"{config.depth} {noun} ({_joined(self.layers)})", f"hidden {config.hidden}"]
        if any(heads * config.head_size != config.hidden for heads in config.heads):
            parts.append(f"heads {_joined(config.heads)}")
        same = len(set(config.ffn)) == 1
        parts.append(f"ffn {config.ffn[0] if same else _joined(config.ffn)}")
        if config.embedding_rank:
            parts.append(f"rank {config.embedding_rank}")
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"layers": list(self.layers), "config": self.config.to_json()}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Architecture":
        """Return what `to_json` wrote."""
        return cls(tuple(fields["layers"]), EncoderConfig.from_json(fields["config"]))


@lru_cache(maxsize=16)
def shape_space(teacher: EncoderConfig, mode: Mode) -> Space:
    """Return the genes of a teacher's students.

    ``keep_i`` for every layer but the first, which always stays; ``hidden``; then ``ffn`` (uniform), or
    ``embedding_rank`` (ordered from narrow to full, and 0 means full), ``heads_i`` and ``ffn_i`` of each kept layer
    (per_layer). Numbers are absolute widths, the teacher's own being the last.
    """
    genes: dict[str, Dimension] = {f"keep_{layer}": Choice((False, True)) for layer in range(1, teacher.depth)}
    genes["hidden"] = _choice(_hidden_widths(teacher, mode))
    if mode == "uniform":
        genes["ffn"] = _choice(_ffn_widths(min(teacher.ffn)))
        return Space(genes)
    genes["embedding_rank"] = _choice(_ranks(teacher))
    for layer in range(teacher.depth):
        genes[f"heads_{layer}"] = _choice(_widths(teacher.heads[layer], HEAD_SHARES, 1))
        genes[f"ffn_{layer}"] = _choice(_ffn_widths(teacher.ffn[layer]))
    kept = {
        f"{gene}_{layer}": Condition(f"keep_{layer}", (True,))
        for gene in ("heads", "ffn")
        for layer in range(1, teacher.depth)
    }
    return Space(genes, kept)


def architecture_of(teacher: EncoderConfig, genes: Genes, mode: Mode) -> Architecture:
    """Return the student that the genes describe.

    Raises:
        ConfigError: A gene is unknown or missing, or its value is not a choice.
    """
    chosen: dict[str, Any] = shape_space(teacher, mode).canonical(genes)
    layers = (0, *(layer for layer in range(1, teacher.depth) if chosen[f"keep_{layer}"]))
    hidden = chosen["hidden"]
    if mode == "uniform":
        heads, ffn = (hidden // teacher.head_size,) * len(layers), (chosen["ffn"],) * len(layers)
    else:
        heads, ffn = (tuple(chosen[f"{gene}_{layer}"] for layer in layers) for gene in ("heads", "ffn"))
    embedding = hidden if teacher.embedding == teacher.hidden else teacher.embedding
    rank = chosen.get("embedding_rank", 0)
    return Architecture(
        layers, replace(teacher, hidden=hidden, embedding=embedding, embedding_rank=rank, heads=heads, ffn=ffn)
    )


def first_shapes(teacher: EncoderConfig, mode: Mode) -> list[dict[str, Value]]:
    """Return the candidates a search begins with: the teacher's shape, the smallest, a ladder down between them.

    The ladder keeps the hidden width and takes evenly spaced layers with first and last: what is known to inherit
    well (Sun et al. 2019, https://arxiv.org/abs/1908.09355, and our own measurements).
    """
    space = shape_space(teacher, mode)
    smallest: dict[str, Value] = {
        gene: dimension.values[0] for gene, dimension in space.dimensions.items() if isinstance(dimension, Choice)
    }
    shapes = [_shape(space, teacher, range(teacher.depth), 1.0), space.canonical(smallest)]
    for layers_share, ffn_share in LADDER:
        n_layers = max(1, round(layers_share * teacher.depth))
        shapes.append(_shape(space, teacher, spread(n_layers, teacher.depth), ffn_share))
    return list({space.key(shape): shape for shape in shapes}.values())


def spread(n: int, depth: int) -> tuple[int, ...]:
    """Return ``n`` layers of ``depth``, evenly spaced, the first and, from two on, the last among them."""
    return (0,) if n == 1 else tuple(round(i * (depth - 1) / (n - 1)) for i in range(n))


def _shape(space: Space, teacher: EncoderConfig, layers: Sequence[int], ffn_share: float) -> dict[str, Value]:
    """Return the candidate with these layers, the FFN nearest to a share of the teacher's, all else at its widest."""
    genes: dict[str, Value] = {}
    for gene, dimension in space.dimensions.items():
        values = dimension.values if isinstance(dimension, Choice) else ()
        if gene.startswith("keep_"):
            genes[gene] = int(gene.removeprefix("keep_")) in layers
        elif gene.startswith("ffn"):
            genes[gene] = min(values, key=lambda width: abs(int(width) - ffn_share * int(values[-1])))
        else:
            genes[gene] = values[-1]
    return space.canonical(genes)


def _choice(widths: Sequence[int]) -> Choice:
    return Choice(tuple(widths), ordered=True)


def _widths(full: int, shares: Sequence[float], multiple: int) -> list[int]:
    """Return the shares of a width, rounded to a multiple, ascending; the full width is always the last."""
    rounded = {max(multiple, round(share * full / multiple) * multiple) for share in shares}
    return [*sorted(width for width in rounded if width < full), full]


def _hidden_widths(teacher: EncoderConfig, mode: Mode) -> list[int]:
    """Return whole heads; a width equal to that of separate embedding tables would ask for a model without project."""
    widths = _widths(teacher.hidden, HIDDEN_SHARES[mode], teacher.head_size)
    separate = teacher.embedding != teacher.hidden
    return [width for width in widths if not (separate and width == teacher.embedding)]


def _ffn_widths(full: int) -> list[int]:
    """Return multiples of 32, which matrix kernels like."""
    return _widths(full, FFN_SHARES, 32)


def _ranks(teacher: EncoderConfig) -> list[int]:
    """Return ranks below the narrowest embedding, then 0 for the full table."""
    separate = teacher.embedding != teacher.hidden
    narrowest = teacher.embedding if separate else _hidden_widths(teacher, "per_layer")[0]
    multiple = 32 if narrowest >= 96 else 1
    return [*_widths(narrowest, RANK_SHARES, multiple)[:-1], 0]


def _joined(numbers: Sequence[int]) -> str:
    return ",".join(str(number) for number in numbers)
