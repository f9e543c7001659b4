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
from search_spaces.families.encoder_costs import LINEARS
from search_spaces.families.encoder_inherit import Units, best_units, inherit
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder
from search_spaces.families.importance import Importance
from search_spaces.seeding import rng_for


def check_plain(where: str, config: EncoderConfig) -> None:
    """Refuse an encoder whose matrices are not its own.

    Raises:
        ConfigError: A matrix is factored or shared between layers; names the first.
    """
    ranks, places = dict(config.ranks), enumerate(config.owners)
    missing = [
        f"layers.{i}.{name}.weight"
        for i, owner in places
        for name in LINEARS
        if i != owner or f"layers.{i}.{name}" in ranks
    ]
    missing += ["embeddings.word.weight"] if config.embedding_rank else []
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


def cut_shape(config: EncoderConfig, sizes: Mapping[str, int]) -> EncoderConfig:
    """Return the config with fewer units.

    Args:
        config: Refused by `check_plain` or plain.
        sizes: How many units of a group stay; groups without an entry stay whole.
    """
    all_sizes = unit_sizes(config) | dict(sizes)
    heads, ffn = (tuple(all_sizes[f"{kind}.{i}"] for i in range(config.depth)) for kind in ("heads", "ffn"))
    hidden = all_sizes["hidden"]
    embedding = hidden if config.embedding == config.hidden else config.embedding
    return replace(config, heads=heads, ffn=ffn, hidden=hidden, embedding=embedding)


def cut_encoder(model: TextEncoder, smaller: EncoderConfig, scores: UnitScores) -> TextEncoder:
    """Return an encoder with the most important units only, in evaluation mode; the argument is not changed.

    Args:
        model: Refused by `check_plain` or plain.
        smaller: From `cut_shape`.
        scores: Of all units, as `encoder_scores` has them.
    """
    return inherit(model, smaller, best_units(smaller, tuple(range(smaller.depth)), Importance.from_arrays(scores)))


def keep_shape(config: EncoderConfig, layers: Sequence[int]) -> EncoderConfig:
    """Return the config with some layers only; refused by `check_plain` or plain."""
    return replace(config, heads=tuple(config.heads[i] for i in layers), ffn=tuple(config.ffn[i] for i in layers))


def keep_layers(model: TextEncoder, layers: Sequence[int]) -> TextEncoder:
    """Return an encoder with some layers only, in evaluation mode; the argument is not changed.

    Args:
        model: Refused by `check_plain` or plain.
        layers: Indices of those that stay, in their new order.
    """
    kept = keep_shape(model.config, layers)
    heads, ffn = tuple(map(np.arange, kept.heads)), tuple(map(np.arange, kept.ffn))
    return inherit(model, kept, Units(tuple(layers), np.arange(kept.hidden), heads, ffn))
