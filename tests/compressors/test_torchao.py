"""8-bit files of the torch runtime; what needs torchao itself is skipped where it is not installed."""

import importlib.util
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import load
from safetensors.torch import load as tensors_of
from safetensors.torch import save
from torch import nn
from torch.nn import functional as F

from compressors.base import Material
from compressors.layer_sharing import LayerSharing
from compressors.low_rank import LowRank
from compressors.sizes import sizes_of_artefact
from compressors.steps import Step
from compressors.torch_file import from_blob, to_blob
from compressors.torchao import SCHEMES, TorchAo
from nas.data.tokens import Tokens
from nas.devices.base import Workload
from nas.devices.program import RefusalError
from nas.devices.settings import check_fits
from nas.devices.torch_backend import TorchEager
from nas.devices.torch_program import load as load_program
from nas.lab import compress_model, open_lab
from nas.measures import measure
from nas.outputs import accuracy
from nas.progress import Silent
from nas.recipe import DeviceSettings, Recipe
from nas.run_folder import RunFolder
from search_spaces.errors import ConfigError, DeviceError, MissingDependencyError
from search_spaces.families.encoder_model import TextEncoder
from tests.compressors.artefacts import DEVICE, TORCH, artefact
from tests.compressors.encoders import material, random_encoder, texts

there = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")
each_scheme = pytest.mark.parametrize("scheme", SCHEMES)


def header(file: bytes) -> dict[str, str]:
    return json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])["__metadata__"]


def answers(model: TextEncoder, tokens: Tokens) -> np.ndarray:
    with torch.inference_mode():
        return np.concatenate([model(*tokens.collate(np.array([row]))).numpy() for row in range(len(tokens))])


def error(file: bytes, model: TextEncoder) -> float:
    """Root mean squared error of the logits, relative to how much the exact ones vary."""
    exact = answers(model, texts())
    return float(np.sqrt(((TORCH.predict(file, texts(), 8) - exact) ** 2).mean()) / exact.std())


@there
@pytest.mark.parametrize(
    ("scheme", "knobs", "bound", "share"),
    [
        ("int8_dynamic", {}, 0.05, 0.3),
        ("int8_dynamic", {"per_channel": False}, 0.05, 0.3),
        ("int8_weights", {}, 0.05, 0.3),
        ("int4_weights", {"words": False}, 0.5, 0.25),
    ],
)
def test_weights_take_a_fourth_or_less_and_the_function_is_nearly_the_same(
    scheme: str, knobs: dict[str, bool], bound: float, share: float
) -> None:
    model, compressor = random_encoder(), TorchAo(scheme=scheme, **knobs)
    file = compressor.apply(to_blob(model))
    assert 0 < error(file, model) < bound
    report = compressor.report()
    before, after = (sum(getattr(change, when) for change in report.changed) for when in ("before", "after"))
    assert after < share * before
    assert report.figures["bytes_before"] - report.figures["bytes_after"] == pytest.approx(before - after, rel=0.05)
    assert len(file) < 0.6 * len(to_blob(model))


@there
def test_the_file_is_plain_safetensors_with_integers_their_scales_and_how_they_are_meant() -> None:
    model = random_encoder()
    file = TorchAo(exclude="head.*").apply(to_blob(model))
    tensors = load(file)
    assert {str(values.dtype) for values in tensors.values()} == {"int8", "float32"}
    assert (tensors["layers.0.up.weight_int8"].shape, tensors["layers.0.up.weight_scale"].shape) == ((64, 32), (64, 1))
    assert set(tensors) >= {"embeddings.word.weight_int8", "embeddings.position.weight", "head.out.weight"}
    told = json.loads(header(file)["config"])
    assert told.pop("rounding") == {"scheme": "int8_dynamic", "reduced": False}
    assert told == json.loads(json.dumps(model.config.to_json()))


@there
@pytest.mark.parametrize("name", ["layers.1.down", "embeddings.word"])
def test_integers_are_the_weights_over_their_scale_to_the_nearest(name: str) -> None:
    model = random_encoder()
    tensors = load(TorchAo().apply(to_blob(model)))
    weight = model.get_submodule(name).weight.detach().numpy()
    integers, scale = tensors[f"{name}.weight_int8"], tensors[f"{name}.weight_scale"]
    np.testing.assert_allclose(scale[:, 0], np.abs(weight).max(axis=1) / 127.5, rtol=1e-6)
    assert (np.abs(integers * scale - weight) <= 0.5001 * scale).all()


@there
@each_scheme
def test_a_rebuilt_layer_computes_what_its_integers_say(scheme: str) -> None:
    file = TorchAo(scheme=scheme).apply(to_blob(random_encoder()))
    tensors, (model, _) = tensors_of(file), from_blob("here", file)
    scale = tensors["layers.0.up.weight_scale"].double()
    x = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(0))
    given = x.double()
    if scheme == "int4_weights":
        packed = tensors["layers.0.up.weight_int4"]
        integers = torch.stack([packed & 15, packed >> 4], -1).flatten(1).double() - 8
    else:
        integers = tensors["layers.0.up.weight_int8"].double()
    if scheme == "int8_dynamic":  # a scale for every token
        steps = given.abs().amax(-1, keepdim=True) / 127.5
        given = (given / steps).round().clamp(-128, 127) * steps
    expected = given @ (integers * scale).T + tensors["layers.0.up.bias"].double()
    with torch.inference_mode():
        torch.testing.assert_close(model.layers[0].up(x).double(), expected, rtol=1e-4, atol=1e-4)


@there
@pytest.mark.parametrize(("block", "n"), [(32, 13), (64, 1), (128, 0)])
def test_matrices_that_the_4_bit_kernel_cannot_take_get_8_bits(block: int, n: int) -> None:
    model, compressor = random_encoder(), TorchAo(scheme="int4_weights", block=block)
    file = compressor.apply(to_blob(model))
    in_4_bits = [name for name in load(file) if name.endswith("_int4")]
    assert len(in_4_bits) == n == compressor.report().figures["in_4_bits"]
    assert ("layers.0.down.weight_int4" in in_4_bits) == (block < 128)
    assert "head.out.weight_int8" in load(file)  # it has two rows
    assert error(file, model) < 0.5


@there
def test_words_are_looked_up_in_integers_and_scaled_back() -> None:
    file = TorchAo().apply(to_blob(random_encoder()))
    tensors, (model, _) = tensors_of(file), from_blob("here", file)
    table = tensors["embeddings.word.weight_int8"] * tensors["embeddings.word.weight_scale"]
    ids = torch.tensor([[3, 99], [0, 3]])
    assert torch.equal(model.embeddings.word(ids), F.embedding(ids, table))
    assert not isinstance(model.embeddings.word, nn.Embedding)


@there
def test_seven_bits_use_half_of_the_levels() -> None:
    model = random_encoder()
    file, full = (TorchAo(reduced=reduced).apply(to_blob(model)) for reduced in (True, False))
    assert np.abs(load(file)["layers.0.up.weight_int8"]).max() == 64
    assert error(full, model) < error(file, model) < 0.2


@there
@each_scheme
def test_a_row_does_not_depend_on_the_others_of_its_call(scheme: str) -> None:
    file = TorchAo(scheme=scheme).apply(to_blob(random_encoder()))
    ids = np.array([2, 7, 9, 50, 51, 52], np.int32)
    both = Tokens(ids, np.zeros(6, np.uint8), np.array([0, 3, 6]), np.zeros(2, np.int64))
    np.testing.assert_allclose(TORCH.predict(file, both, 2), TORCH.predict(file, both, 1), atol=1e-5)


@there
@each_scheme
@pytest.mark.parametrize("before", [LayerSharing(group=2), LowRank(share=0.5)])
def test_shared_and_factored_layers_become_integers_too(scheme: str, before: LayerSharing | LowRank) -> None:
    model = before.apply(random_encoder(ffn=(64, 64)), Material(material().batches))
    assert isinstance(model, TextEncoder)
    compressor = TorchAo(scheme=scheme)
    file = compressor.apply(to_blob(model))
    assert len(file) < 0.6 * len(to_blob(model))
    assert error(file, model) < (0.5 if scheme == "int4_weights" else 0.05)
    names = [change.where for change in compressor.report().changed]
    assert len(names) == len(set(names))


@there
def test_a_device_measures_the_file_beside_the_teacher() -> None:
    model = random_encoder()
    file = TorchAo().apply(to_blob(model))
    (seen,) = TORCH.measure([file], to_blob(model), Workload(1, 8), quick=True)
    assert seen.size_bytes == len(file)
    assert seen.speedup is not None
    memory = TORCH.peak_memory(file, Workload(1, 8))
    assert memory.total_bytes > memory.idle_bytes


@there
@each_scheme
def test_sizes_count_every_weight_once_and_no_scale(scheme: str) -> None:
    model, compressor = random_encoder(), TorchAo(scheme=scheme)
    sizes = sizes_of_artefact(compressor.apply(to_blob(model)))
    assert sizes.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert sizes.bits_per_weight < 12
    zeros = to_blob(random_encoder().apply(lambda module: [p.data.zero_() for p in module.parameters(recurse=False)]))
    assert sizes_of_artefact(compressor.apply(zeros)).nonzeros == 0


@there
def test_what_was_scored_is_what_is_delivered(tiny_teacher, tiny_data, tmp_path) -> None:
    told = {
        "teacher": {"model": str(tiny_teacher)},
        "data": {"source": str(tiny_data), "validation_share": 0.3},
        "device": {"name": "torch"},
        "finalize": {"train": {"epochs": 2, "precision": "fp32"}},
    }
    lab = open_lab(Recipe.model_validate(told), RunFolder(tmp_path / "lab"), Silent())
    made = compress_model(lab, [Step.parse("distillation"), Step.parse("torchao")])
    found, rows = measure(lab, made, quick=True), lab.prepared.bundle.validation
    assert found.student.accuracy == accuracy(TORCH.predict(made.artefact, rows, 1), rows)
    assert abs(found.student.accuracy - found.accuracy_torch) <= 1 / len(rows)  # no more than a row changes sides
    assert found.student.size_bytes == len(made.artefact) < found.teacher.size_bytes / 2
    assert found.remarks[-1].startswith("torchao: ")


@there
def test_excluded_layers_stay_and_a_pattern_that_matches_nothing_is_refused() -> None:
    compressor = TorchAo(exclude="head.*, *.down", words=False)
    tensors = load(compressor.apply(to_blob(random_encoder())))
    assert {"head.out.weight", "layers.1.down.weight", "embeddings.word.weight"} <= set(tensors)
    whys = {skip.where: skip.why for skip in compressor.report().skipped}
    assert whys["head.out.weight"] == "excluded by 'head.*'"
    assert whys["embeddings.word.weight"] == "weight of Embedding stays in float32"
    with pytest.raises(
        ConfigError, match=r"torchao.exclude: 'decoder.\*' matches none of \d+ layers; there are layers"
    ):
        TorchAo(exclude="head.*,decoder.*", words=False).apply(to_blob(random_encoder()))
    with pytest.raises(ConfigError, match=r"torchao: 0 of \d+ layers can be rounded; first: .*, excluded by '\*'. Set"):
        TorchAo(exclude="*").apply(to_blob(random_encoder()))


@there
def test_twice_and_files_of_another_runtime_are_refused() -> None:
    once = TorchAo(scheme="int8_weights").apply(to_blob(random_encoder()))
    with pytest.raises(ConfigError, match=r"torchao: the file has integers already \(int8_weights\); leave one out"):
        TorchAo().apply(once)
    with pytest.raises(ConfigError, match=r"torchao: \d+ bytes are no text encoder in safetensors"):
        TorchAo().apply(artefact())


@there
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("layers.0.up.weight_int8", lambda values: values[:, :-1]),
        ("layers.0.up.weight_scale", lambda values: values[:-1]),
        ("layers.0.up.weight_scale", None),
        ("layers.0.up.bias", None),
    ],
)
def test_integers_of_another_shape_are_refused_in_one_line(name: str, change: object) -> None:
    file = TorchAo().apply(to_blob(random_encoder()))
    tensors = tensors_of(file)
    values = tensors.pop(name)
    if callable(change):
        tensors[name] = change(values).contiguous()
    with pytest.raises(
        DeviceError, match=r"are no model it can run; torch says: artefact: .* no text encoder"
    ) as caught:
        TORCH.predict(save(tensors, metadata=header(file)), texts(), 8)
    assert "\n" not in str(caught.value)


@there
def test_4_bit_weights_are_refused_on_a_gpu() -> None:
    file = TorchAo(scheme="int4_weights").apply(to_blob(random_encoder()))
    with pytest.raises(RefusalError, match=r"4-bit weights run on processors only, device.options.device is 'cuda:1'"):
        load_program(file, 1, {"device": "cuda:1"})


@there
def test_compiled_products_of_integers_are_refused_for_torch_gets_them_wrong() -> None:
    with pytest.raises(RefusalError, match=r"compiled int8_dynamic gives wrong answers; set device.options.compile to"):
        load_program(TorchAo().apply(to_blob(random_encoder())), 1, {"compile": True})


@there
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("scheme", SCHEMES[:2])
def test_a_gpu_gives_the_same_answers(scheme: str) -> None:
    file = TorchAo(scheme=scheme).apply(to_blob(random_encoder()))
    on_gpu = TorchEager(DeviceSettings(name="gpu", backend="torch", options={"device": "cuda"}))
    np.testing.assert_allclose(on_gpu.predict(file, texts(), 8), TORCH.predict(file, texts(), 8), atol=0.05)
    assert on_gpu.measure([file], None, Workload(1, 8), quick=True)[0].median_ms > 0


@there
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("scheme", SCHEMES[1:])
def test_a_compiled_model_gives_the_same_answers(scheme: str) -> None:
    file, rows = TorchAo(scheme=scheme).apply(to_blob(random_encoder((2,), (32,)))), texts(4)
    compiled = TorchEager(DeviceSettings(name="compiled", backend="torch", options={"compile": True}))
    np.testing.assert_allclose(compiled.predict(file, rows, 4), TORCH.predict(file, rows, 4), atol=0.02)


@there
def test_without_torchao_a_file_of_integers_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    file = TorchAo().apply(to_blob(random_encoder()))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        MissingDependencyError, match=r"artefact: the package torchao .* pip install 'prentice\[torchao\]'"
    ):
        TORCH.predict(file, texts(), 8)
    assert TORCH.predict(to_blob(random_encoder()), texts(), 8).shape == (len(texts()), 2)


def test_it_is_refused_before_anything_starts_where_it_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match=r"compress\.torchao: rewrites torch files, device 'cpu' runs onnxruntime files"
    ):
        check_fits(DeviceSettings(backend="onnxruntime"), {"torchao": {}})
    in_torch = DeviceSettings(name="torch", backend="torch")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"compress\.torchao: .*pip install 'prentice\[torchao\]'"):
        check_fits(in_torch, {"torchao": {}})
    check_fits(in_torch, {"torchao": {"enabled": False}})


def test_disabled_it_returns_the_file_and_wrong_knobs_are_named() -> None:
    file = to_blob(random_encoder())
    assert TorchAo(enabled=False).apply(file) == file
    with pytest.raises(ConfigError, match=r"torchao.scheme: 'int8' is unknown; known: int8_dynamic, int8_weights"):
        TorchAo(scheme="int8")
    with pytest.raises(ConfigError, match=r"torchao.block: 16 is no block size; choose one of 32, 64, 128\."):
        TorchAo(block=16)


def test_the_row_is_listed_without_importing_torchao() -> None:
    program = "import sys, compressors.torchao; print('torchao' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "False"


def test_an_onnx_device_says_what_it_got_when_it_gets_such_a_file() -> None:
    with pytest.raises(DeviceError, match="bytes are no model it can run"):
        DEVICE.predict(to_blob(random_encoder()), texts(), 8)
