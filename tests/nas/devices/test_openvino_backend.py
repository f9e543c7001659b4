"""OpenVINO as a device: the portable graph in it, and what it refuses."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch

from compressors.int8 import DynamicInt8
from nas.data.tokens import Tokens
from nas.devices.base import Workload
from nas.devices.openvino_backend import OpenVino
from nas.recipe import DeviceSettings
from search_spaces.errors import ConfigError, DeviceError, MissingDependencyError
from search_spaces.families.encoder_model import ACTIVATIONS, TextEncoder
from tests.nas.devices.test_onnx_text_encoder import BERT, SHAPES, encoder
from tests.nas.devices.test_onnxruntime_backend import ragged_rows
from tests.nas.devices.test_torch_backend import one_segment

there = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")


def device(**options: object) -> OpenVino:
    return OpenVino(DeviceSettings(name="ov", backend="openvino", options=options))


def answers(model: TextEncoder, tokens: Tokens) -> np.ndarray:
    with torch.inference_mode():
        return np.concatenate([model(*tokens.collate(np.array([row]))).numpy() for row in range(len(tokens))])


@there
@pytest.mark.parametrize("shape", SHAPES)
def test_the_portable_graph_gives_the_logits_of_the_module(shape: str) -> None:
    model, tokens = encoder(SHAPES[shape]), one_segment(ragged_rows([5, 9, 5, 1, 32]))
    logits = device().predict(device().export(model), tokens, 2)
    np.testing.assert_allclose(logits, answers(model, tokens), atol=1e-4)


@there
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_known(activation: str) -> None:
    model, tokens = encoder(replace(BERT, activation=activation, head_activation=activation)), ragged_rows([7, 4])
    logits = device().predict(device().export(model), tokens, 1)
    np.testing.assert_allclose(logits, answers(model, tokens), atol=1e-4)


@there
def test_int8_of_standard_operators_runs_and_stays_close() -> None:
    model, tokens = encoder(BERT), ragged_rows([7, 4, 12])
    for parameter in model.parameters():
        parameter.data.mul_(0.5)
    logits = device().predict(DynamicInt8().apply(device().export(model)), tokens, 1)
    assert 0 < np.abs(logits - answers(model, tokens)).max() < 0.1


@there
@pytest.mark.parametrize("file", [b"", b"garbage"])
def test_bytes_that_are_no_model_are_refused_in_one_line(file: bytes) -> None:
    with pytest.raises(
        DeviceError, match=f"{len(file)} bytes are no model it can run; OpenVINO says: Unable"
    ) as caught:
        device().predict(file, ragged_rows([3]), 1)
    assert "\n" not in str(caught.value)


@there
def test_an_operator_that_it_does_not_know_is_named() -> None:
    foreign = device().export(encoder(BERT)).replace(b"Softmax", b"Saftmax")
    with pytest.raises(DeviceError, match="Saftmax"):
        device().predict(foreign, ragged_rows([3]), 1)


@there
def test_more_tokens_than_positions_are_refused_though_openvino_answers() -> None:
    with pytest.raises(DeviceError, match="an input of 1x50 tokens failed; OpenVINO says: an output is empty"):
        device().measure([device().export(encoder(BERT))], None, Workload(1, 50), quick=True)


@there
def test_a_target_that_is_not_here_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"device\.options\.target: 'NPU.7' is not here; OpenVINO finds .*CPU"):
        device(target="NPU.7").check()


def test_without_the_package_everything_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    missing = device()
    artefact = missing.export(encoder(BERT))
    for call in (missing.check, lambda: missing.measure([artefact], None, Workload(1, 8))):
        with pytest.raises(MissingDependencyError, match=r"'ov': .*openvino is not installed.*'prentice\[openvino\]'"):
            call()
