"""An ONNX file in ONNX Runtime.

Knows sessions. Imports nothing heavier than ONNX Runtime.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as refusal

from nas.devices.program import Feed, Port, RefusalError, refuse

REFUSALS = (
    refusal.Fail,
    refusal.InvalidArgument,
    refusal.InvalidGraph,
    refusal.InvalidProtobuf,
    refusal.NoModel,
    refusal.NotImplemented,
    refusal.RuntimeException,
)
FATAL_ONLY = 4  # what ONNX Runtime may print itself; refusals reach the user as errors
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
}
LEVELS = {
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
TYPES = {
    "tensor(double)": "float64",
    "tensor(float)": "float32",
    **{f"tensor({kind})": kind for kind in ("bool", "float16", "int8", "int16", "int32", "int64")},
    **{f"tensor({kind})": kind for kind in ("uint8", "uint16", "uint32", "uint64")},
}


class OnnxRuntimeProgram:
    """A session."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        """Read what goes in and out."""
        self._session = session
        self.inputs: Sequence[Port] = [_port(told) for told in session.get_inputs()]
        self.outputs: Sequence[Port] = [_port(told) for told in session.get_outputs()]
        words = session.get_modelmeta().custom_metadata_map.get("vocab_size")
        self.vocabulary = int(words) if words else None

    def run(self, feed: Feed) -> list[np.ndarray]:
        """Return the outputs of one call.

        Raises:
            RefusalError: ONNX Runtime refuses an input.
        """
        try:
            return list(self._session.run(None, feed))
        except (*REFUSALS, ValueError) as error:  # ValueError: an input is missing
            raise RefusalError(str(error)) from error

    def call(self, feed: Feed) -> Callable[[], object]:
        """Return the call that is timed."""
        session = self._session
        return lambda: session.run(None, feed)


def load(artefact: bytes, threads: int, options: Mapping[str, Any]) -> OnnxRuntimeProgram:
    """Return an ONNX file in a session.

    Args:
        artefact: The file.
        threads: That one operator may use.
        options: ``providers``, names of `PROVIDERS` in order of preference (default cpu), and ``graph``, how much ONNX
            Runtime may change the graph, a name of `LEVELS` (default all).

    Raises:
        RefusalError: The file is none, holds what ONNX Runtime does not know, or a provider does not start.
    """
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = FATAL_ONLY
    settings.graph_optimization_level = LEVELS[options.get("graph", "all")]
    providers = [PROVIDERS[name] for name in options.get("providers", ("cpu",))]
    try:
        session = onnxruntime.InferenceSession(artefact, settings, providers=providers)
    except REFUSALS as error:
        raise RefusalError(str(error)) from error
    if session.get_providers()[0] != providers[0]:  # ONNX Runtime goes on with the next one without a word
        refuse(f"{providers[0]} does not start; {', '.join(session.get_providers())} would")
    return OnnxRuntimeProgram(session)


def present_providers() -> list[str]:
    """Return the providers that this build of ONNX Runtime has, by our names where we have one."""
    ours = {theirs: name for name, theirs in PROVIDERS.items()}
    return [ours.get(theirs, theirs) for theirs in onnxruntime.get_available_providers()]


def _port(told: Any) -> Port:
    """Return an input or output as ONNX Runtime describes it; free axes have names or nothing."""
    shape = tuple(size if isinstance(size, int) else None for size in told.shape or ())
    return Port(told.name, shape, np.dtype(TYPES.get(told.type, "object")))
