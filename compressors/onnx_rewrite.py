"""What every rewriting of an exported graph shares: finding the weights, replacing nodes, booking what happened.

Knows ONNX; not sessions, not models in torch. Weights are those of MatMul with a constant matrix on the right and of
Gather from a constant table; exclusions are patterns of node names.
"""

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from compressors.base import Change, Skip
from compressors.file_compressor import Exclusion
from search_spaces.errors import ConfigError

MICROSOFT = "com.microsoft"  # the domain of ONNX Runtime's own operators
WEIGHT_INPUT = {"MatMul": 1, "Gather": 0}


class GraphRewrite:
    """One pass over a graph; nodes are replaced in place, so that the order stays topological."""

    def __init__(self, method: str, artefact: bytes, exclude: str = "") -> None:
        """Read the file; ``exclude`` holds patterns of node names, separated by commas."""
        self.method, self.model = method, onnx.load_model_from_string(artefact)
        self.graph = self.model.graph
        self.exclusion = Exclusion(method, exclude)
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.nodes: list[NodeProto] = []
        self.made: set[str] = set()  # outputs of the new nodes
        self.added: dict[str, TensorProto] = {}
        self.absorbed: set[str] = set()  # outputs of nodes whose work another node does now
        self.changed: list[Change] = []
        self.skipped: list[Skip] = []
        self.figures: dict[str, float] = {}

    def matmul(self, node: NodeProto) -> None:
        """Replace a MatMul that `why_not` has nothing against."""
        raise NotImplementedError

    def gather(self, node: NodeProto) -> None:
        """Replace a Gather that `why_not` has nothing against."""
        raise NotImplementedError

    def why_not(self, node: NodeProto) -> str | None:
        """Return None if the node can be replaced, the reason if it is of a kind that could be, else ''."""
        if node.op_type not in ("MatMul", "Gather", "Gemm", "Conv"):
            return ""
        if node.op_type in ("Gemm", "Conv"):
            return f"{node.op_type} is not supported; MatMul and Gather are"
        weight = self.constants.get(node.input[WEIGHT_INPUT[node.op_type]])
        if weight is None:
            return "its weight is not a constant"
        if weight.data_type != TensorProto.FLOAT or len(weight.dims) != 2:
            return f"its weight is not a float32 matrix but type {weight.data_type} of shape {tuple(weight.dims)}"
        if node.op_type == "Gather" and any(a.name == "axis" and a.i != 0 for a in node.attribute):
            return "it gathers along another axis than 0"
        return self.exclusion.why_not(name_of(node))

    def run(self) -> bytes:
        """Return the file after replacing what can be replaced, without the constants nobody reads any more.

        Raises:
            ConfigError: An exclusion matches nothing, or nothing can be replaced.
        """
        nodes = [node for node in self.graph.node if node.op_type in WEIGHT_INPUT]
        self.exclusion.check([name_of(node) for node in nodes], "nodes")
        self.replace()
        if not self.changed:
            raise ConfigError(self.nothing_changed())
        self._write_back()
        result: bytes = self.model.SerializeToString()
        return result

    def replace(self) -> None:
        """Fill `nodes` with those of the graph, replaced where `why_not` has nothing against."""
        for node in self.graph.node:
            if node.output[0] in self.absorbed:
                continue
            why_not = self.why_not(node)
            if why_not is None:
                (self.matmul if node.op_type == "MatMul" else self.gather)(node)
            else:
                self.nodes.append(node)
                if why_not:
                    self.skipped.append(Skip(name_of(node), why_not))

    def matrix(self, name: str) -> np.ndarray:
        """Return a constant."""
        array: np.ndarray = numpy_helper.to_array(self.constants[name])
        return array

    def add(self, operator: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: Any) -> None:
        """Append a node named after its first output."""
        name = f"{outputs[0]}.{operator}"
        self.nodes.append(helper.make_node(operator, inputs, outputs, name, domain=domain, **attributes))
        self.made.update(outputs)
        if domain and all(known.domain != domain for known in self.model.opset_import):
            self.model.opset_import.append(helper.make_opsetid(domain, 1))

    def store(self, name: str, array: np.ndarray) -> str:
        """Store a constant and return its name."""
        self.added[name] = numpy_helper.from_array(array, name)
        return name

    def book(self, node: NodeProto, size_bytes: int) -> None:
        """Note a replaced node with the bytes of its weight, before and after."""
        weight = self.constants[node.input[WEIGHT_INPUT[node.op_type]]]
        self.changed.append(Change(name_of(node), 4 * int(np.prod(weight.dims)), size_bytes))

    def nothing_changed(self) -> str:
        """Return what is wrong with a graph without anything to replace."""
        first = f"; first: {self.skipped[0].where}, {self.skipped[0].why}" if self.skipped else ""
        return (
            f"{self.method}: 0 of {len(self.graph.node)} nodes can be quantized; MatMul and Gather with constant "
            f"float32 weights can{first}. Set {self.method}.enabled to false."
        )

    def _write_back(self) -> None:
        """Put the nodes into the graph, and the constants and types of values that it still has."""
        read = Counter(name for node in self.nodes for name in node.input)
        made = {name for node in self.nodes for name in node.output}
        old = [tensor for tensor in self.graph.initializer if read[tensor.name] and tensor.name not in made]
        typed = [value for value in self.graph.value_info if value.name in made]
        kept = [*old, *self.added.values()]
        del self.graph.node[:], self.graph.initializer[:], self.graph.value_info[:]
        self.graph.node.extend(self.nodes)
        self.graph.initializer.extend(kept)
        self.graph.value_info.extend(typed)


def readers(graph: onnx.GraphProto) -> dict[str, list[NodeProto]]:
    """Return the nodes that read each value."""
    found: dict[str, list[NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            found[name].append(node)
    return found


def name_of(node: NodeProto) -> str:
    """Return the node's name, or what it computes where it has none."""
    name: str = node.name or node.output[0]
    return name
