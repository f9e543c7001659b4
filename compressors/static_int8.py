"""Static int8 of an exported model: 8-bit weights, activations quantized with ranges that are fixed beforehand.

Ranges are those that a training learned, and where there are none those of calibration rows. Knows ONNX and what the
exporter calls matrices; not sessions, not models in torch.

The graph is written in ONNX Runtime's integer operators with the biases inside; residuals, LayerNorm and activation
functions stay float32. Measured in turns on one EPYC core at batch 1 and 25 tokens (5th percentiles of 1185 calls; 2
layers, hidden 384, FFN 768): float32 0.735 ms, dynamic int8 0.311 ms, this 0.307 ms, ``QLinearMatMul`` 0.318 ms, QDQ
around the inputs and outputs of products 0.332 ms, around the inputs only 0.574 ms.
"""

from collections.abc import Collection, Mapping
from typing import ClassVar

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from compressors.base import Run
from compressors.calibration import RANGES, Histogram, Range, calibrated
from compressors.file_compressor import FileCompressor
from compressors.int8 import Int8Rewrite
from compressors.onnx_rewrite import MICROSOFT, GraphRewrite, readers
from search_spaces.dimensions import Choice
from search_spaces.errors import ConfigError, DataError
from search_spaces.registry import unknown_name
from search_spaces.space import Condition, Space

LEVELS = 256  # of uint8


class StaticInt8(FileCompressor):
    """Constant matrices of MatMul become int8 and their inputs uint8 with a fixed scale; tables of Gather become int8.

    Source: Jacob et al. 2018, https://arxiv.org/abs/1712.05877, sec. 2.1 and 3 (ranges fixed after calibration).
    """

    name: ClassVar[str] = "static_int8"
    suits: ClassVar[str] = "8-bit weights, ranges of activations fixed on training rows: a little faster than int8"
    same_cost: ClassVar[tuple[str, ...]] = ("calibration",)  # other ranges in the same graph

    def __init__(
        self, enabled: bool = True, calibration: str = "min_max", per_channel: bool = True, exclude: str = ""
    ) -> None:
        """Bind the knobs.

        Args:
            enabled: False leaves the model as it is.
            calibration: How the range of an activation follows from its values; see `compressors.calibration`.
            per_channel: A scale for each column of a matrix; False: one for all, as embedding tables always have.
            exclude: Patterns of node names that stay float32, separated by commas, e.g. ``head.*,*.down.*``.

        Raises:
            ConfigError: The calibration is unknown.
        """
        super().__init__()
        if calibration not in RANGES:
            raise unknown_name(f"{self.name}.calibration", calibration, list(RANGES))
        self.enabled, self.calibration = enabled, calibration
        self.per_channel, self.exclude = per_channel, exclude
        self._known: Mapping[str, Range] = {}

    @classmethod
    def space(cls) -> Space:
        """Return the knobs; all others mean something only when enabled."""
        knobs = {
            "enabled": Choice((False, True)),
            "calibration": Choice(tuple(RANGES)),
            "per_channel": Choice((True, False)),
            "exclude": Choice(("", "head.*")),
        }
        return Space(knobs, {name: Condition("enabled", (True,)) for name in knobs if name != "enabled"})

    def take(self, ranges: Mapping[str, Range]) -> None:
        """Fix these ranges of layers' inputs, which a training found, instead of calibrating; see `Report.ranges`."""
        self._known = dict(ranges)

    def rewrite(self, artefact: bytes, run: Run | None) -> GraphRewrite:
        """Return the pass over one file, after seeing the activations whose ranges are not known.

        Raises:
            ConfigError: There are some, and no ``run``.
        """
        rewrite = StaticRewrite(self.name, artefact, self.per_channel, self.exclude)
        rewrite.fix_ranges(self._known, run, self.calibration)
        return rewrite


class StaticRewrite(Int8Rewrite):
    """Activations are scaled by ranges that are constants of the graph."""

    def fix_ranges(self, known: Mapping[str, Range], run: Run | None, calibration: str) -> None:
        """Find the ranges of everything that a quantized matrix reads.

        Args:
            known: Ranges of inputs by layer; all layers that read one tensor have one range, the widest of theirs.
            run: Shows the other inputs.
            calibration: How their ranges follow from what is seen.

        Raises:
            ConfigError: There are others, and no ``run``.
        """
        self.readers = readers(self.graph)
        self.outputs = {output.name for output in self.graph.output}
        products = [node for node in self.graph.node if node.op_type == "MatMul" and self.why_not(node) is None]
        ranges: dict[str, Range] = {}
        for x, weight in (node.input for node in products):
            if (layer := _layer_of(weight, known)) is not None:
                low, high = ranges.get(x, (0.0, 0.0))  # zero is always inside, see `Range`
                ranges[x] = min(low, known[layer][0]), max(high, known[layer][1])
        if known:
            self.figures["ranges_learned"] = float(len(ranges))
        unknown = [node.input[0] for node in products if node.input[0] not in ranges]
        for name, histogram in _observe(self.model, list(dict.fromkeys(unknown)), run).items():
            ranges[name] = calibrated(histogram, calibration, LEVELS)
        self.grids = {name: _grid(*ends) for name, ends in ranges.items()}

    def matmul(self, node: NodeProto) -> None:
        """Write X W (+ bias) as one integer product of the quantized X and W."""
        x, weight = node.input
        names = [f"{x}_static", f"{x}_static_scale", f"{x}_static_zero_point"]
        if names[0] not in self.made:
            scale, zero = self.grids[x]
            self.add("QuantizeLinear", [x, self.store(names[1], scale), self.store(names[2], zero)], [names[0]])
        quantized, scale_name, _ = self.constant(weight, self.per_channel)
        bias, out = self._bias(node)
        inputs = [names[0], quantized, names[1], scale_name, names[2], "", bias]
        self.add("MatMulIntegerToFloat", inputs if bias else inputs[:5], [out], MICROSOFT)
        self.book(node, self.matrix(weight).size)

    def _bias(self, node: NodeProto) -> tuple[str, str]:
        """Return the bias that only this product gets and what their sum is called, or '' and the product's name."""
        out = node.output[0]
        followers = self.readers[out]
        if len(followers) == 1 and followers[0].op_type == "Add" and out not in self.outputs:
            columns = self.constants[node.input[1]].dims[1]
            for other in followers[0].input:
                if other in self.constants and list(self.constants[other].dims) == [columns]:
                    self.absorbed.add(followers[0].output[0])
                    return other, followers[0].output[0]
        return "", out


def _layer_of(weight: str, layers: Collection[str]) -> str | None:
    """Return which of the layers a matrix of the graph is of; query, key and value of a layer may be one matrix."""
    name = weight.removesuffix(".weight")
    layer, dot, parts = name.rpartition(".")
    spelled = (name, f"{name}.outer", f"{layer}{dot}{parts.partition('_')[0]}", f"embeddings.{name}")
    return next((each for each in spelled if each in layers), None)


def _observe(model: onnx.ModelProto, names: list[str], run: Run | None) -> dict[str, Histogram]:
    """Return what tensors of the model hold on the calibration rows."""
    if not names:
        return {}
    if run is None:
        raise ConfigError(
            f"static_int8: run is {run}; static ranges need activations. Give it calibration rows, or use int8."
        )
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    known = {output.name for output in probe.graph.output}
    probe.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in known
    )
    seen: dict[str, Histogram] = {}
    for batch in run(probe.SerializeToString()):
        for name in names:
            histogram = Histogram.of(batch[name])
            seen[name] = seen[name] + histogram if name in seen else histogram
    if not seen:
        raise DataError(
            f"static_int8: 0 calibration rows for {len(names)} activations, first: {names[0]}; at least one row of the "
            "training split is needed."
        )
    return seen


def _grid(low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and zero point for ``low <= 0 <= high``, so that 0 is exact and the ends are those of uint8."""
    scale = (high - low) / (LEVELS - 1) or 1.0
    return np.array(scale, np.float32), np.array(round(-low / scale), np.uint8)
