"""Students that inherit: the teacher's most important units, cut out of its weights.

A unit is a head, an FFN neuron or a dimension of the residual stream. Each weight has axes that run over units;
keeping units is indexing along these axes, and reordering them without cutting changes no logit.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from search_spaces.errors import ConfigError
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder
from search_spaces.families.importance import Importance, most_important

_NORM = ("hidden",)
AXES: Mapping[str, tuple[str, ...]] = {
    "embeddings.word": ("", "embedding"),
    "embeddings.position": ("", "embedding"),
    "embeddings.segment": ("", "embedding"),
    "embeddings.norm": ("embedding",),
    "embeddings.project": ("hidden", "embedding"),
    "query": ("inner", "hidden"),
    "key": ("inner", "hidden"),
    "value": ("inner", "hidden"),
    "out": ("hidden", "inner"),
    "attention_norm": _NORM,
    "up": ("ffn", "hidden"),
    "down": ("hidden", "ffn"),
    "ffn_norm": _NORM,
    "head.dense": ("hidden", "hidden"),
    "head.out": ("", "hidden"),
}
"""Module -> what the axes of its weight run over (a bias runs over the first); "" = nothing that can be cut."""


@dataclass(frozen=True)
class Units:
    """The teacher's units that a student has, in the student's order; all int64 indices.

    Attributes:
        layers: Teacher layer of each student layer.
        hidden: ``(hidden,)`` dimensions of the residual stream.
        heads: For each student layer ``(n_heads,)``.
        ffn: For each student layer ``(ffn width,)``.
    """

    layers: tuple[int, ...]
    hidden: np.ndarray
    heads: tuple[np.ndarray, ...]
    ffn: tuple[np.ndarray, ...]


def best_units(config: EncoderConfig, layers: tuple[int, ...], importance: Importance) -> Units:
    """Return the most important units of each kind, as many as a student has, in the teacher's order.

    Args:
        config: The student's shape.
        layers: The teacher layers it keeps.
        importance: The teacher's scores.

    Raises:
        ConfigError: The student has more units of a kind than the teacher.
    """
    wanted = [("hidden", config.hidden, importance.hidden)]
    wanted += [(f"layer_{i}.heads", n, importance.heads[i]) for i, n in zip(layers, config.heads, strict=True)]
    wanted += [(f"layer_{i}.ffn", n, importance.ffn[i]) for i, n in zip(layers, config.ffn, strict=True)]
    for what, n, scores in wanted:
        if n > len(scores):
            raise ConfigError(f"student.{what}: {n} units cannot be inherited; the teacher has {len(scores)}.")
    kept = [most_important(scores, n) for _, n, scores in wanted]
    return Units(layers, kept[0], tuple(kept[1 : 1 + config.depth]), tuple(kept[1 + config.depth :]))


def ranked_units(importance: Importance) -> Units:
    """Return all units, best first; layers keep their order."""
    heads = tuple(np.argsort(-scores, kind="stable") for scores in importance.heads)
    ffn = tuple(np.argsort(-scores, kind="stable") for scores in importance.ffn)
    return Units(tuple(range(len(heads))), np.argsort(-importance.hidden, kind="stable"), heads, ffn)


def inherit(teacher: TextEncoder, config: EncoderConfig, units: Units) -> TextEncoder:
    """Return a student whose every weight is cut out of the teacher's, in evaluation mode; it shares no memory.

    Args:
        teacher: Not changed.
        config: The student's shape; its widths are the numbers of units.
        units: What the student keeps.

    Raises:
        ConfigError: The teacher's matrices are factored or its layers share weights: they have no units to cut.
    """
    if teacher.config.ranks or teacher.config.sharing or teacher.config.embedding_rank:
        what = "shares weights between layers" if teacher.config.sharing else "has factored matrices"
        raise ConfigError(
            f"student: a model that {what} ({teacher.config.sharing or teacher.config.ranks or 'word table'}) cannot "
            "be cut; one with matrices of its own can. Cut first, then factor or share."
        )
    with torch.device("meta"):  # no time for weights that are about to be replaced
        student = TextEncoder(config)
    theirs = teacher.state_dict()
    state = {
        name: _cut(theirs[_source(name, units)], _indices(name, teacher.config, units))
        for name in student.state_dict()
        if name != "embeddings.rank.weight"
    }
    if config.embedding_rank:
        factors = low_rank(state["embeddings.word.weight"], config.embedding_rank)
        state["embeddings.word.weight"], state["embeddings.rank.weight"] = factors
    student.load_state_dict(state, assign=True)
    return student.eval()


def low_rank(table: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the closest product of two thin matrices, by truncated singular value decomposition.

    The right singular vectors are eigenvectors of the small Gram matrix, which is much faster for a tall table; each
    vector's sign is fixed, so equal tables give equal factors.

    Args:
        table: ``(n, width)`` float.
        rank: At most ``width``.

    Returns:
        ``(n, rank)`` and the weight ``(width, rank)`` of a Linear; ``first @ second.T`` is the approximation.

    Source: Eckart and Young 1936, https://doi.org/10.1007/BF02288367.
    """
    _, vectors = torch.linalg.eigh((table.T @ table).double())  # eigenvalues ascend
    basis = vectors[:, -rank:].flip(1)
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    basis = (basis * largest.sign()).to(table.dtype).contiguous()
    return table @ basis, basis


def _source(name: str, units: Units) -> str:
    """Return the name of the teacher's weight that a student's weight is cut from."""
    parts = name.split(".")
    if parts[0] == "layers":
        parts[1] = str(units.layers[int(parts[1])])
    return ".".join(parts)


def _indices(name: str, teacher: EncoderConfig, units: Units) -> list[np.ndarray | None]:
    """Return for each axis of a student's weight which of the teacher's indices it keeps; None = all."""
    parts = name.split(".")
    in_layer = parts[0] == "layers"
    axes = AXES[parts[2] if in_layer else ".".join(parts[:2])]
    kept: dict[str, np.ndarray] = {"hidden": units.hidden}
    if teacher.embedding == teacher.hidden:
        kept["embedding"] = units.hidden
    if in_layer:
        layer = int(parts[1])
        starts = units.heads[layer][:, None] * teacher.head_size
        kept |= {"inner": (starts + np.arange(teacher.head_size)).ravel(), "ffn": units.ffn[layer]}
    return [kept.get(axis) for axis in (axes if parts[-1] == "weight" else axes[:1])]


def _cut(weight: Tensor, indices: list[np.ndarray | None]) -> Tensor:
    """Return a copy of the weight with these indices of each axis, in this order."""
    for axis, index in enumerate(indices):
        whole = index is None or np.array_equal(index, np.arange(weight.shape[axis]))
        if not whole:
            weight = weight.index_select(axis, torch.from_numpy(index).to(weight.device))
    return weight.detach().clone(memory_format=torch.contiguous_format)
