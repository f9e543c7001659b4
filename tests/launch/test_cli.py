import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from typer.testing import CliRunner

from launch.cli import app
from nas.run_folder import RunFolder
from nas.strategies import OPTUNA_SAMPLERS, STRATEGIES
from tests.conftest import SIMULATED

EVOLVED = ("--set", "search.strategy=evolution")
COMMANDS = ["search", "resume", "report", "export", "recipe", "compress", "compressors", "compare"]
COMMANDS += ["strategies", "doctor"]


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture
def recipe_file(tiny_recipe: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_recipe))
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_teaches_with_an_example(command: str) -> None:
    code, output = invoke(command, "--help")
    assert code == 0
    assert f"nas {command}" in output
    assert "Example" in output


def test_help_starts_neither_torch_nor_ray_nor_mlflow() -> None:
    program = (
        "import sys\nfrom typer.testing import CliRunner\nfrom launch.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print([m for m in ('torch', 'ray', 'mlflow', 'transformers') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "[]"


def test_search_report_export_and_resume_work_from_the_command_line(recipe_file: Path, tmp_path: Path) -> None:
    run, shipped = tmp_path / "run", tmp_path / "shipped"
    code, output = invoke("search", str(recipe_file), "--output", str(run), "--trials", "4")
    assert code == 0, output
    for name in ("recipe.yaml", "study.db", "log.txt", "profile.json", "report.html", "best/model.onnx"):
        assert (run / name).exists(), name
    code, output = invoke("report", str(run))
    assert code == 0
    assert "teacher" in output
    code, output = invoke("export", str(run), "--student", "best", "--output", str(shipped))
    assert code == 0
    assert json.loads((shipped / "nas_manifest.json").read_text())["files"]["README.md"]
    assert invoke("resume", str(run))[0] == 0


def test_a_run_folder_with_a_search_is_not_overwritten(recipe_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "study.db").touch()
    code, output = invoke("search", str(recipe_file), "--output", str(run))
    assert code == 2
    assert "nas resume" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "missing.yaml"], "no such file"),
        (["search", "quickstart", "--trials", "0"], "search.trials"),
        (["search", "quickstart", "--set", "search.trails=3"], "Did you mean 'trials'"),
        (["resume", "/nowhere"], "holds no recipe.yaml"),
        (["report", "/nowhere"], "holds no recipe.yaml"),
        (["export", "/nowhere"], "holds no recipe.yaml"),
        (["search", "quickstart", *EVOLVED, "--set", "search.options.population=25"], "at most search.trials = 14"),
        (["search", "quickstart", *EVOLVED, "--set", "search.options.populatoin=2"], "Did you mean 'population'"),
        (["strategies", "evolutoin"], "Did you mean 'evolution'"),
        (["recipe", "quickstrat"], "Did you mean 'quickstart'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    code, output = invoke(*arguments)
    assert code == 2
    assert message in output
    assert len(output.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "no Ray answers at '127.0.0.1:1'"),
        ("ray://localhost:1", "no Ray answers at 'ray://localhost:1'"),
        ("headnode", "'headnode' is no address"),
        ("192.0.2.1:6379", "cluster.allow_unauthenticated: true"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_refused_before_data_is_loaded(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, message: str
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    run = tmp_path / "run"
    arguments = ["--set", "cluster.executor=ray", "--set", "data.source=/nowhere.csv", "--address", address]
    code, output = invoke("search", str(recipe_file), "--output", str(run), *arguments)
    assert (code, message in output) == (2, True), output
    assert len(output.strip().splitlines()) == 1
    assert not run.exists()


def test_a_resumed_search_looks_at_its_cluster_first(recipe_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    recipe = {**yaml.safe_load(recipe_file.read_text()), "cluster": {"executor": "ray"}}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    code, output = invoke("resume", str(run), "--address", "127.0.0.1:1")
    assert (code, "no Ray answers at '127.0.0.1:1'" in output) == (2, True), output


def test_an_infeasible_limit_ends_with_exit_code_3_tracked_as_failed_and_its_folder_unlocked(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    recipe = {**yaml.safe_load(recipe_file.read_text()), "tracking": {"mlflow": True}, "device": SIMULATED}
    recipe_file.write_text(yaml.safe_dump(recipe))
    run = tmp_path / "run"
    code, output = invoke("search", str(recipe_file), "--output", str(run), "--max-latency-ms", "0.0000001")
    assert (code, "fastest student" in output) == (3, True), output
    client = MlflowClient(f"sqlite:///{run / 'mlflow.db'}")
    (experiment,) = [each for each in client.search_experiments() if each.name == "prentice"]
    (parent,) = client.search_runs([experiment.experiment_id])
    assert parent.info.status == "FAILED"
    RunFolder(run).lock()  # raises when another one holds it


def test_a_missing_mlflow_is_one_line_and_no_search_without_tracking_needs_it(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "mlflow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "launch.mlflow_tracker", raising=False)
    monkeypatch.setitem(sys.modules, "mlflow", None)  # as if not installed
    for wanted, message in (("true", "pip install mlflow"), ("false", "'/nowhere.csv' does not exist")):
        sets = [f"tracking.mlflow={wanted}", "data.source=/nowhere.csv"]
        arguments = ["--output", str(tmp_path / wanted), *(part for each in sets for part in ("--set", each))]
        result = CliRunner().invoke(app, ["search", str(recipe_file), *arguments])
        assert (result.exit_code, message in result.stderr) == (2, True), result.output
        assert len(result.stderr.strip().splitlines()) == 1


def test_all_strategies_are_listed_with_what_they_are_good_for() -> None:
    code, output = invoke("strategies")
    assert code == 0
    shown = " ".join(output.replace("│", " ").split())
    for name in (*STRATEGIES, *OPTUNA_SAMPLERS):
        assert f" {name} " in shown, name
    assert "hundreds of cheap trials, any number of objectives" in shown


@pytest.mark.parametrize("name", [*STRATEGIES, *OPTUNA_SAMPLERS])
def test_every_option_of_a_strategy_is_shown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, output = invoke("strategies", name)
    assert code == 0
    if name in STRATEGIES:
        cls = STRATEGIES.load(name)
        assert cls.suits in output
        for option, field in cls.options_model.model_fields.items():
            assert option in output
            assert field.description in output
    if name == "evolution":
        assert re.search(r"population .* 32 .* integer >= 2 .* may become parents", output)
        assert re.search(r"crossover .* 0\.3 .* number >= 0 <= 1 ", output)
    if name == "tpe":
        assert re.search(r"n_startup_trials .* 10 ", output)
        assert "seed" not in output


@pytest.mark.slow
def test_the_doctor_finds_a_device_a_tracker_and_a_cluster_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    code, output = invoke("doctor")
    assert code == 0, output
    for part in ("onnxruntime", "device cpu", "a tiny encoder takes", "nas_device:cpu 1", "mlflow.db"):
        assert part in output
