"""What every row of the device table must do; a new row is tested without a new test."""

import sys

import numpy as np
import pytest
import torch

from nas.data.tokens import Tokens
from nas.devices import BACKENDS
from nas.devices.base import Device, Workload
from nas.devices.settings import open_device
from nas.recipe import DeviceSettings
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder

CONFIG = EncoderConfig(
    model_type="bert",
    vocab_size=50,
    n_positions=16,
    n_token_types=2,
    hidden=32,
    embedding=32,
    embedding_rank=0,
    head_size=8,
    heads=(4,),
    ffn=(64,),
    activation="gelu",
    head_activation="tanh",
    layer_norm_eps=1e-12,
    dropout=0.1,
    pad_token_id=0,
    position_offset=0,
    labels=("a", "b"),
)


OPTIONS = {  # of backends that need some
    "command": {
        "run": f"{sys.executable} {{runner}} --spec {{spec}} --model {{model}} --reference {{reference}} --out -"
    },
}


@pytest.fixture(params=BACKENDS)
def device(request: pytest.FixtureRequest) -> Device:
    """A device of each backend that works here."""
    why = BACKENDS.load(request.param).why_not()
    if why is not None:
        pytest.skip(why)
    return open_device(DeviceSettings(name="mine", backend=request.param, options=OPTIONS.get(request.param, {})))


@pytest.fixture(scope="module")
def model() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(CONFIG).eval()


def test_a_device_exports_predicts_and_measures(device: Device, model: TextEncoder) -> None:
    artefact = device.export(model)
    assert device.name == "mine"
    assert isinstance(artefact, bytes)
    (measurement,) = device.measure([artefact], artefact, Workload(1, 8), quick=True)
    assert measurement.low_ms <= measurement.median_ms <= measurement.high_ms
    assert measurement.speedup is not None
    assert all(isinstance(value, str) for value in device.environment().values())


def test_a_device_predicts_what_the_module_predicts(device: Device, model: TextEncoder) -> None:
    ids = np.arange(12, dtype=np.int32)
    tokens = Tokens(ids, np.zeros(12, np.uint8), np.array([0, 7, 12]), np.zeros(2, np.int64))
    with torch.inference_mode():
        expected = model(*tokens.collate(np.array([0, 1]))).numpy()
    np.testing.assert_allclose(device.predict(device.export(model), tokens, 1), expected, atol=1e-4)
    said = [call["logits"] for call in device.outputs(device.export(model), tokens, 1)]
    np.testing.assert_allclose(np.concatenate(said), expected[[1, 0]], atol=1e-4)
