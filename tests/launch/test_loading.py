"""The lines of Python that a report and a card show: they are run, each in the runtime of its file."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save as to_bytes

from launch.loading import LINES, artefact_lines, loading
from nas.devices.archive import ROOT
from nas.devices.base import FILES
from nas.devices.elsewhere import Elsewhere
from nas.devices.settings import open_device
from nas.recipe import Recipe
from nas.student import save
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder
from tests.conftest import tiny_tokenizer
from tests.nas.devices.test_onnx_text_encoder import BERT, SHAPES, encoder

PRINT = "\nimport json; print(json.dumps(logits.tolist()))"
FOLDER = 'a "best" student'
MODELS = {"three segments": replace(BERT, n_token_types=3), "one segment": SHAPES["roberta with one segment"]}
BACKENDS: dict[str, dict[str, Any]] = {
    "onnxruntime": {},
    "torch": {},
    "openvino": {},
    "executorch": {"batch": 2},
    "litert": {"batch": 2, "options": {"lengths": [2, 8]}},
}


def recipe_on(backend: str, **settings: Any) -> Recipe:
    device = {"name": backend, "backend": backend, **settings}
    return Recipe.model_validate({"device": device, "data": {"source": "rows.csv", "max_length": 16}})


def said(lines: str, python: str, folder: Path) -> np.ndarray:
    """Return the logits of lines that run in a process of their own."""
    here = {**os.environ, "PYTHONPATH": str(ROOT)} if python == sys.executable else dict(os.environ)
    ended = subprocess.run([python, "-c", lines + PRINT], capture_output=True, text=True, cwd=folder, env=here)
    assert ended.returncode == 0, ended.stderr
    return np.array(json.loads(ended.stdout.splitlines()[-1]))


def answer(model: TextEncoder) -> np.ndarray:
    row = tiny_tokenizer()("a text", return_tensors="pt", return_token_type_ids=True)
    with torch.inference_mode():
        return model(**row).numpy()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
def test_the_lines_of_every_runtime_give_the_logits_of_the_student(
    tmp_path: Path, backend: str, config: EncoderConfig
) -> None:
    recipe = recipe_on(backend, **BACKENDS[backend])
    device = open_device(recipe.device)
    if (why := device.why_not()) is not None:
        pytest.skip(why)
    model, file = encoder(replace(config, heads=(2,), ffn=(32,))), FILES[device.format]
    artefacts = {file: device.export(model)}
    save(tmp_path / FOLDER, model.config, to_bytes(model.state_dict()), artefacts, tiny_tokenizer(), {"artefact": file})
    python = device._python if isinstance(device, Elsewhere) else sys.executable
    logits = said(artefact_lines(FOLDER, file, recipe), python, tmp_path)
    np.testing.assert_allclose(logits, np.repeat(answer(model), recipe.device.batch, axis=0), atol=1e-4)


@pytest.mark.parametrize("is_uniform", [True, False])
def test_the_lines_of_the_weights_load_them(tmp_path: Path, is_uniform: bool) -> None:
    model = encoder(SHAPES["uniform"] if is_uniform else BERT)
    save(tmp_path / FOLDER, model.config, to_bytes(model.state_dict()), {}, tiny_tokenizer(), {})
    _, lines = loading(FOLDER, {"uniform": is_uniform}, recipe_on("onnxruntime"))
    assert ("transformers" in lines) == is_uniform
    row = ", ".join(f"{name}=torch.tensor([{ids}])" for name, ids in tiny_tokenizer()("a text").items())
    asked = f"{lines}\nimport torch\nsaid = model.eval()({row})\nlogits = getattr(said, 'logits', said).detach()"
    np.testing.assert_allclose(said(asked, sys.executable, tmp_path), answer(model), atol=1e-4)


def test_every_file_of_a_device_has_its_lines() -> None:
    assert {Path(file).suffix for file in FILES.values()} == {name for name in LINES if name.startswith(".")}


def test_openvino_computes_as_it_was_measured() -> None:
    for options, part in (
        ({}, '"CPU", {"INFERENCE_PRECISION_HINT": "f32"})'),
        ({"target": "GPU", "precision": "auto"}, 'compile_model(model, "GPU")\n'),
    ):
        assert part in artefact_lines("x", "model.onnx", recipe_on("openvino", options=options))
