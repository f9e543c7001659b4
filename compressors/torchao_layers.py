"""What torchao does here: matrices of few bits, and the kernels of torch that multiply with them.

A rounding is JSON values: ``scheme``, a row of `compressors.torchao.SCHEMES`, and ``reduced``, whether 8 bits are 7.
A table is looked up here, row by row: torchao would scale the whole table back in every call. A file holds integers as
they are, never in the order that a kernel wants them, for that differs between processors. Imports torchao, so it is
reached through tables of strings only.
"""

import logging
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressors.blocks import pack, quantize_blocks, unpack

logging.getLogger("torchao").setLevel(logging.ERROR)  # on a processor it warns of kernels for GPUs

from torchao.prototype.quantization.int4 import Int4OpaqueTensor  # noqa: E402
from torchao.quantization import (  # noqa: E402
    Int8DynamicActivationInt8WeightConfig,
    Int8Tensor,
    Int8WeightOnlyConfig,
    MappingType,
    PerRow,
    PerTensor,
    quantize_,
)
from torchao.quantization.quantize_.workflows import QuantizeTensorToInt8Kwargs  # noqa: E402

ROWS = 16  # of which the 4-bit kernel wants a multiple
Rounded = dict[str, tuple[Tensor, Tensor]]  # see `compressors.torch_file.Rounded`


def quantize(
    model: nn.Module, names: Collection[str], rounding: Mapping[str, Any], block: int, per_channel: bool
) -> Rounded:
    """Return some layers of a model as integers with their scales; those of 8 bits are rounded in place.

    Args:
        model: Its layers of these names are Linear or Embedding.
        names: Of layers.
        rounding: How matrices are rounded; see the module's docstring. Rows of a table have 8 bits and a scale each.
        block: Of 4-bit weights; a matrix that does not fit it gets 8 bits.
        per_channel: A scale for each row of an 8-bit matrix; False: one for all.
    """
    tables = {name for name in names if isinstance(model.get_submodule(name), nn.Embedding)}
    found = _in_8_bits(model, tables, Int8WeightOnlyConfig(granularity=PerRow(), set_inductor_config=False))
    matrices = [name for name in names if name not in tables]
    if rounding["scheme"] == "int4_weights":
        shapes = {name: model.get_parameter(f"{name}.weight").shape for name in matrices}
        fitting = [name for name, (rows, columns) in shapes.items() if not (rows % ROWS or columns % block)]
        found |= {name: _in_4_bits(model.get_parameter(f"{name}.weight"), block) for name in fitting}
        matrices = [name for name in matrices if name not in fitting]
    granularity: Any = PerRow() if per_channel else PerTensor()
    config: Any = Int8WeightOnlyConfig(granularity=granularity, set_inductor_config=False)
    if rounding["scheme"] == "int8_dynamic":
        config = Int8DynamicActivationInt8WeightConfig(
            granularity=[PerRow(), granularity], set_inductor_config=False, reduce_range=rounding["reduced"]
        )
    return found | _in_8_bits(model, matrices, config)


def rebuild(model: nn.Module, rounded: Mapping[str, tuple[Tensor, Tensor]], rounding: Mapping[str, Any]) -> None:
    """Give layers of a model the integers and scales that `quantize` returned.

    Raises:
        ValueError: They are of another shape than the layer.
    """
    for name, (integers, scale) in rounded.items():
        layer: Any = model.get_submodule(name)
        rows, columns = layer.weight.shape
        is_packed = integers.dtype == torch.uint8
        fits = integers.shape == (rows, columns // 2 if is_packed else columns) and scale.ndim == 2
        if not fits or scale.shape[0] not in (1, rows) or columns % scale.shape[1]:
            raise ValueError(f"{name} is {rows} x {columns}, not {tuple(integers.shape)}, scales {tuple(scale.shape)}")
        if isinstance(layer, nn.Embedding):
            model.set_submodule(name, Int8Table(integers, scale))
            continue
        weight = _of_4_bits(integers, scale) if is_packed else _of_8_bits(integers, scale, rounding)
        layer.weight = nn.Parameter(weight, requires_grad=False)


class Int8Table(nn.Module):
    """An embedding table of 8-bit integers, of which the rows that are looked up are scaled back."""

    def __init__(self, integers: Tensor, scale: Tensor) -> None:
        """Keep ``(n, width)`` int8 and ``(n, 1)`` float32."""
        super().__init__()
        self.register_buffer("integers", integers)
        self.register_buffer("scale", scale)

    def forward(self, rows: Tensor) -> Tensor:
        """Return ``(..., width)`` float32 of ``(...)`` int64."""
        return F.embedding(rows, self.integers) * F.embedding(rows, self.scale)  # type: ignore[arg-type]


def _in_8_bits(model: nn.Module, names: Collection[str], config: Any) -> Rounded:
    """Round layers as torchao does by a configuration, in place."""
    with torch.no_grad():
        quantize_(model, config, lambda module, name: name in names)
    weights: dict[str, Any] = {name: model.get_submodule(name).weight for name in names}
    return {name: (weight.qdata, weight.scale) for name, weight in weights.items()}


def _of_8_bits(integers: Tensor, scale: Tensor, rounding: Mapping[str, Any]) -> Tensor:
    """Return 8-bit weights; in dynamic products each token that they are multiplied with gets a scale of its own."""
    inputs = None
    if rounding["scheme"] == "int8_dynamic":
        inputs = QuantizeTensorToInt8Kwargs(PerRow(), MappingType.SYMMETRIC, reduce_range=rounding["reduced"])
    block = [integers.shape[0] // scale.shape[0], integers.shape[1]]
    weight: Tensor = Int8Tensor(integers, scale, block, torch.float32, act_quant_kwargs=inputs)
    return weight


def _in_4_bits(weight: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Return weights in symmetric blocks, two to a byte, with the scales of the blocks."""
    levels, scale, _ = quantize_blocks(weight.detach().numpy(), block, 4, symmetric=True)
    return torch.from_numpy(pack(levels.reshape(len(levels), -1), 4)), torch.from_numpy(scale)


def _of_4_bits(packed: Tensor, scale: Tensor) -> Tensor:
    """Return 4-bit weights in the order that this processor's kernel wants; scales are those of `_in_4_bits`."""
    rows, columns = packed.shape[0], 2 * packed.shape[1]
    levels = torch.from_numpy(unpack(packed.numpy(), 4, columns)).int()
    ordered = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 1)
    grid = torch.stack([scale.T, torch.zeros_like(scale.T)], -1).contiguous()  # zero is level 8
    weight: Tensor = Int4OpaqueTensor(ordered, grid, [1, columns // scale.shape[1]], torch.Size((rows, columns)))
    return weight
