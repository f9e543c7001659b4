"""A search for several devices from the command line: report, export and resume."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from launch.cli import app
from launch.export import model_card
from launch.recipes import load_recipe
from nas.engine import open_record
from nas.run_folder import RunFolder


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "250"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture
def recipe_file(tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRENTICE_DEVICES", str(tmp_path / "devices"))
    for name, gflops in (("server", 5), ("phone", 0.5)):
        options = ["--option", f"gflops={gflops}", "--tokens", "8"]
        assert invoke("devices", "add", name, "--backend", "roofline", *options)[0] == 0
    tiny_recipe["search"] = {"trials": 4, "profile_shapes": 6, "train": {"epochs": 0.2}}
    tiny_recipe["finalize"] = {"finalists": 2, "seeds": 1, "train": {"epochs": 0.2}}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_recipe))
    return path


def test_search_report_export_and_resume_work_for_two_devices(recipe_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    devices = ["--device", "server", "--device", "phone"]
    code, output = invoke("search", str(recipe_file), "--output", str(run), *devices)
    assert code == 0, output
    for name in ("profile-server.json", "profile-phone.json", "best-server/model.onnx", "best-phone/README.md"):
        assert (run / name).exists(), name
    recipe = load_recipe(str(run / "recipe.yaml"), {}, [])
    assert [settings.options["gflops"] for settings in recipe.targets.values()] == [5, 0.5]
    code, output = invoke("report", str(run))
    assert code == 0
    for words in ("on server (simulated)", "on phone (simulated)", "best on server (simulated)"):
        assert words in output
    page = (run / "report.html").read_text()
    assert "Finalists on phone (simulated)" in page
    for name in open_record(RunFolder(run), recipe).attrs["best"].values():
        assert f"{run / 'students' / name}&#34;" in page

    shipped = tmp_path / "shipped"
    code, output = invoke("export", str(run), "--student", "best", "--device", "phone", "--output", str(shipped))
    assert code == 0, output
    told = json.loads((shipped / "nas_manifest.json").read_text())
    assert told["name"] == open_record(RunFolder(run), recipe).attrs["best"]["phone"]
    card = (shipped / "README.md").read_text()
    assert "simulated on device `phone`" in card
    assert f"{told['devices']['phone']['measurement']['median_ms']:.3f} ms" in card
    assert f"{told['teacher_metrics']['latency_ms@phone']:.3f} ms |" in card
    facts = {**told, "artefact": "model-onnx.onnx"}  # of the second of two formats
    assert '"{folder}/model-onnx.onnx"' in model_card(facts, recipe)
    code, output = invoke("export", str(run), "--device", "phoen")
    assert (code, "'phoen' is unknown; known: server, phone. Did you mean 'phone'" in output) == (2, True), output
    assert invoke("resume", str(run))[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "--device", "cpu", "--device", "cpu"], "'cpu' stands there twice"),
        (
            ["search", "--device", "cpu", "--device", "phoen"],
            "'phoen' is unknown; known: cpu, torch, openvino, phone, server",
        ),
        (
            ["compress", "--step", "int8", "--set", "devices=[server, phone]"],
            "devices: server, phone; one is allowed here",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(recipe_file: Path, arguments: list[str], message: str) -> None:
    command, *rest = arguments
    code, output = invoke(command, str(recipe_file), *rest)
    assert (code, message in output) == (2, True), output
    assert len(output.strip().splitlines()) == 1
