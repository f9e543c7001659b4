"""`nas measure`: models of Hugging Face and any ONNX file, on any device."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from transformers import BertForSequenceClassification
from typer.testing import CliRunner

from launch.cli import app
from tests.conftest import tiny_config


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["measure", *arguments], env={"COLUMNS": "200"})
    return result.exit_code, result.output


@pytest.fixture
def model(tmp_path: Path) -> str:
    BertForSequenceClassification(tiny_config()).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def image_model(tmp_path: Path) -> str:
    """A convolution of a batch of images, in no way a text encoder."""
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, "height", "width"])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    nodes = [helper.make_node("Conv", ["image", "weight"], ["out"])]
    graph = helper.make_graph(nodes, "g", [image], [out], [numpy_helper.from_array(weight, "weight")])
    file = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(file, tmp_path / "image.onnx")
    return str(tmp_path / "image.onnx")


@pytest.mark.parametrize("device", ["cpu", "torch"])
def test_a_model_of_hugging_face_is_exported_and_measured_beside_a_reference(
    model: str, tmp_path: Path, device: str
) -> None:
    target = tmp_path / "m.json"
    code, output = invoke(model, "--device", device, "--reference", model, "--tokens", "9", "--json", str(target))
    assert code == 0, output
    for words in ("p50", "p95", "p99", "95 % interval", "speed-up", "peak memory", "rows/s at batch 32", "governor"):
        assert words in output
    told = json.loads(target.read_text())
    seen = told["measurement"]
    assert 0.5 < seen["speedup"] < 2
    assert seen["low_ms"] <= seen["median_ms"] <= seen["high_ms"]
    assert seen["median_ms"] <= seen["p95_ms"] <= seen["p99_ms"]
    assert told["workload"]["tokens"] == 9
    assert set(told["rows_per_s"]) == {"1", "32"}
    assert told["peak_memory"]["total_bytes"] > told["peak_memory"]["idle_bytes"]
    assert told["energy_mj"] is None or told["energy_mj"] > 0


def test_any_onnx_file_is_measured_with_inputs_of_its_shapes(image_model: str) -> None:
    code, output = invoke(image_model, "--tokens", "40", "--batch", "2")
    assert code == 0, output
    assert "rows/s at batch 2" in output
    code, output = invoke(image_model, "--shape", "image=5,3,24,16")
    assert code == 0, output
    assert "rows/s at batch 5" in output
    assert "batch 32" not in output


def test_a_mix_of_lengths_is_measured_as_one(model: str) -> None:
    code, output = invoke(model, "--mix", "8:3,32:1")
    assert code == 0, output
    assert "8 tokens 75%, 32 tokens 25%" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{image}", "--shape", "picture=1,3,8,8"), "there is no input 'picture'; it has image"),
        (("{image}", "--shape", "image=1,x"), "no shape of an input; write INPUT=N,N"),
        (("{image}", "--device", "torch"), "is no .safetensors file"),
        (("{image}", "--tokens", "2"), "an input of shape 1x3x2x2 failed; ONNX Runtime says:"),
        (("{model}", "--tokens", "100"), "100 tokens are more than its 64 positions"),
        (("{model}", "--threads", "4096"), "device.threads: 4096 is more than"),
        (("/nowhere/model",), "/nowhere/model"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(
    model: str, image_model: str, arguments: tuple[str, ...], message: str
) -> None:
    code, output = invoke(*(each.format(image=image_model, model=model) for each in arguments))
    assert code in (1, 2)
    assert message in output
    assert len(output.strip().splitlines()) == 1
