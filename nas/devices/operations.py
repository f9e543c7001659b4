"""What an ONNX file does in one call: arithmetic and bytes, operator by operator.

Shapes are those of a real call: ONNX Runtime runs the file once with every value as an output. Knows ONNX; not devices.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper

from nas.devices.base import Workload
from nas.devices.onnxruntime_program import load
from nas.devices.program import filled

FREE = ("Constant", "Flatten", "Identity", "Reshape", "Shape", "Squeeze", "Unsqueeze")  # move nothing
PARTLY = ("Gather", "GatherBlockQuantized", "Slice", "Split")  # read as much as they write, not all of their input
SEVERAL = {"Softmax": 5, "LayerNormalization": 8, "Gelu": 8, "BiasGelu": 9, "FastGelu": 9}  # operations an element


@dataclass(frozen=True)
class Operation:
    """One operator in one call.

    Attributes:
        kind: Its name in ONNX.
        flops: Multiplications and additions, each counted.
        bytes_moved: Read and written, weights included.
        weight_bytes: Of these, constants.
        is_integer: It multiplies integers.
    """

    kind: str
    flops: float
    bytes_moved: float
    weight_bytes: float
    is_integer: bool


def operations(artefact: bytes, workload: Workload, tokens: int) -> list[Operation]:
    """Return the operators of a call in order, without those that move nothing.

    Args:
        artefact: ONNX file that ONNX Runtime runs.
        workload: Shape of the call.
        tokens: Length of its rows.

    Raises:
        RefusalError: ONNX Runtime refuses the file or the call.
    """
    model = onnx.load_model_from_string(artefact)
    graph = model.graph
    shown = {value.name for value in graph.output}
    graph.output.extend(
        onnx.ValueInfoProto(name=name) for node in graph.node for name in node.output if name and name not in shown
    )
    program = load(model.SerializeToString(), 1, {"graph": "none"})
    feed = filled(program, workload, tokens)
    made = dict(zip((port.name for port in program.outputs), program.run(feed), strict=True))
    constants = {tensor.name: np.empty(tensor.dims, _dtype(tensor.data_type)) for tensor in graph.initializer}
    values = {**constants, **feed, **made}
    return [_operation(node, values, set(constants)) for node in graph.node if node.op_type not in FREE]


def _operation(node: NodeProto, values: Mapping[str, np.ndarray], constants: set[str]) -> Operation:
    """Return what one node does."""
    given = [values[name] for name in node.input if name]
    written = sum(values[name].nbytes for name in node.output if name)
    if node.op_type in PARTLY:
        return Operation(node.op_type, 0.0, 2.0 * written, 0.0, False)
    weights = sum(values[name].nbytes for name in node.input if name in constants)
    moved = sum(array.nbytes for array in given) + written
    matrices = [values[name] for name in node.input if name in constants and values[name].ndim > 1]
    is_integer = any(matrix.dtype.kind in "iu" for matrix in matrices)
    return Operation(node.op_type, _flops(node, values), float(moved), float(weights), is_integer)


def _flops(node: NodeProto, values: Mapping[str, np.ndarray]) -> float:
    """Return the arithmetic of one node."""
    kind, first, out = node.op_type, values[node.input[0]], values[node.output[0]]
    if "Conv" in kind:
        weight = values[node.input[1 if kind != "QLinearConv" else 3]]
        return 2.0 * out.size * math.prod(weight.shape[1:])
    if kind == "Gemm":
        turned = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return 2.0 * out.size * int(first.shape[0 if turned else -1])
    if "MatMul" in kind:
        return 2.0 * out.size * int(first.shape[-1])
    if kind == "MultiHeadAttention":  # query times key, then weights times value
        return 4.0 * first.size * int(values[node.input[1]].shape[1])
    return float(SEVERAL.get(kind, 1) * out.size)


def _dtype(kind: int) -> np.dtype[Any]:
    """Return numpy's name of an element type."""
    dtype: np.dtype[Any] = helper.tensor_dtype_to_np_dtype(kind)
    return dtype
