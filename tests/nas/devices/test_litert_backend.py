"""LiteRT as a device: real files in the real runtime, where one is."""

from dataclasses import replace

import numpy as np
import pytest

from nas.devices.base import Workload
from nas.devices.litert_backend import LiteRt
from nas.recipe import DeviceSettings
from search_spaces.errors import ConfigError, DeviceError, MissingDependencyError
from search_spaces.families.encoder_model import ACTIVATIONS
from tests.nas.devices.test_onnx_text_encoder import BERT, SHAPES, encoder
from tests.nas.devices.test_onnxruntime_backend import ragged_rows
from tests.nas.devices.test_openvino_backend import answers
from tests.nas.devices.test_torch_backend import one_segment

ONE = replace(BERT, heads=(2,), ffn=(32,))  # a conversion takes seconds for each layer
ODD = ("bert", "roberta with one segment", "low-rank words and a projection", "factored everywhere", "shared")
there = pytest.mark.skipif(LiteRt.why_not() is not None, reason=str(LiteRt.why_not()))


def device(threads: int = 1, batch: int = 1, **options: object) -> LiteRt:
    settings = {"name": "lite", "backend": "litert", "threads": threads, "batch": batch, "options": options}
    return LiteRt(DeviceSettings.model_validate(settings))


@there
@pytest.mark.slow
@pytest.mark.parametrize("shape", ODD)
def test_the_file_gives_the_logits_of_the_module(shape: str) -> None:
    model, tokens = encoder(SHAPES[shape]), one_segment(ragged_rows([5, 9, 5, 1, 32]))
    where = device(batch=2, lengths=[8, 32])
    np.testing.assert_allclose(where.predict(where.export(model), tokens, 2), answers(model, tokens), atol=1e-4)


@there
@pytest.mark.slow
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_known(activation: str) -> None:
    model, tokens = encoder(replace(ONE, activation=activation, head_activation=activation)), ragged_rows([7, 4])
    where = device(lengths=[8])
    np.testing.assert_allclose(where.predict(where.export(model), tokens, 1), answers(model, tokens), atol=1e-4)


@there
def test_lengths_share_their_weights() -> None:
    model = encoder(replace(ONE, vocab_size=5000))
    one, three = (len(device(lengths=lengths).export(model)) for lengths in ([16], [8, 16, 32]))
    assert three < 1.5 * one


@there
def test_a_smaller_student_is_faster_with_one_thread_and_with_two() -> None:
    for threads in (1, 2):
        where = device(threads, lengths=[16])
        files = [
            where.export(encoder(config)) for config in (ONE, replace(ONE, hidden=192, embedding=192, ffn=(4096,)))
        ]
        (seen,) = where.measure([files[0]], files[1], Workload(1, 16), quick=True)
        assert (seen.speedup or 0) > 1.5
        assert where.environment()["runtime"].startswith("ai-edge-litert 2.")


@there
def test_what_it_refuses_is_one_line() -> None:
    where = device(lengths=[16])
    artefact = where.export(encoder(ONE))
    for file, call, words in (
        (b"garbage", Workload(1, 8), "7 bytes are no model it can run"),
        (artefact, Workload(1, 17), "an input of 1x17 tokens failed.*17 tokens are more than the 16 of the longest"),
    ):
        with pytest.raises(DeviceError, match=f"device 'lite': {words}") as caught:
            where.measure([file], None, call, quick=True)
        assert "\n" not in str(caught.value)


def test_a_length_that_no_row_has_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"device\.options\.lengths: .*0 tokens in a row; at least 1"):
        device(lengths=[0, 16])


def test_without_it_everything_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRENTICE_RUNTIMES", "/nowhere")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for call in (device().check, lambda: device().export(encoder(ONE))):
        with pytest.raises(MissingDependencyError, match=r"'lite': no Python has LiteRT\..*nas devices runtime litert"):
            call()
