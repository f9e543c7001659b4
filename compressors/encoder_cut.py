"""Making a text encoder smaller by the units and layers it keeps, for the compressors that cut.

Knows encoders; not which units matter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from compressors.base import Material
from compressors.group_scores import UnitScores
from compressors.importance import Criterion, score_importance
from search_spaces.errors import ConfigError
from search_spaces.families.encoder_inherit import Units, best_units, inherit
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder
from search_spaces.families.importance import Importance
from search_spaces.seeding import rng_for

MATRICES = ("query", "key", "value", "out", "up", "down")


def check_plain(where: str, model: TextEncoder) -> None:
    """Refuse an encoder whose matrices are not its own.

    Raises:
        ConfigError: A matrix is factored or shared between layers; names the first.
    """
    own = {name for name, _ in model.named_parameters()}
    wanted = [f"layers.{i}.{matrix}.weight" for i in range(model.config.depth) for matrix in MATRICES]
    missing = [name for name in wanted if name not in own]
    missing += ["embeddings.word.weight"] if model.config.embedding_rank else []
    if missing:
        raise ConfigError(
            f"{where}: {missing[0]} is factored or shared, as are {len(missing) - 1} more; only an encoder with "
            "matrices of its own can be cut. Cut first, then factor or share."
        )


def unit_sizes(config: EncoderConfig) -> dict[str, int]:
    """Return how many units each group has: ``heads.i``, ``ffn.i`` and ``hidden``."""
    sizes = {f"heads.{index}": heads for index, heads in enumerate(config.heads)}
    return sizes | {f"ffn.{index}": width for index, width in enumerate(config.ffn)} | {"hidden": config.hidden}


def keep_projection(config: EncoderConfig, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the sizes with a hidden width other than that of separate embedding tables.

    An encoder whose tables are as wide as its stream has no Linear between them, so the weights of that Linear would
    have no place.
    """
    is_lost = config.embedding != config.hidden and sizes.get("hidden") == config.embedding
    return {**sizes, "hidden": config.embedding + 1} if is_lost else dict(sizes)


def encoder_scores(criterion: str, model: TextEncoder, material: Material) -> UnitScores:
    """Return the importance of all units by group and, as ``layers``, of all layers.

    Args:
        criterion: ``random``, or one of `importance`.
        model: In evaluation mode, not changed.
        material: Rows to score on.

    Raises:
        DataError: There are no rows, and the criterion needs them.
    """
    if criterion == "random":
        sizes = unit_sizes(model.config) | {"layers": model.config.depth}
        return {name: rng_for(material.seed, "units", name).random(size) for name, size in sizes.items()}
    return score_importance(model, material.batches, cast(Criterion, criterion)).to_arrays()


def cut_encoder(model: TextEncoder, sizes: Mapping[str, int], scores: UnitScores) -> TextEncoder:
    """Return an encoder with the most important units only, in evaluation mode; the argument is not changed.

    Args:
        model: Refused by `check_plain` or plain.
        sizes: How many units of a group stay; groups without an entry stay whole.
        scores: Of all units, as `encoder_scores` has them.
    """
    config, all_sizes = model.config, unit_sizes(model.config) | dict(sizes)
    heads, ffn = (tuple(all_sizes[f"{kind}.{i}"] for i in range(config.depth)) for kind in ("heads", "ffn"))
    hidden = all_sizes["hidden"]
    embedding = hidden if config.embedding == config.hidden else config.embedding
    smaller = replace(config, heads=heads, ffn=ffn, hidden=hidden, embedding=embedding)
    return inherit(model, smaller, best_units(smaller, tuple(range(config.depth)), Importance.from_arrays(scores)))


def keep_layers(model: TextEncoder, layers: Sequence[int]) -> TextEncoder:
    """Return an encoder with some layers only, in evaluation mode; the argument is not changed.

    Args:
        model: Refused by `check_plain` or plain.
        layers: Indices of those that stay, in their new order.
    """
    config = model.config
    heads, ffn = tuple(config.heads[i] for i in layers), tuple(config.ffn[i] for i in layers)
    units = Units(tuple(layers), np.arange(config.hidden), tuple(map(np.arange, heads)), tuple(map(np.arange, ffn)))
    return inherit(model, replace(config, heads=heads, ffn=ffn), units)
