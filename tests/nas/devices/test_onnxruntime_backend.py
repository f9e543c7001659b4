import json
import os
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from nas.data.tokens import Tokens
from nas.devices.base import Measurement, Workload
from nas.devices.onnxruntime_backend import OnnxRuntime
from nas.recipe import DeviceSettings
from search_spaces.errors import DeviceError, ShapeError
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder

CONFIG = EncoderConfig(
    model_type="bert",
    vocab_size=100,
    n_positions=32,
    n_token_types=2,
    hidden=32,
    embedding=32,
    embedding_rank=0,
    head_size=8,
    heads=(4, 4),
    ffn=(64, 64),
    activation="gelu",
    head_activation="tanh",
    layer_norm_eps=1e-12,
    dropout=0.1,
    pad_token_id=0,
    position_offset=0,
    labels=("a", "b", "c"),
)
WORKLOAD = Workload(batch=1, tokens=8)


@pytest.fixture(scope="module")
def model() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(CONFIG).eval()


@pytest.fixture(scope="module")
def device() -> OnnxRuntime:
    return OnnxRuntime(DeviceSettings())


@pytest.fixture(scope="module")
def artefact(device: OnnxRuntime, model: TextEncoder) -> bytes:
    return device.export(model)


def ragged_rows(lengths: list[int]) -> Tokens:
    rng = np.random.default_rng(0)
    total = sum(lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids, types = rng.integers(0, 100, total).astype(np.int32), rng.integers(0, 2, total).astype(np.uint8)
    return Tokens(ids, types, offsets, np.zeros(len(lengths), np.int64))


def test_a_measurement_is_consistent_and_survives_json(device: OnnxRuntime, artefact: bytes) -> None:
    small = device.export(TextEncoder(replace(CONFIG, heads=(4,), ffn=(32,))))
    measurements = device.measure([artefact, small], artefact, WORKLOAD, quick=True)
    assert [each.size_bytes for each in measurements] == [len(artefact), len(small)]
    for each in measurements:
        assert 0 < each.low_ms <= each.median_ms <= each.high_ms
        assert each.p95_ms > 0
        assert each.load_ms > 0
        assert each.n >= 27
        assert each.speedup == pytest.approx(each.reference_ms / each.median_ms, rel=0.5)
        assert Measurement.from_json(json.loads(json.dumps(each.to_json()))) == each


def test_without_a_reference_there_is_no_speedup(device: OnnxRuntime, artefact: bytes) -> None:
    (alone,) = device.measure([artefact], None, WORKLOAD, quick=True)
    assert alone.reference_ms is None
    assert alone.speedup is None


def test_a_file_of_another_exporter_without_metadata_is_measured_as_well(device: OnnxRuntime, artefact: bytes) -> None:
    foreign = artefact.replace(b"vocab_size", b"vocab_what")
    assert device.measure([foreign], None, WORKLOAD, quick=True)[0].median_ms > 0


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not pin processes")
def test_the_affinity_is_recorded_and_restored_even_when_the_file_is_refused(artefact: bytes) -> None:
    device, before = OnnxRuntime(DeviceSettings()), os.sched_getaffinity(0)
    assert device.environment()["affinity"] == "not pinned"
    with pytest.raises(DeviceError, match="7 bytes are no model it can run"):
        device.measure([b"garbage"], artefact, WORKLOAD, quick=True)
    assert os.sched_getaffinity(0) == before
    assert int(device.environment()["affinity"]) in before


def test_the_environment_says_what_is_needed_to_repeat_a_measurement(device: OnnxRuntime) -> None:
    environment = device.environment()
    assert environment["threads"] == "1"
    assert environment["runtime"].startswith("onnxruntime 1.")
    assert all(isinstance(value, str) and value for value in environment.values())


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_predictions_are_those_of_the_module_in_the_order_of_the_rows(
    device: OnnxRuntime, model: TextEncoder, artefact: bytes, batch: int
) -> None:
    tokens = ragged_rows([5, 9, 5, 1, 32, 9, 5, 5, 2])
    with torch.inference_mode():
        expected = np.concatenate([model(*tokens.collate(np.array([row]))).numpy() for row in range(len(tokens))])
    logits = device.predict(artefact, tokens, batch)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_all_outputs_of_a_file_come_by_name_call_by_call(
    device: OnnxRuntime, model: TextEncoder, artefact: bytes
) -> None:
    probe = onnx.load_model_from_string(artefact)
    probe.graph.output.append(
        onnx.helper.make_tensor_value_info("layers.0.up.activation", onnx.TensorProto.FLOAT, None)
    )
    tokens = ragged_rows([9, 5, 9, 5, 5])
    calls = list(device.outputs(probe.SerializeToString(), tokens, 2))
    assert [call["layers.0.up.activation"].shape for call in calls] == [(2, 5, 64), (1, 5, 64), (2, 9, 64)]
    logits = device.predict(artefact, tokens, 2)
    np.testing.assert_allclose(np.concatenate([call["logits"] for call in calls]), logits[[1, 3, 4, 0, 2]], atol=1e-6)


def test_no_rows_give_no_predictions(device: OnnxRuntime, artefact: bytes) -> None:
    assert device.predict(artefact, ragged_rows([]), 1).shape == (0, 3)
    assert list(device.outputs(artefact, ragged_rows([]), 1)) == []


@pytest.mark.parametrize("file", [b"", b"garbage"])
def test_bytes_that_are_no_model_are_refused_in_one_line(device: OnnxRuntime, file: bytes) -> None:
    with pytest.raises(DeviceError, match=f"device 'cpu': {len(file)} bytes are no model it can run") as caught:
        device.predict(file, ragged_rows([3]), 1)
    assert "\n" not in str(caught.value)


def test_more_tokens_than_positions_are_refused_in_one_line(device: OnnxRuntime, artefact: bytes) -> None:
    with pytest.raises(DeviceError, match="an input of 2x33 tokens failed") as caught:
        device.measure([artefact], None, Workload(2, 33))
    assert "\n" not in str(caught.value)


def test_more_threads_than_processors_are_refused(artefact: bytes) -> None:
    with pytest.raises(DeviceError, match=r"4096 threads; this process may use \d+ processors"):
        OnnxRuntime(DeviceSettings(threads=4096)).measure([artefact], None, WORKLOAD)


def test_an_empty_workload_is_refused() -> None:
    with pytest.raises(ShapeError, match="batch 0, tokens 8"):
        Workload(0, 8)
