"""A tiny encoder as an ONNX file, and what runs it."""

from functools import cache, partial

import numpy as np
import onnx
import torch
from onnx import NodeProto, numpy_helper

from compressors.base import Run
from nas.devices.onnxruntime_backend import OnnxRuntime
from nas.devices.torch_backend import TorchEager
from nas.recipe import DeviceSettings
from tests.compressors.encoders import encoder, texts

DEVICE = OnnxRuntime(DeviceSettings())
TORCH = TorchEager(DeviceSettings(name="torch", backend="torch"))


@cache
def artefact(uneven: bool = False) -> bytes:
    """Two layers of width 32 in which every weight matters; uneven: the neurons' weights are of different sizes."""
    model = encoder()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    if uneven:
        for layer in model.layers:
            layer.up.weight.data *= torch.logspace(-2, 1, len(layer.up.weight))[:, None]
            layer.down.weight.data *= torch.logspace(2, -1, len(layer.up.weight))
    return DEVICE.export(model)


def calibration_run(n_rows: int = 64) -> Run:
    return partial(DEVICE.outputs, tokens=texts(n_rows, seed=1), batch=16)


def logits(file: bytes) -> np.ndarray:
    return DEVICE.predict(file, texts(), 8)


def error(file: bytes, original: bytes | None = None) -> float:
    """Root mean squared error of the logits, relative to how much the exact ones vary."""
    exact = logits(original or artefact())
    return float(np.sqrt(((logits(file) - exact) ** 2).mean()) / exact.std())


def nodes(file: bytes, operator: str) -> list[NodeProto]:
    return [node for node in onnx.load_model_from_string(file).graph.node if node.op_type == operator]


def constants(file: bytes) -> dict[str, np.ndarray]:
    graph = onnx.load_model_from_string(file).graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
