"""Which layers of a model quantization can act on, and how large the model is with some of them packed.

Knows modules; not how values are rounded.
"""

import math
from collections.abc import Mapping

from torch import Tensor, nn

from compressors.base import Skip
from search_spaces.errors import ConfigError
from search_spaces.families.encoder_model import Embeddings

LAYERS: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv2d)


def quantizable(where: str, model: nn.Module, embeddings: bool = False) -> dict[str, Tensor]:
    """Return the weights of all Linear and Conv2d layers, and of embedding tables on request, by layer name.

    A weight that several layers share is there once. Tables that a text encoder reads by slices or adds to such a
    table stay in float32, as in its artefact: integers are for rows that are looked up.

    Args:
        where: The compressor, for errors.
        model: Any.
        embeddings: Whether tables are wanted.

    Raises:
        ConfigError: There is none.
    """
    kinds: tuple[type[nn.Module], ...] = (*LAYERS, nn.Embedding) if embeddings else LAYERS
    found: dict[str, Tensor] = {}
    sliced = {id(table) for part in model.modules() if isinstance(part, Embeddings) for table in _sliced(part)}
    for name, module in model.named_modules():
        weight = module.weight if isinstance(module, kinds) and id(module) not in sliced else None
        if isinstance(weight, Tensor) and not any(weight is other for other in found.values()):
            found[name] = weight
    if not found:
        kinds_there = sorted({type(module).__name__ for module in model.modules()})
        raise ConfigError(
            f"{where}: no layer can be quantized; Linear and Conv2d can, the model has {', '.join(kinds_there)}. "
            f"Leave {where} out."
        )
    return found


def _sliced(embeddings: Embeddings) -> list[nn.Module]:
    """Return the tables of a text encoder in which nothing is looked up."""
    segment = embeddings.segment
    return [embeddings.position, *([segment] if segment is not None and segment.num_embeddings == 1 else [])]


def untouched(model: nn.Module, weights: Mapping[str, Tensor]) -> tuple[Skip, ...]:
    """Return what stays in float32, by parameter."""
    chosen = {id(weight) for weight in weights.values()}
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    return tuple(
        Skip(name, f"{name.rpartition('.')[2]} of {kinds[name.rpartition('.')[0]]} stays in float32")
        for name, parameter in model.named_parameters()
        if id(parameter) not in chosen
    )


def size_figures(model: nn.Module, weights: Mapping[str, Tensor], packed_bits: Mapping[str, int]) -> dict[str, float]:
    """Return what the model would take packed.

    Args:
        model: All of it.
        weights: Of `quantizable`.
        packed_bits: Bits of some of these weights with their scales, by layer name; the others stay in float32.

    Returns:
        ``bits_per_weight`` of the packed layers, scales included (32 if none is), ``packed_bytes`` and
        ``float_bytes`` of all parameters.
    """
    n_packed = sum(weights[name].numel() for name in packed_bits)
    float_bytes = 4.0 * sum(parameter.numel() for parameter in model.parameters())
    saved = sum(4 * weights[name].numel() - math.ceil(bits / 8) for name, bits in packed_bits.items())
    return {
        "bits_per_weight": sum(packed_bits.values()) / n_packed if n_packed else 32.0,
        "packed_bytes": float_bytes - saved,
        "float_bytes": float_bytes,
    }
