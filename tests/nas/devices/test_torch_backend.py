"""torch as a device: its artefact, its threads, and what it refuses."""

import json
import os
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load

from compressors.torch_file import to_blob
from nas.data.tokens import Tokens
from nas.devices.base import Workload
from nas.devices.torch_backend import TorchEager
from nas.recipe import DeviceSettings
from search_spaces.errors import ConfigError, DeviceError
from search_spaces.families.encoder_model import TextEncoder
from tests.nas.devices.test_onnx_text_encoder import BERT, SHAPES, encoder
from tests.nas.devices.test_onnxruntime_backend import ragged_rows

CALL = Workload(1, 8)


def device(threads: int = 1, **options: object) -> TorchEager:
    return TorchEager(DeviceSettings(name="eager", backend="torch", threads=threads, options=options))


def one_segment(tokens: Tokens) -> Tokens:
    return replace(tokens, types=np.zeros_like(tokens.types))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_artefact_gives_the_logits_of_the_module(shape: str) -> None:
    model, tokens = encoder(SHAPES[shape]), one_segment(ragged_rows([5, 9, 5, 1]))
    with torch.inference_mode():
        expected = np.concatenate([model(*tokens.collate(np.array([row]))).numpy() for row in range(len(tokens))])
    np.testing.assert_allclose(device().predict(to_blob(model), tokens, 2), expected, atol=1e-4)


def test_the_artefact_is_plain_safetensors_with_the_shape_as_metadata() -> None:
    model = encoder(BERT)
    blob = to_blob(model)
    assert set(load(blob)) == set(model.state_dict())
    header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    assert json.loads(header["__metadata__"]["config"]) == json.loads(json.dumps(model.config.to_json()))


@pytest.mark.parametrize("file", [b"", b"garbage", to_blob(encoder(BERT))[:-100], b"\x02\0\0\0\0\0\0\0{}"])
def test_bytes_that_are_no_model_are_refused_in_one_line(file: bytes) -> None:
    with pytest.raises(
        DeviceError, match=f"device 'eager': {len(file)} bytes are no model it can run; torch"
    ) as caught:
        device().predict(file, ragged_rows([3]), 1)
    assert "\n" not in str(caught.value)


def test_weights_of_another_shape_are_refused() -> None:
    model = encoder(BERT)
    model.config = replace(BERT, hidden=40)
    with pytest.raises(DeviceError, match="no text encoder in safetensors"):
        device().predict(to_blob(model), ragged_rows([3]), 1)


def test_more_tokens_than_positions_are_refused_in_one_line() -> None:
    with pytest.raises(DeviceError, match=r"an input of 1x50 tokens failed; torch says: .*at most 40"):
        device().measure([to_blob(encoder(BERT))], None, Workload(1, 50), quick=True)


def test_threads_and_affinity_are_those_of_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, str]] = []
    forward = TextEncoder.forward

    def watched(self: TextEncoder, *given: torch.Tensor) -> object:
        seen.append((torch.get_num_threads(), threading.current_thread().name))
        return forward(self, *given)

    monkeypatch.setattr(TextEncoder, "forward", watched)
    before = torch.get_num_threads(), os.sched_getaffinity(0)
    torch.set_num_threads(2)
    try:
        device().measure([to_blob(encoder(BERT))], None, CALL, quick=True)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before[0])
    assert {n for n, _ in seen} == {1}
    assert threading.current_thread().name not in {name for _, name in seen}
    assert os.sched_getaffinity(0) == before[1]


@pytest.mark.slow
def test_a_compiled_model_gives_the_same_answers_and_is_measured() -> None:
    model, tokens = encoder(replace(BERT, heads=(2,), ffn=(32,))), ragged_rows([8])
    compiled = device(compile=True)
    expected = device().predict(to_blob(model), tokens, 2)
    np.testing.assert_allclose(compiled.predict(to_blob(model), tokens, 2), expected, atol=1e-4)
    assert compiled.measure([to_blob(model)], None, CALL, quick=True)[0].median_ms > 0
    assert "compiled cpu" in compiled.environment()["runtime"]


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"device\.options\.device: .* is not here; torch .* sees \d+ GPUs"):
        device(device=f"cuda:{torch.cuda.device_count()}").check()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_gives_the_same_answers_and_is_measured() -> None:
    model, tokens, there = encoder(BERT), ragged_rows([5, 9]), device(device="cuda")
    np.testing.assert_allclose(
        there.predict(to_blob(model), tokens, 2), device().predict(to_blob(model), tokens, 2), atol=1e-2
    )
    assert there.measure([to_blob(model)], None, CALL, quick=True)[0].median_ms > 0
