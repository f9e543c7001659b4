"""ExecuTorch as a device: real files in the real runtime, where one is."""

from dataclasses import replace

import numpy as np
import pytest

from nas.devices.base import Workload
from nas.devices.executorch_backend import ExecuTorch
from nas.recipe import DeviceSettings
from search_spaces.errors import DeviceError, MissingDependencyError
from search_spaces.families.encoder_model import ACTIVATIONS
from tests.nas.devices.test_onnx_text_encoder import BERT, SHAPES, encoder
from tests.nas.devices.test_onnxruntime_backend import ragged_rows
from tests.nas.devices.test_openvino_backend import answers
from tests.nas.devices.test_torch_backend import one_segment

ONE = replace(BERT, heads=(2,), ffn=(32,))  # a conversion takes seconds for each layer
ODD = ("bert", "roberta with one segment", "low-rank words and a projection", "factored everywhere", "shared")
there = pytest.mark.skipif(ExecuTorch.why_not() is not None, reason=str(ExecuTorch.why_not()))


def device(threads: int = 1, batch: int = 1, **options: object) -> ExecuTorch:
    settings = {"name": "et", "backend": "executorch", "threads": threads, "batch": batch, "options": options}
    return ExecuTorch(DeviceSettings.model_validate(settings))


@there
@pytest.mark.slow
@pytest.mark.parametrize("shape", ODD)
def test_the_file_gives_the_logits_of_the_module(shape: str) -> None:
    model, tokens = encoder(SHAPES[shape]), one_segment(ragged_rows([5, 9, 5, 1, 32]))
    logits = device(batch=2).predict(device(batch=2).export(model), tokens, 2)
    np.testing.assert_allclose(logits, answers(model, tokens), atol=1e-4)


@there
@pytest.mark.slow
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_known(activation: str) -> None:
    model, tokens = encoder(replace(ONE, activation=activation, head_activation=activation)), ragged_rows([7, 4])
    logits = device().predict(device().export(model), tokens, 1)
    np.testing.assert_allclose(logits, answers(model, tokens), atol=1e-4)


@there
def test_a_smaller_student_is_faster_with_one_thread_and_with_two() -> None:
    for threads in (1, 2):
        where = device(threads)
        files = [
            where.export(encoder(config)) for config in (ONE, replace(ONE, hidden=192, embedding=192, ffn=(4096,)))
        ]
        (seen,) = where.measure([files[0]], files[1], Workload(1, 16), quick=True)
        assert (seen.speedup or 0) > 1.5
        assert where.environment()["runtime"].startswith("executorch 1.")


@there
def test_what_it_refuses_is_one_line() -> None:
    artefact = device().export(encoder(ONE))
    for file, call, words in (
        (b"garbage", Workload(1, 8), "7 bytes are no model it can run"),
        (artefact, Workload(1, 50), "an input of 1x50 tokens failed"),
    ):
        with pytest.raises(DeviceError, match=f"device 'et': {words}; ExecuTorch says") as caught:
            device().measure([file], None, call, quick=True)
        assert "\n" not in str(caught.value)


def test_without_it_everything_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRENTICE_RUNTIMES", "/nowhere")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for call in (device().check, lambda: device().export(encoder(ONE))):
        with pytest.raises(MissingDependencyError, match=r"'et': no Python has ExecuTorch\..*nas devices runtime exec"):
            call()
