"""What a user does with the best student: load it elsewhere, and get the accuracy that was reported."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import nas
from launch.cli import app
from tests.conftest import write_rows

ELSEWHERE = """
import csv, json, sys
import numpy as np, onnxruntime, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder, data = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
session = onnxruntime.InferenceSession(folder + "/model.onnx", providers=["CPUExecutionProvider"])
names = [node.name for node in session.get_inputs()]
right = {"torch": [], "onnx": []}
for row in csv.DictReader(open(data)):
    options = dict(truncation=True, max_length=64, return_token_type_ids=True, return_tensors="np")
    inputs = tokenizer(row["text"], **options)
    onnx = session.run(None, {name: inputs[name].astype(np.int64) for name in names})[0]
    with torch.no_grad():
        torch_logits = model(**{name: torch.from_numpy(inputs[name]) for name in names}).logits.numpy()
    right["torch"].append(torch_logits.argmax() == int(row["label"]))
    right["onnx"].append(onnx.argmax() == int(row["label"]))
print(json.dumps({name: float(np.mean(values)) for name, values in right.items()} | {"ours": "nas" in sys.modules}))
"""


def shipped(recipe: dict[str, Any], folder: Path, validation: Path) -> Path:
    recipe["data"] = {**recipe["data"], "validation": str(validation), "max_length": 64}
    recipe["search"] = {"trials": 2, "profile_shapes": 4, "train": {"epochs": 2.0}}
    recipe["finalize"] = {"finalists": 1, "seeds": 1, "starts": 1, "train": {"epochs": 2.0}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    for arguments in (
        ["search", str(folder / "recipe.yaml"), "--output", str(folder / "run")],
        ["export", str(folder / "run"), "--output", str(folder / "student")],
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
    return folder / "student"


@pytest.fixture
def validation(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "validation.csv", 120, 7)


def test_a_uniform_student_works_in_a_new_process_without_us(
    tiny_recipe: dict[str, Any], tmp_path: Path, validation: Path
) -> None:
    folder = shipped(tiny_recipe, tmp_path, validation)
    output = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(folder), str(validation)], capture_output=True, text=True, cwd=tmp_path
    )
    assert output.returncode == 0, output.stderr
    found = json.loads(output.stdout)
    metrics = json.loads((folder / "nas_manifest.json").read_text())["metrics"]
    assert found["onnx"] == pytest.approx(metrics["accuracy"])
    assert found["torch"] == pytest.approx(metrics["accuracy_fp32"])
    assert found["ours"] is False


def test_a_per_layer_student_loads_with_ours(tiny_recipe: dict[str, Any], tmp_path: Path, validation: Path) -> None:
    tiny_recipe["space"] = {"mode": "per_layer"}
    folder = shipped(tiny_recipe, tmp_path, validation)
    model = nas.load_student(str(folder))
    manifest = json.loads((folder / "nas_manifest.json").read_text())
    assert model.config.to_json() == manifest["config"]
    assert sum(p.numel() for p in model.parameters()) == manifest["metrics"]["parameters"]
    assert "load_student" in (folder / "README.md").read_text()


def test_a_damaged_student_is_not_exported_or_loaded(
    tiny_recipe: dict[str, Any], tmp_path: Path, validation: Path
) -> None:
    folder = shipped(tiny_recipe, tmp_path, validation)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(Exception, match=r"model.safetensors: is damaged"):
        nas.load_student(str(folder))
