"""Dynamic int8 of an exported model: 8-bit weights, activations quantized as they come.

Rewrites the ONNX graph into the operators that ONNX Runtime's own ``quantize_dynamic`` writes, a dozen times faster
(its loop over single channels and its round trips through files take 2 s for a 60 MB model, this 0.08 s). Knows ONNX;
not sessions, not models in torch.
"""

from typing import ClassVar

import numpy as np
from onnx import NodeProto, TensorProto

from compressors.base import Run
from compressors.file_compressor import FileCompressor
from compressors.onnx_rewrite import GraphRewrite
from search_spaces.dimensions import Choice
from search_spaces.space import Condition, Space

LEVELS = 127  # symmetric: -127..127


class DynamicInt8(FileCompressor):
    """Constant matrices of MatMul and constant tables of Gather become int8; everything else stays as it is.

    Tables that `weights_4bit` with ``scope=tables`` has packed before stay packed.

    Source: Jacob et al. 2018, https://arxiv.org/abs/1712.05877, sec. 2.1, with zero points of 0 for the weights.
    """

    name: ClassVar[str] = "int8"
    suits: ClassVar[str] = "8-bit weights, activations scaled as they come: needs no data, faster on nearly every CPU"
    formats: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnx")  # it writes standard operators only

    def __init__(self, enabled: bool = True, per_channel: bool = True) -> None:
        """Bind the knobs.

        Args:
            enabled: False leaves the model as it is.
            per_channel: A scale for each column of a matrix; False: one for all, as embedding tables always have.
        """
        super().__init__()
        self.enabled, self.per_channel = enabled, per_channel

    @classmethod
    def space(cls) -> Space:
        """Return the knobs; ``per_channel`` means something only when enabled."""
        return Space(
            {"enabled": Choice((False, True)), "per_channel": Choice((True, False))},
            {"per_channel": Condition("enabled", (True,))},
        )

    def rewrite(self, artefact: bytes, run: Run | None) -> GraphRewrite:
        """Return the pass over one file; ``run`` is not needed."""
        return DynamicRewrite(self.name, artefact, self.per_channel)


class Int8Rewrite(GraphRewrite):
    """What dynamic and static int8 share: weights and tables."""

    def __init__(self, method: str, artefact: bytes, per_channel: bool, exclude: str = "") -> None:
        """Read the file; ``per_channel`` gives each column of a matrix a scale of its own."""
        super().__init__(method, artefact, exclude)
        self.per_channel = per_channel

    def gather(self, node: NodeProto) -> None:
        """Read int8 rows and scale them back."""
        table, rows = node.input
        out = node.output[0]
        quantized, scale, zero = self.constant(table, per_column=False)
        self.add("Gather", [quantized, rows], [f"{out}_rows"])
        self.add("DequantizeLinear", [f"{out}_rows", scale, zero], [out])
        self.book(node, self.matrix(table).size)

    def constant(self, name: str, per_column: bool) -> tuple[str, str, str]:
        """Store a matrix as int8 with its scale and zero point once, and return the three names."""
        kind = f"{name}_columns" if per_column else name
        names = (f"{kind}_quantized", f"{kind}_scale", f"{kind}_zero_point")
        if names[0] not in self.added:
            values, scale = quantize(self.matrix(name), per_column)
            for key, array in zip(names, (values, scale, np.zeros(scale.shape, np.int8)), strict=True):
                self.store(key, array)
        return names


class DynamicRewrite(Int8Rewrite):
    """Activations are scaled by the range that they have in each call."""

    def matmul(self, node: NodeProto) -> None:
        """Write X W as (quantized X) (quantized W) in integers, times both scales."""
        x, weight = node.input
        out = node.output[0]
        quantized, scale, zero = self.constant(weight, self.per_channel)
        if f"{x}_quantized" not in self.made:
            self.add("DynamicQuantizeLinear", [x], [f"{x}_quantized", f"{x}_scale", f"{x}_zero_point"])
        self.add("Mul", [f"{x}_scale", scale], [f"{out}_scales"])
        self.add("MatMulInteger", [f"{x}_quantized", quantized, f"{x}_zero_point", zero], [f"{out}_integer"])
        self.add("Cast", [f"{out}_integer"], [f"{out}_float"], to=TensorProto.FLOAT)
        self.add("Mul", [f"{out}_float", f"{out}_scales"], [out])
        self.book(node, self.matrix(weight).size)


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
