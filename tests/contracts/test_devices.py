"""What every row of the device table must do; a new row is tested without a new test."""

import sys

import numpy as np
import pytest
import torch

from nas.data.tokens import Tokens
from nas.devices import BACKENDS
from nas.devices.base import FILES, Device, Workload
from nas.devices.settings import open_device
from nas.recipe import DeviceSettings
from search_spaces.errors import ConfigError, DeviceError
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


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("lookup") / "table.csv"
    path.write_text("hidden,tokens,latency_ms\n32,8,1.5\n32,12,2.5\n")
    return str(path)


@pytest.fixture(params=BACKENDS)
def device(request: pytest.FixtureRequest, table: str) -> Device:
    """A device of each backend that works here."""
    why = BACKENDS.load(request.param).why_not()
    if why is not None:
        pytest.skip(why)
    options = {"lookup": {"table": table}, **OPTIONS}.get(request.param, {})
    settings = DeviceSettings(name="mine", backend=request.param, batch=3, options=options, note="on a desk")
    return open_device(settings)


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
    assert measurement.origin == device.origin
    assert measurement.size_bytes == len(artefact)
    environment = device.environment()
    assert all(isinstance(value, str) for value in environment.values())
    assert environment["runtime"]
    assert environment["note"] == "on a desk"


def test_a_device_says_what_it_is(device: Device) -> None:
    device.check()
    assert 0 < len(device.suits) <= 100
    assert device.format in FILES
    assert all(field.description for field in device.options_model.model_fields.values())


def test_a_mix_of_lengths_is_one_measurement_without_a_reference(device: Device, model: TextEncoder) -> None:
    artefact = device.export(model)
    (seen,) = device.measure([artefact], None, Workload(1, 9, ((8, 0.75), (12, 0.25))), quick=True)
    assert seen.median_ms > 0
    assert seen.speedup is None


def test_memory_energy_and_rows_are_told_or_are_none(device: Device, model: TextEncoder) -> None:
    artefact, call = device.export(model), Workload(3, 8)
    memory, energy = device.peak_memory(artefact, call), device.energy_mj(artefact, call)
    assert memory is None or 0 < memory.idle_bytes < memory.total_bytes
    assert energy is None or energy > 0
    assert device.rows(artefact, call) == 3


def test_bytes_that_are_no_model_are_refused_in_one_line(device: Device) -> None:
    tokens = Tokens(np.arange(3, dtype=np.int32), np.zeros(3, np.uint8), np.array([0, 3]), np.zeros(1, np.int64))
    with pytest.raises(DeviceError, match="device 'mine'") as caught:
        device.predict(b"garbage", tokens, 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", BACKENDS)
def test_an_option_that_does_not_exist_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match=r"device\.options\.") as caught:
        open_device(DeviceSettings(name="mine", backend=name, options={"no_such_option": 1}))
    assert "\n" not in str(caught.value)


def test_a_device_predicts_what_the_module_predicts(device: Device, model: TextEncoder) -> None:
    ids = np.arange(12, dtype=np.int32)
    tokens = Tokens(ids, np.zeros(12, np.uint8), np.array([0, 7, 12]), np.zeros(2, np.int64))
    with torch.inference_mode():
        expected = model(*tokens.collate(np.array([0, 1]))).numpy()
    np.testing.assert_allclose(device.predict(device.export(model), tokens, 1), expected, atol=1e-4)
    said = [call["logits"] for call in device.outputs(device.export(model), tokens, 1)]
    np.testing.assert_allclose(np.concatenate(said), expected[[1, 0]], atol=1e-4)
