"""ExecuTorch and LiteRT as devices: real files in the real runtimes, where they are."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from nas.devices import BACKENDS
from nas.devices.base import Workload
from nas.devices.elsewhere import Elsewhere
from nas.devices.executorch_backend import ExecuTorch
from nas.devices.litert_backend import LiteRt
from nas.recipe import DeviceSettings
from search_spaces.errors import ConfigError, DeviceError, MissingDependencyError
from search_spaces.families.encoder_model import ACTIVATIONS
from tests.nas.devices.test_onnx_text_encoder import BERT, SHAPES, encoder
from tests.nas.devices.test_onnxruntime_backend import ragged_rows
from tests.nas.devices.test_openvino_backend import answers
from tests.nas.devices.test_torch_backend import one_segment

Opened = Callable[..., Elsewhere]
"""From threads and batch to a device."""

ONE = replace(BERT, heads=(2,), ffn=(32,))  # a conversion takes seconds for each layer
ODD = ("bert", "roberta with one segment", "low-rank words and a projection", "factored everywhere", "shared")


def device(backend: str, threads: int = 1, batch: int = 1, **options: object) -> Elsewhere:
    settings = {"name": "it", "backend": backend, "threads": threads, "batch": batch, "options": options}
    opened: Elsewhere = BACKENDS.load(backend)(DeviceSettings.model_validate(settings))
    return opened


def litert(threads: int = 1, batch: int = 1, lengths: tuple[int, ...] = (8, 32)) -> Elsewhere:
    return device("litert", threads, batch, lengths=list(lengths))


def needed(backend: type[Elsewhere]) -> pytest.MarkDecorator:
    return pytest.mark.skipif(backend.why_not() is not None, reason=str(backend.why_not()))


BOTH = (
    pytest.param(partial(device, "executorch"), marks=needed(ExecuTorch), id="executorch"),
    pytest.param(litert, marks=needed(LiteRt), id="litert"),
)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ODD)
@pytest.mark.parametrize("opened", BOTH)
def test_the_file_gives_the_logits_of_the_module(opened: Opened, shape: str) -> None:
    model, tokens = encoder(SHAPES[shape]), one_segment(ragged_rows([5, 9, 5, 1, 32]))
    where = opened(batch=2)
    np.testing.assert_allclose(where.predict(where.export(model), tokens, 2), answers(model, tokens), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("opened", BOTH)
def test_every_activation_is_known(opened: Opened, activation: str) -> None:
    model, tokens = encoder(replace(ONE, activation=activation, head_activation=activation)), ragged_rows([7, 4])
    where = opened()
    np.testing.assert_allclose(where.predict(where.export(model), tokens, 1), answers(model, tokens), atol=1e-4)


@pytest.mark.parametrize("opened", BOTH)
def test_a_smaller_student_is_faster_with_one_thread_and_with_two(opened: Opened) -> None:
    large = replace(ONE, hidden=192, embedding=192, ffn=(4096,))
    files = [opened().export(encoder(config)) for config in (ONE, large)]
    for threads in (1, 2):
        where = opened(threads)
        (seen,) = where.measure([files[0]], files[1], Workload(1, 16), quick=True)
        assert (seen.speedup or 0) > 1.5
        assert re.match(rf"{where.where.package} \d+\.\d", where.environment()["runtime"])


@pytest.mark.parametrize("opened", BOTH)
def test_what_it_refuses_is_one_line(opened: Opened) -> None:
    where = opened()
    artefact = where.export(encoder(ONE))
    for file, call, words in (
        (b"garbage", Workload(1, 8), "7 bytes are no model it can run"),
        (artefact, Workload(1, 50), "an input of 1x50 tokens failed"),
    ):
        with pytest.raises(DeviceError, match=f"device 'it': {words}; {where.title} says") as caught:
            where.measure([file], None, call, quick=True)
        assert "\n" not in str(caught.value)


@needed(LiteRt)
def test_the_lengths_of_a_litert_file_share_their_weights_and_bound_its_rows() -> None:
    model = encoder(replace(ONE, vocab_size=5000))
    one, three = (litert(lengths=lengths).export(model) for lengths in ((16,), (8, 16, 32)))
    assert len(three) < 1.5 * len(one)
    with pytest.raises(DeviceError, match=r"an input of 1x17 tokens .*17 tokens are more than the 16 of the longest"):
        litert().measure([one], None, Workload(1, 17), quick=True)


def test_a_length_that_no_row_has_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"device\.options\.lengths: .*0 tokens in a row; at least 1"):
        litert(lengths=(0, 16))


@pytest.mark.parametrize("backend", ["executorch", "litert"])
def test_without_it_everything_says_what_to_do(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRENTICE_RUNTIMES", "/nowhere")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    where = device(backend)
    told = rf"'it': no Python has {where.title}\..*nas devices runtime {backend}"
    for call in (where.check, lambda: where.export(encoder(ONE))):
        with pytest.raises(MissingDependencyError, match=told):
            call()
