"""An ONNX file in OpenVINO.

Knows compiled models. Imports nothing heavier than OpenVINO.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import openvino

from nas.devices.program import Feed, Port, RefusalError, refuse


class OpenVinoProgram:
    """A compiled model with one request."""

    def __init__(self, model: openvino.Model, compiled: openvino.CompiledModel) -> None:
        """Read what goes in and out of the model; the compiled one has more names for it."""
        self._request = compiled.create_infer_request()
        self.inputs = [_port(told) for told in model.inputs]
        self.outputs = [_port(told) for told in model.outputs]
        self.vocabulary = _vocabulary(model)

    def run(self, feed: Feed) -> list[np.ndarray]:
        """Return the outputs of one call.

        Raises:
            RefusalError: OpenVINO refuses an input.
        """
        if missing := [port.name for port in self.inputs if port.name not in feed]:
            refuse(f"input {missing[0]!r} is missing")  # it would take zeros
        try:
            found = self._request.infer(feed)
        except (RuntimeError, TypeError, ValueError) as error:
            raise RefusalError(_gist(str(error))) from error
        said = [np.array(found[index]) for index in range(len(self.outputs))]
        if any(not array.size for array in said):  # what it gives where shapes inside the model do not fit
            refuse("an output is empty: the input is larger than the model allows")
        return said

    def call(self, feed: Feed) -> Callable[[], object]:
        """Return the call that is timed; inputs and outputs are not copied."""
        request = self._request
        return lambda: request.infer(feed, share_inputs=True, share_outputs=True)


def load(artefact: bytes, threads: int, options: Mapping[str, Any]) -> OpenVinoProgram:
    """Return an ONNX file, compiled for short single calls.

    Args:
        artefact: The file.
        threads: Of one call, on a processor.
        options: ``target``, a device of OpenVINO (default CPU), and ``precision`` of the arithmetic (default f32).

    Raises:
        RefusalError: The file is none, or holds what OpenVINO or its target does not know.
    """
    target = str(options.get("target", "CPU"))
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    if target == "CPU":
        settings |= {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}  # who measures pins
    if options.get("precision", "f32") != "auto":
        settings["INFERENCE_PRECISION_HINT"] = options.get("precision", "f32")
    core = openvino.Core()
    try:
        model = core.read_model(artefact)
        compiled = core.compile_model(model, target, settings)
    except RuntimeError as error:
        raise RefusalError(_gist(str(error))) from error
    return OpenVinoProgram(model, compiled)


def targets() -> list[str]:
    """Return the devices that OpenVINO finds here."""
    return list(openvino.Core().available_devices)


def _gist(said: str) -> str:
    """Return what OpenVINO says without the lines that name its own source."""
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith(("Exception from", "Check '"))]
    return " ".join(lines)


def _vocabulary(model: openvino.Model) -> int | None:
    """Return how many words the metadata of the ONNX file says there are."""
    path = ["framework", "vocab_size"]
    return int(model.get_rt_info(path).astype(int)) if model.has_rt_info(path) else None


def _port(told: Any) -> Port:
    """Return an input or output as OpenVINO describes it."""
    shape = tuple(None if size.is_dynamic else size.get_length() for size in told.get_partial_shape())
    return Port(told.get_any_name(), shape, np.dtype(told.get_element_type().to_dtype()))
