"""One file, several outputs: the columns of what an exported model says, each part under a name of its own.

Knows ONNX; not what the columns mean.
"""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

SIZES = "outputs.sizes"


def with_outputs(artefact: bytes, parts: Mapping[str, int]) -> bytes:
    """Return the file with an output for each part of its first output, which stays the first; it costs microseconds.

    Args:
        artefact: An ONNX file whose first output is ``(batch, columns)``.
        parts: Name of a new output -> how many of the columns are its own, in their order; together all of them.
    """
    model = onnx.load_model_from_string(artefact)
    graph = model.graph
    whole = graph.output[0]
    kind, (batch, columns) = whole.type.tensor_type.elem_type, whole.type.tensor_type.shape.dim
    assert sum(parts.values()) == columns.dim_value
    graph.initializer.append(numpy_helper.from_array(np.array(list(parts.values()), np.int64), SIZES))
    graph.node.append(helper.make_node("Split", [whole.name, SIZES], list(parts), "outputs.split", axis=-1))
    for name, size in parts.items():
        graph.output.append(helper.make_tensor_value_info(name, kind, [batch.dim_param, size]))
    changed: bytes = model.SerializeToString()
    return changed
