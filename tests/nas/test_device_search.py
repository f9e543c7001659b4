"""A whole search on each kind of device: the student's file is what the device runs."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from nas.engine import Engine
from nas.inprocess import InProcessExecutor
from nas.progress import Silent
from nas.recipe import Recipe
from nas.run_folder import RunFolder
from nas.student import manifest
from nas.tracker import NullTracker
from search_spaces.errors import ConfigError

DISTIL = {"distillation": {"alpha": 0.1, "temperature": 2.0, "hidden": 0.0, "live": False}}

FEW_BITS = {"torchao": {"enabled": True, "exclude": "head.*"}}


def search(recipe: dict[str, Any], folder: Path) -> tuple[RunFolder, list[dict[str, Any]]]:
    run = RunFolder(folder)
    run.create()
    made = Engine(Recipe.model_validate(recipe), run, InProcessExecutor(), NullTracker(), Silent())
    return run, made.run()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "compress", "file", "origin"),
    [
        ({"name": "torch"}, DISTIL, "artefact.safetensors", "measured"),
        ({"name": "torch"}, {**DISTIL, **FEW_BITS}, "artefact.safetensors", "measured"),
        ({"name": "openvino"}, {**DISTIL, "int8": {"enabled": True}}, "model.onnx", "measured"),
        ({"name": "chip", "backend": "roofline", "mix": {8: 1, 24: 1}}, DISTIL, "model.onnx", "simulated"),
    ],
)
def test_a_search_delivers_what_the_device_runs(
    tiny_recipe: dict[str, Any], tmp_path: Path, device: Any, compress: Any, file: str, origin: str
) -> None:
    for package in {device["name"], *compress} & {"openvino", "torchao"}:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    settings = {"trials": 2, "profile_shapes": 4, "train": {"epochs": 0.2}}
    run, students = search({**tiny_recipe, "device": device, "compress": compress, "search": settings}, tmp_path / "r")
    student = run.students / students[0]["name"]
    assert students[0]["measurement"]["origin"] == origin
    assert (student / file).stat().st_size == students[0]["measurement"]["size_bytes"]
    assert manifest(student)["artefact"] == file
    if file.endswith("safetensors"):
        tensors = load_file(student / file)
        assert "head.out.weight" in tensors
        assert ("layers.0.up.weight" in tensors) == ("torchao" not in compress)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ({"name": "torch"}, r"compress\.int8: rewrites onnxruntime and onnx files, device 'torch' runs torch files"),
        ({"name": "x", "backend": "command"}, r"device\.options\.run: missing"),
        (
            {"name": "x", "backend": "command", "options": {"run": "no-such {model} {spec}"}},
            "'no-such' is not installed",
        ),
    ],
)
def test_a_recipe_that_does_not_fit_its_device_is_refused_before_anything_starts(
    tiny_recipe: dict[str, Any], tmp_path: Path, device: Any, message: str
) -> None:
    with pytest.raises((ConfigError, RuntimeError), match=message) as caught:
        search({**tiny_recipe, "device": device, "compress": {**DISTIL, "int8": {}}}, tmp_path / "r")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "r").glob("teacher/*"))


def test_a_mix_longer_than_the_model_is_refused(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"device\.mix: 500 is more than the teacher's \d+ positions"):
        search({**tiny_recipe, "device": {"mix": {16: 1, 500: 1}}}, tmp_path / "r")
