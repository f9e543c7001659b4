"""Dynamic int8 of an exported model: 8-bit weights, activations quantized as they come.

Rewrites the ONNX graph into the operators that ONNX Runtime's own ``quantize_dynamic`` writes, a dozen times faster
(its loop over single channels and its round trips through files take 2 s for a 60 MB model, this 0.08 s). Knows ONNX;
not sessions, not models in torch.
"""

from collections import Counter
from typing import ClassVar, Literal

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from compressors.base import Change, Phase, Report, Run, Skip
from search_spaces.dimensions import Choice
from search_spaces.errors import ConfigError
from search_spaces.space import Condition, Space

LEVELS = 127  # symmetric: -127..127


class DynamicInt8:
    """Constant matrices of MatMul and constant tables of Gather become int8; everything else stays as it is.

    Source: Jacob et al. 2018, https://arxiv.org/abs/1712.05877, sec. 2.1, with zero points of 0 for the weights.
    """

    name: ClassVar[str] = "int8"
    suits: ClassVar[str] = "8-bit weights, activations scaled as they come: needs no data, faster on nearly every CPU"
    stage: ClassVar[Literal["artefact"]] = "artefact"
    phase: ClassVar[Phase] = "bits"

    def __init__(self, enabled: bool = True, per_channel: bool = True) -> None:
        """Bind the knobs.

        Args:
            enabled: False leaves the model as it is.
            per_channel: A scale for each column of a matrix; False: one for all, as embedding tables always have.
        """
        self.enabled, self.per_channel = enabled, per_channel
        self._changed: list[Change] = []
        self._skipped: list[Skip] = []
        self._figures: dict[str, float] = {}

    @classmethod
    def space(cls) -> Space:
        """Return the knobs; ``per_channel`` means something only when enabled."""
        return Space(
            {"enabled": Choice((False, True)), "per_channel": Choice((True, False))},
            {"per_channel": Condition("enabled", (True,))},
        )

    def apply(self, artefact: bytes, run: Run | None = None) -> bytes:
        """Return the quantized model; the argument is not changed, ``run`` is not needed.

        Raises:
            ConfigError: The model holds nothing that can be quantized.
        """
        if not self.enabled:
            self._changed, self._skipped = [], [Skip("model", "int8 is not enabled")]
            self._figures = {"bytes_before": float(len(artefact)), "bytes_after": float(len(artefact))}
            return artefact
        model = onnx.load_model_from_string(artefact)
        rewrite = _Rewrite(model, self.per_channel)
        rewrite.run()
        if not rewrite.changed:
            raise ConfigError(
                f"int8: 0 of {len(model.graph.node)} nodes can be quantized; MatMul and Gather with constant float32 "
                "weights can. Set int8.enabled to false."
            )
        result: bytes = model.SerializeToString()
        self._changed, self._skipped = rewrite.changed, rewrite.skipped
        sizes = {"bytes_before": float(len(artefact)), "bytes_after": float(len(result))}
        self._figures = {**sizes, "nodes_quantized": float(len(self._changed))}
        return result

    def report(self) -> Report:
        """Return every quantized and skipped node of the latest `apply`; bytes are those of the whole file."""
        return Report(self.name, tuple(self._changed), tuple(self._skipped), self._figures)


class _Rewrite:
    """One pass over a graph; nodes are replaced in place, so that the order stays topological."""

    def __init__(self, model: ModelProto, per_channel: bool) -> None:
        self.graph, self.per_channel = model.graph, per_channel
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.nodes: list[NodeProto] = []
        self.added: dict[str, TensorProto] = {}
        self.quantized_inputs: set[str] = set()
        self.changed: list[Change] = []
        self.skipped: list[Skip] = []

    def run(self) -> None:
        """Replace what can be replaced and drop the constants nobody reads any more."""
        for node in self.graph.node:
            why_not = self._why_not(node)
            if why_not is None and node.op_type == "MatMul":
                self._matmul(node)
            elif why_not is None:
                self._gather(node)
            else:
                self.nodes.append(node)
                if why_not:
                    self.skipped.append(Skip(node.name or node.output[0], why_not))
        read = Counter(name for node in self.nodes for name in node.input)
        kept = [tensor for tensor in self.graph.initializer if read[tensor.name]] + list(self.added.values())
        del self.graph.node[:], self.graph.initializer[:]
        self.graph.node.extend(self.nodes)
        self.graph.initializer.extend(kept)

    def _why_not(self, node: NodeProto) -> str | None:
        """Return None if the node can be quantized, the reason if it is of a kind that could be, else ''."""
        if node.op_type not in ("MatMul", "Gather", "Gemm", "Conv"):
            return ""
        if node.op_type in ("Gemm", "Conv"):
            return f"{node.op_type} is not supported; MatMul and Gather are"
        weight = self.constants.get(node.input[1 if node.op_type == "MatMul" else 0])
        if weight is None:
            return "its weight is not a constant"
        if weight.data_type != TensorProto.FLOAT or len(weight.dims) != 2:
            return f"its weight is not a float32 matrix but type {weight.data_type} of shape {tuple(weight.dims)}"
        if node.op_type == "Gather" and any(a.name == "axis" and a.i != 0 for a in node.attribute):
            return "it gathers along another axis than 0"
        return None

    def _matmul(self, node: NodeProto) -> None:
        """Write X W as (quantized X) (quantized W) in integers, times both scales."""
        x, weight = node.input
        out = node.output[0]
        quantized, scale, zero = self._constant(weight, self.per_channel)
        if x not in self.quantized_inputs:
            self.quantized_inputs.add(x)
            self._add("DynamicQuantizeLinear", [x], [f"{x}_quantized", f"{x}_scale", f"{x}_zero_point"])
        self._add("Mul", [f"{x}_scale", scale], [f"{out}_scales"])
        self._add("MatMulInteger", [f"{x}_quantized", quantized, f"{x}_zero_point", zero], [f"{out}_integer"])
        self._add("Cast", [f"{out}_integer"], [f"{out}_float"], to=TensorProto.FLOAT)
        self._add("Mul", [f"{out}_float", f"{out}_scales"], [out])
        self._book(node, weight)

    def _gather(self, node: NodeProto) -> None:
        """Read int8 rows and scale them back."""
        table, rows = node.input
        out = node.output[0]
        quantized, scale, zero = self._constant(table, per_column=False)
        self._add("Gather", [quantized, rows], [f"{out}_rows"])
        self._add("DequantizeLinear", [f"{out}_rows", scale, zero], [out])
        self._book(node, table)

    def _constant(self, name: str, per_column: bool) -> tuple[str, str, str]:
        """Store a matrix as int8 with its scale and zero point once, and return the three names."""
        kind = f"{name}_columns" if per_column else name
        names = (f"{kind}_quantized", f"{kind}_scale", f"{kind}_zero_point")
        if names[0] not in self.added:
            values, scale = quantize(numpy_helper.to_array(self.constants[name]), per_column)
            arrays = (values, scale, np.zeros(scale.shape, np.int8))
            for key, array in zip(names, arrays, strict=True):
                self.added[key] = numpy_helper.from_array(array, key)
        return names

    def _add(self, operator: str, inputs: list[str], outputs: list[str], **attributes: int) -> None:
        """Append a node named after its first output."""
        self.nodes.append(helper.make_node(operator, inputs, outputs, f"{outputs[0]}.{operator}", **attributes))

    def _book(self, node: NodeProto, weight: str) -> None:
        """Note a quantized node with the bytes of its weight."""
        n = int(np.prod(self.constants[weight].dims))
        self.changed.append(Change(node.name or node.output[0], 4 * n, n))


def quantize(values: np.ndarray, per_column: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return a matrix as int8 and its scale, so that ``int8 * scale`` is within half a scale of the matrix.

    Args:
        values: ``(rows, columns)`` float32.
        per_column: A scale for each column instead of one.

    Returns:
        ``(rows, columns)`` int8, and float32 of shape ``(columns,)`` or ``()``.
    """
    axis = 0 if per_column else None
    peak = np.maximum(values.max(axis=axis), -values.min(axis=axis))
    scale = np.where(peak > 0, peak / LEVELS, 1).astype(np.float32)
    levels = values / scale
    return np.rint(levels, out=levels).astype(np.int8), scale
