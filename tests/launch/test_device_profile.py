"""`nas devices profile`: a device measured once, and searches that use it."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from launch.cli import app
from nas.files import read_json


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's devices: one chip, simulated, and another that is slower."""
    monkeypatch.setenv("PRENTICE_DEVICES", str(tmp_path / "devices"))
    monkeypatch.chdir(tmp_path)
    for name, gflops in (("chip", 20), ("slow", 5)):
        invoke("devices", "add", name, "--backend", "roofline", "--option", f"gflops={gflops}")
    return tmp_path / "devices"


@pytest.fixture
def recipe_file(tiny_recipe: dict[str, Any], tmp_path: Path) -> str:
    settings = {"trials": 2, "profile_shapes": 6, "train": {"epochs": 0.2}}
    finals = {"finalists": 1, "seeds": 1, "train": {"epochs": 0.2}}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**tiny_recipe, "search": settings, "finalize": finals}))
    return str(path)


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_a_device_is_profiled_without_a_training_and_a_search_uses_it(
    folder: Path, recipe_file: str, tmp_path: Path
) -> None:
    code, output = invoke("devices", "profile", "chip", recipe_file)
    assert code == 0, output
    for words in ("device 'chip': teacher", "held-out error", "in the 90% interval", "prices", "left out: nothing"):
        assert words in output
    (kept,) = (folder / "chip.profiles").iterdir()
    assert str(kept.relative_to(tmp_path)) in output
    assert len({str(row["genes"]) for row in read_json(kept)["rows"]}) == 18
    assert not (tmp_path / "runs").exists()

    code, output = invoke("search", recipe_file, "--device", "chip", "--output", "run")
    assert code == 0, output
    assert re.search(r"device 'chip' was profiled \d+ minutes? ago \(18 measurements\) and still holds", output)
    code, output = invoke(
        "search", recipe_file, "--device", "chip", "--output", "anew", "--set", "search.reuse_profile=false"
    )
    assert (code, "was profiled" in output) == (0, False)

    assert invoke("devices", "remove", "chip")[0] == 0
    assert not kept.exists()


def test_a_device_is_profiled_with_ten_shapes_and_what_is_known_of_another(folder: Path, recipe_file: str) -> None:
    invoke("devices", "profile", "chip", recipe_file, "--shapes", "12")
    code, output = invoke("devices", "profile", "slow", recipe_file, "--from", "chip")
    assert code == 0, output
    (kept,) = (folder / "slow.profiles").iterdir()
    told = read_json(kept)
    assert (len(told["rows"]), list(told["old"])) == (30, ["chip"])
    assert len(told["old"]["chip"]["rows"]) == 36
    assert "what is known of chip" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nix"], "device: 'nix' is unknown"),
        (["slow", "--from", "chip"], "--from 'chip': no profile of it is kept for this teacher and"),
        (["slow", "--from", "nix"], "device: 'nix' is unknown"),
        (["slow", "--shapes", "3"], "search.profile_shapes: 3"),
        (["torch"], "compress.int8: rewrites onnxruntime and onnx files, device 'torch' runs torch files"),
        (["chip", "--set", "device.tokens=500"], "device.tokens: 500 is more than the teacher's 64 positions"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_kept(
    folder: Path, recipe_file: str, arguments: list[str], message: str
) -> None:
    code, output = invoke("devices", "profile", arguments[0], recipe_file, *arguments[1:])
    assert code == 2, output
    assert message in output
    assert not list(folder.glob("*.profiles"))


def test_another_device_that_was_profiled_with_other_methods_is_refused(folder: Path, recipe_file: str) -> None:
    distilled = "compress={distillation: {alpha: 0.1, temperature: 2.0, hidden: 0.0, live: false}}"
    assert invoke("devices", "profile", "chip", recipe_file, "--set", distilled)[0] == 0
    code, output = invoke("devices", "profile", "slow", recipe_file, "--from", "chip")
    assert code == 2
    assert "--from 'chip': it does not know int8" in output
    assert not (folder / "slow.profiles").exists()
