"""What a model weighs, tensor by tensor: parameters, non-zeros, bits, bytes on disk and zipped.

Read from the file alone, whoever wrote it. Scales and zero points of quantized weights are no parameters, but their
bytes count. Knows ONNX and safetensors; not how a file was compressed.
"""

import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from safetensors.numpy import load

from compressors.blocks import unpack
from compressors.torch_file import INTEGERS, SCALE

ZLIB_LEVEL = 6  # what zip, gzip and most package formats use


class _Inputs(NamedTuple):
    """Which inputs of an operator are a quantized weight, its zero point, and all scales and zero points."""

    weight: int
    zero: int
    grid: tuple[int, ...]


QUANTIZED = {
    "ConvInteger": _Inputs(1, 3, (2, 3)),
    "DequantizeLinear": _Inputs(0, 2, (1, 2)),
    "DynamicQuantizeMatMul": _Inputs(1, 3, (2, 3)),
    "GatherBlockQuantized": _Inputs(0, 3, (2, 3)),
    "MatMulInteger": _Inputs(1, 3, (2, 3)),
    "MatMulIntegerToFloat": _Inputs(1, 5, (2, 3, 4, 5)),
    "MatMulNBits": _Inputs(1, 3, (2, 3)),
    "QLinearConv": _Inputs(3, 5, (1, 2, 4, 5, 6, 7)),
    "QLinearMatMul": _Inputs(3, 5, (1, 2, 4, 5, 6, 7)),
    "QuantizeLinear": _Inputs(0, 2, (1, 2)),
}
PASS = ("Cast", "Gather", "Identity", "Reshape", "Slice", "Transpose")  # weights may go through these first


@dataclass(frozen=True)
class TensorSize:
    """One constant of a model.

    Attributes:
        name: In the file.
        shape: Of the weights; of packed ones what they stand for.
        kind: Number type of the file, e.g. ``float32``, ``int8``, ``uint8``.
        parameters: Weights; 0 for scales, zero points and integers that are no weights.
        nonzeros: Of the parameters; quantized ones are zero at their zero point.
        size_bytes: Stored.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    parameters: int
    nonzeros: int
    size_bytes: int

    @property
    def bits(self) -> float:
        """Return the stored bits of one weight, without its scale; 0 for what is no weight."""
        return 8 * self.size_bytes / self.parameters if self.parameters else 0.0


@dataclass(frozen=True)
class Sizes:
    """What a model weighs.

    Attributes:
        tensors: Its constants.
        size_bytes: Of the whole file.
        compressed_bytes: The same after zlib at level 6.
    """

    tensors: tuple[TensorSize, ...]
    size_bytes: int
    compressed_bytes: int

    @property
    def parameters(self) -> int:
        """Return the number of weights."""
        return sum(tensor.parameters for tensor in self.tensors)

    @property
    def nonzeros(self) -> int:
        """Return the number of weights that are not zero."""
        return sum(tensor.nonzeros for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Return the effective bits of a weight: all constants, scales and zero points included, over the weights."""
        return 8 * sum(tensor.size_bytes for tensor in self.tensors) / self.parameters if self.parameters else 0.0


def sizes_of_artefact(artefact: bytes) -> Sizes:
    """Return what an ONNX or safetensors file weighs; weights of ONNX are initializers inside the file.

    Args:
        artefact: The file.
    """
    if artefact[8:9] == b"{":  # safetensors: the length of the header, then the header
        return Sizes(_plain_sizes(artefact), len(artefact), len(zlib.compress(artefact, ZLIB_LEVEL)))
    model = onnx.load_model_from_string(artefact)
    graph = _Graph(model.graph)
    tensors = tuple(graph.size(tensor) for tensor in model.graph.initializer)
    return Sizes(tensors, len(artefact), len(zlib.compress(artefact, ZLIB_LEVEL)))


def _plain_sizes(artefact: bytes) -> tuple[TensorSize, ...]:
    """Return the tensors of a safetensors file."""
    return tuple(_plain_size(name, values) for name, values in load(artefact).items())


def _plain_size(name: str, values: np.ndarray) -> TensorSize:
    """Return what a tensor weighs; the integers of a rounded weight are zero at 0, 4-bit levels at 8."""
    weights = values
    if name.endswith(INTEGERS[torch.uint8]):
        weights = unpack(values, 4, 2 * values.shape[-1]).astype(np.int8) - 8
    n, nonzeros = (0, 0) if name.endswith(SCALE) else (weights.size, int(np.count_nonzero(weights)))
    return TensorSize(name, weights.shape, str(values.dtype), n, nonzeros, values.nbytes)


class _Graph:
    """What the constants of a graph are for."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.weights: dict[str, NodeProto] = {}  # quantized weight -> the node that knows its zero point
        self.grids: set[str] = set()
        for node in graph.node:
            self._read(node)

    def size(self, tensor: TensorProto) -> TensorSize:
        """Return what a constant weighs."""
        array = numpy_helper.to_array(tensor)
        stored = len(tensor.raw_data) or array.nbytes
        kind = helper.tensor_dtype_to_np_dtype(tensor.data_type).name
        if tensor.name in self.grids or not (tensor.name in self.weights or "float" in kind):
            return TensorSize(tensor.name, array.shape, kind, 0, 0, stored)
        if tensor.name in self.weights:
            array = self._centred(array, self.weights[tensor.name])
        nonzeros = int(np.count_nonzero(array.astype(np.float32)))
        return TensorSize(tensor.name, array.shape, kind, array.size, nonzeros, stored)

    def _read(self, node: NodeProto) -> None:
        """Note what an operator takes its constants for."""
        inputs = [self._origin(name) for name in node.input]
        if node.op_type == "Mul" and any(self._is_dynamic_scale(name) for name in node.input):
            self.grids.update(inputs)
        if node.op_type not in QUANTIZED:
            return
        places = QUANTIZED[node.op_type]
        self.grids.update(inputs[place] for place in places.grid if place < len(inputs))
        weight = self.constants.get(inputs[places.weight])
        if weight is not None and weight.data_type != TensorProto.FLOAT:
            self.weights[weight.name] = node

    def _origin(self, name: str) -> str:
        """Return where a value comes from: before casts, look-ups and changes of shape."""
        while name in self.makers and self.makers[name].op_type in PASS:
            name = self.makers[name].input[0]
        return name

    def _is_dynamic_scale(self, name: str) -> bool:
        """Return whether a value is the scale that an activation has in one call."""
        maker = self.makers.get(name)
        return maker is not None and maker.op_type == "DynamicQuantizeLinear" and name == maker.output[1]

    def _centred(self, array: np.ndarray, node: NodeProto) -> np.ndarray:
        """Return quantized weights as one integer each, 0 where the weight is."""
        place = QUANTIZED[node.op_type].zero
        name = self._origin(node.input[place]) if len(node.input) > place else ""
        zero = numpy_helper.to_array(self.constants[name]) if name in self.constants else None
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type in ("MatMulNBits", "GatherBlockQuantized") and array.dtype == np.uint8:
            return _blocks(array, zero, attributes)
        levels = array.astype(np.int32)
        if zero is None or zero.size == 1:
            return levels - (0 if zero is None else int(zero.item()))
        shape = [1] * levels.ndim
        shape[attributes.get("axis", -1) if zero.ndim == 1 else -1] = -1
        centred: np.ndarray = levels - zero.astype(np.int32).reshape(shape)
        return centred


def _blocks(packed: np.ndarray, zero: np.ndarray | None, attributes: dict[str, int]) -> np.ndarray:
    """Return the weights of a packed matrix, or table, as ``(columns, rows)``, or rows, of one integer each."""
    bits, block = attributes.get("bits", 4), attributes["block_size"]
    rows = packed.reshape(len(packed), -1)
    length = attributes.get("K", rows.shape[1] * 8 // bits)
    levels = unpack(rows, bits, rows.shape[1] * 8 // bits)[:, :length].astype(np.int32)
    if zero is None:
        zeros = np.full((1, length), 2 ** (bits - 1))
    else:
        zeros = unpack(zero.reshape(len(packed), -1), bits, -(-length // block)).repeat(block, axis=1)[:, :length]
    centred: np.ndarray = levels - zeros
    return centred
