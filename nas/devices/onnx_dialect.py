"""How two kinds of ONNX say what the standard's own operators say in many nodes or in few: attention and activations.

``Microsoft`` uses the operators of ONNX Runtime, which are its fastest; ``Standard`` those of the standard alone, which
every runtime knows. Knows nodes; not models.
"""

import math
from typing import Any, Protocol

import numpy as np
from onnx import TensorProto

from nas.devices.base import Format
from search_spaces.registry import unknown_name

MICROSOFT = "com.microsoft"  # the domain of ONNX Runtime's own operators
LOWEST = -1e9  # added to the score of padding: its weight is zero then


class Writer(Protocol):
    """What writes a graph: see `nas.devices.onnx_text_encoder`."""

    def add(self, operator: str, *inputs: str, name: str = "", domain: str = "", **attributes: Any) -> str:
        """Append a node with one output and return the output's name."""
        ...

    def constant(self, name: str, values: np.ndarray) -> str:
        """Store an array under a name and return the name."""
        ...


class Dialect(Protocol):
    """A way to write attention and activations."""

    def mask(self, graph: Writer) -> str:
        """Return what attention wants of ``attention_mask``; once a graph."""
        ...

    def attention(
        self, graph: Writer, given: tuple[str, str, str], mask: str, heads: tuple[int, int], name: str
    ) -> str:
        """Return ``(batch, asking, heads * size)`` of query, key and value; ``heads`` are their number and size."""
        ...

    def activation(self, graph: Writer, kind: str, product: str, bias: str, name: str) -> str:
        """Return the activation of a matrix product and its bias."""
        ...


class Microsoft:
    """ONNX Runtime's operators: attention in one node, the bias inside the activation where there is such a kernel."""

    def mask(self, graph: Writer) -> str:
        """Return the mask as integers."""
        return graph.add("Cast", "attention_mask", to=TensorProto.INT32)

    def attention(
        self, graph: Writer, given: tuple[str, str, str], mask: str, heads: tuple[int, int], name: str
    ) -> str:
        """Return one node."""
        return graph.add("MultiHeadAttention", *given, "", mask, name=name, domain=MICROSOFT, num_heads=heads[0])

    def activation(self, graph: Writer, kind: str, product: str, bias: str, name: str) -> str:
        """Return one node where there is a kernel with the bias."""
        fused = {"gelu": "BiasGelu", "gelu_new": "FastGelu", "gelu_pytorch_tanh": "FastGelu"}
        if kind in fused:
            return graph.add(fused[kind], product, bias, name=f"{name}.activation", domain=MICROSOFT)
        x = graph.add("Add", product, bias, name=name)
        if kind == "silu":
            return graph.add("QuickGelu", x, domain=MICROSOFT, alpha=1.0)
        return graph.add({"relu": "Relu", "tanh": "Tanh"}[kind], x)


class Standard:
    """The operators of the standard alone."""

    def mask(self, graph: Writer) -> str:
        """Return what is added to scores, ``(batch, 1, 1, seq)``: 0 for tokens, very little for padding."""
        real = graph.add("Cast", "attention_mask", to=TensorProto.FLOAT, name="mask.real")
        padding = graph.add("Sub", graph.constant("one", np.array(1, np.float32)), real, name="mask.padding")
        low = graph.add("Mul", padding, graph.constant("lowest", np.array(LOWEST, np.float32)), name="mask.low")
        return graph.add("Unsqueeze", low, graph.constant("mask.axes", np.array([1, 2])), name="mask")

    def attention(
        self, graph: Writer, given: tuple[str, str, str], mask: str, heads: tuple[int, int], name: str
    ) -> str:
        """Return softmax(query key' / sqrt(size) + mask) value. Vaswani et al. 2017, arXiv:1706.03762, eq. 1."""
        apart = graph.constant(f"{name}.apart", np.array([0, 0, *heads]))
        together = graph.constant(f"{name}.together", np.array([0, 0, heads[0] * heads[1]]))
        scale = graph.constant(f"{name}.scale", np.array(1 / math.sqrt(heads[1]), np.float32))
        parts = [graph.add("Reshape", x, apart, name=f"{name}.{i}.apart") for i, x in enumerate(given)]
        orders = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])  # the key is turned for the product
        query, key, value = (
            graph.add("Transpose", x, perm=order, name=f"{name}.{i}")
            for i, (x, order) in enumerate(zip(parts, orders, strict=True))
        )
        scores = graph.add("MatMul", graph.add("Mul", query, scale, name=f"{name}.scaled"), key, name=f"{name}.scores")
        masked = graph.add("Add", scores, mask, name=f"{name}.masked")
        weights = graph.add("Softmax", masked, axis=-1, name=f"{name}.weights")
        mixed = graph.add("MatMul", weights, value, name=f"{name}.mixed")
        turned = graph.add("Transpose", mixed, perm=[0, 2, 1, 3], name=f"{name}.turned")
        return graph.add("Reshape", turned, together, name=name)

    def activation(self, graph: Writer, kind: str, product: str, bias: str, name: str) -> str:
        """Return the nodes of one activation."""
        x = graph.add("Add", product, bias, name=name)
        out = f"{name}.activation"
        if kind == "silu":
            return graph.add("Mul", x, graph.add("Sigmoid", x, name=f"{name}.gate"), name=out)
        if kind.startswith("gelu"):
            return graph.add("Gelu", x, approximate="none" if kind == "gelu" else "tanh", name=out)
        return graph.add({"relu": "Relu", "tanh": "Tanh"}[kind], x, name=out)


def dialect_of(kind: Format) -> Dialect:
    """Return how a format of ONNX is written.

    Raises:
        ConfigError: It is no ONNX.
    """
    dialects: dict[str, Dialect] = {"onnxruntime": Microsoft(), "onnx": Standard()}
    if kind not in dialects:
        raise unknown_name("ONNX dialect", kind, list(dialects))
    return dialects[kind]
