"""The file of the torch runtime: a text encoder's tensors in safetensors, its shape and its rounding in the header.

A matrix or table that is rounded is there as integers, ``NAME.weight_int8`` or, two to a byte, ``NAME.weight_int4``,
with their scales, ``NAME.weight_scale``; torchao makes modules of them again. Knows the format; not devices, not how
weights are rounded.
"""

import importlib.util
import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from search_spaces.errors import ConfigError, MissingDependencyError
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder
from search_spaces.registry import Table

INTEGERS = {torch.int8: ".weight_int8", torch.uint8: ".weight_int4"}  # after the name of a layer
SCALE = ".weight_scale"
HEADER = 8  # bytes that hold the length of the JSON that follows them, little-endian
REBUILD = Table("rounding", {"torchao": "compressors.torchao_layers:rebuild"})

Rounded = Mapping[str, tuple[Tensor, Tensor]]
"""Name of a layer -> its integers, ``(rows, columns)`` int8 or ``(rows, columns / 2)`` uint8 of two 4-bit levels (the
first in the low half; 8 is zero), and their float32 scales, ``(1, 1)`` or ``(rows, blocks)``."""


def to_blob(model: TextEncoder, rounded: Rounded | None = None, rounding: Mapping[str, Any] | None = None) -> bytes:
    """Return a model as one file.

    Args:
        model: The weights of its rounded layers are not read.
        rounded: Layers that are integers.
        rounding: How they are rounded, JSON values; see `compressors.torchao_layers`.

    Source: https://huggingface.co/docs/safetensors (the format). The order of several keys of metadata is not defined,
    so there is one, and equal models make equal bytes.
    """
    rounded = rounded or {}
    weights = model.state_dict()
    tensors = {name: tensor for name, tensor in weights.items() if name.removesuffix(".weight") not in rounded}
    for name, (integers, scale) in rounded.items():
        tensors |= {f"{name}{INTEGERS[integers.dtype]}": integers, f"{name}{SCALE}": scale}
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    told = {**model.config.to_json(), **({"rounding": dict(rounding)} if rounding else {})}
    content: bytes = save(stored, metadata={"config": json.dumps(told)})
    return content


def from_blob(where: str, content: bytes) -> tuple[TextEncoder, Mapping[str, Any]]:
    """Return the model of a file in evaluation mode, and how its weights are rounded; empty = not at all.

    Args:
        where: Who reads, for errors.
        content: What `to_blob` wrote.

    Raises:
        ConfigError: The file is none, or its tensors and its shape do not belong together.
        MissingDependencyError: Its weights are rounded, and torchao is not installed.
    """
    try:
        size = int.from_bytes(content[:HEADER], "little")
        told = json.loads(json.loads(content[HEADER : HEADER + size])["__metadata__"]["config"])
        rounding = told.pop("rounding", {})
        model = TextEncoder(EncoderConfig.from_json(told))
        _fill(where, model, load(content), rounding)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConfigError(f"{where}: {len(content)} bytes are no text encoder in safetensors ({reason}).") from error
    return model.eval(), rounding


def _fill(where: str, model: TextEncoder, tensors: dict[str, Tensor], rounding: Mapping[str, Any]) -> None:
    """Give a model its tensors."""
    spelled = [(name, suffix) for name in tensors for suffix in INTEGERS.values() if name.endswith(suffix)]
    names = {name.removesuffix(suffix): name for name, suffix in spelled}
    rounded = {layer: (tensors.pop(name), tensors.pop(f"{layer}{SCALE}")) for layer, name in names.items()}
    wanted = set(model.state_dict()) - {f"{layer}.weight" for layer in names}
    if wanted != set(tensors):
        raise ValueError(f"{sorted(wanted ^ set(tensors))[0]} is in its shape or its tensors, not in both")
    model.load_state_dict(tensors, strict=not rounded)
    if rounded:
        check_torchao(where)
        REBUILD.load("torchao")(model, rounded, rounding)


def check_torchao(where: str) -> None:
    """Refuse to go on without torchao.

    Raises:
        MissingDependencyError: The message says what to install.
    """
    if (why := torchao_missing()) is not None:
        raise MissingDependencyError(f"{where}: {why}")


def torchao_missing() -> str | None:
    """Return None where torchao is installed, else what to install."""
    if importlib.util.find_spec("torchao") is not None:
        return None
    return "the package torchao is not installed. Install it with: pip install 'prentice[torchao]'"
