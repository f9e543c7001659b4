"""Dynamic int8: weights quantized once, activations at run time, by ONNX Runtime's own quantizer."""

import logging
import tempfile
from pathlib import Path
from typing import ClassVar, Literal

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from compressors.base import Change, Report, Skip
from search_spaces.dimensions import Choice
from search_spaces.errors import StateError
from search_spaces.space import Condition, Space

QUANTIZED = ("MatMul", "Gemm", "Gather")
INTEGER = ("MatMulInteger", "DynamicQuantizeMatMul", "QAttention")


class DynamicInt8:
    """Post-training dynamic quantization of an exported model to 8-bit integers.

    Source: Jacob et al. 2018, https://arxiv.org/abs/1712.05877; ONNX Runtime's ``quantize_dynamic``.
    """

    name: ClassVar[str] = "int8"
    stage: ClassVar[Literal["artefact"]] = "artefact"

    def __init__(self, enabled: bool = True, per_channel: bool = True) -> None:
        """Bind the knobs.

        Args:
            enabled: False leaves the model as it is: on some devices int8 is slower, so the search may decide.
            per_channel: One scale for each output channel of a weight, instead of one for all.
        """
        self.enabled, self.per_channel = enabled, per_channel
        self._report = Report(self.name, skipped=(Skip("model", "nothing was quantized yet"),))

    @classmethod
    def space(cls) -> Space:
        """Return the knobs."""
        return Space(
            {"enabled": Choice((False, True)), "per_channel": Choice((True, False))},
            {"per_channel": Condition("enabled", (True,))},
        )

    def apply(self, artefact: bytes) -> bytes:
        """Return the quantized model; the argument is not changed.

        Raises:
            StateError: The model has nothing that can be quantized.
        """
        if not self.enabled:
            self._report = Report(self.name, skipped=(Skip("model", "enabled is False"),))
            return artefact
        quantized = _quantize(artefact, self.per_channel)
        self._report = _compare(self.name, artefact, quantized)
        if not self._report.changed:
            raise StateError("int8: no MatMul, Gemm or Gather of the model has constant weights; nothing to quantize.")
        return quantized

    def report(self) -> Report:
        """Return what the last `apply` did."""
        return self._report


def _quantize(artefact: bytes, per_channel: bool) -> bytes:
    """Return the model quantized by ONNX Runtime, which works on files."""
    logger = logging.getLogger()  # the quantizer advises a pre-processing that our graphs do not need
    before, logger.level = logger.level, logging.ERROR
    try:
        with tempfile.TemporaryDirectory(prefix="nas-int8-") as folder:
            target = Path(folder) / "int8.onnx"
            quantize_dynamic(
                onnx.load_from_string(artefact),
                target,
                weight_type=QuantType.QInt8,
                per_channel=per_channel,
                op_types_to_quantize=list(QUANTIZED),
            )
            return target.read_bytes()
    finally:
        logger.level = before


def _compare(name: str, before: bytes, after: bytes) -> Report:
    """Return which weights became integers and which did not, and the bytes."""
    old, new = (onnx.load_from_string(model).graph for model in (before, after))
    bytes_after = {tensor.name: len(tensor.raw_data) for tensor in new.initializer}
    changed, skipped = [], []
    for tensor in old.initializer:
        size = len(tensor.raw_data)
        quantized = f"{tensor.name}_quantized"
        if quantized in bytes_after:
            changed.append(Change(tensor.name, size, bytes_after[quantized]))
        elif len(tensor.dims) > 1:
            skipped.append(Skip(tensor.name, "not the constant operand of a MatMul, Gemm or Gather"))
    figures = {
        "bytes_before": float(len(before)),
        "bytes_after": float(len(after)),
        "integer_nodes": float(sum(node.op_type in INTEGER for node in new.node)),
    }
    return Report(name, tuple(changed), tuple(skipped), figures)
