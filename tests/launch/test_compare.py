"""`nas compare` on real parts: a real teacher, real training, real measurements, a real SIGKILL."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from mlflow import MlflowClient
from typer.testing import CliRunner

from launch.cli import app
from nas.methods import METHODS
from nas.run_folder import RunFolder

ENTRY = [sys.executable, "-c", "from launch.cli import main; main()"]
THREE = ("teacher", "ptq_dynamic", "magnitude_50")


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["compare", *arguments], env={"COLUMNS": "200", "MLFLOW_TRACKING_URI": None})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def options(tiny_teacher: Path, tiny_data: Path) -> list[str]:
    named = ["--teacher", str(tiny_teacher), "--data", str(tiny_data), "--methods", ",".join(THREE)]
    return [*named, "--seeds", "2", "--epochs", "0.5"]


@pytest.fixture(scope="module")
def finished(options: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    run = tmp_path_factory.mktemp("compare") / "run"
    code, output = invoke(*options, "--output", str(run))
    assert code == 0, output
    return run, output


def test_every_row_is_in_every_report(finished: tuple[Path, str]) -> None:
    run, output = finished
    rows = json.loads((run / "compare.json").read_text())["rows"]
    assert [row["name"] for row in rows] == list(THREE)
    page, notes = (run / "compare.html").read_text(), (run / "compare.md").read_text()
    for row in rows:
        assert f"<b>{row['name']}</b>" in page
        assert METHODS[row["name"]].title in page
        assert f"| {row['name']} |" in notes
        assert row["name"] in output
        assert f"{row['figures']['accuracy']:.3f}" in notes
    assert page.count('<circle class="student"') == 1 + 2  # the legend's and the two methods'; the teacher is a path
    assert "<script" not in page
    picture = ElementTree.fromstring((run / "compare.svg").read_text())
    texts = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {f"{number} {name}" for number, name in enumerate(THREE, start=1)} <= set(texts)


def test_the_figures_are_of_one_yardstick(finished: tuple[Path, str]) -> None:
    teacher, int8, pruned = json.loads((finished[0] / "compare.json").read_text())["rows"]
    assert teacher["figures"]["retention"] == teacher["figures"]["agreement"] == 1.0
    assert int8["figures"]["size_bytes"] < teacher["figures"]["size_bytes"]
    assert pruned["figures"]["size_bytes"] == pytest.approx(teacher["figures"]["size_bytes"], rel=0.01)
    assert pruned["figures"]["compressed_bytes"] < 0.9 * teacher["figures"]["compressed_bytes"]  # half of it zeros
    assert [row["n_seeds"] for row in (teacher, int8, pruned)] == [1, 2, 2]
    assert int8["spread"]["accuracy"] == 0.0
    assert Path(pruned["artefact"]).stat().st_size == pruned["figures"]["size_bytes"]


def test_mlflow_has_a_parent_with_a_child_for_each_method(finished: tuple[Path, str]) -> None:
    run = finished[0]
    client = MlflowClient(f"sqlite:///{run / 'mlflow.db'}")
    (experiment,) = [each for each in client.search_experiments() if each.name == "prentice"]
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [each for each in runs if "mlflow.parentRunId" not in each.data.tags]
    children = [each for each in runs if each.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert parent.info.status == "FINISHED"
    assert {"compare.html", "compare.json", "compare.md"} <= {f.path for f in client.list_artifacts(parent.info.run_id)}
    assert {child.info.run_name.split(",")[0] for child in children} == set(THREE)
    assert all({"accuracy", "latency_ms", "agreement"} <= set(child.data.metrics) for child in children)


def test_more_seeds_make_only_what_is_missing(finished: tuple[Path, str], options: list[str]) -> None:
    run = finished[0]
    before = {path.name: path.stat().st_mtime_ns for path in (run / "results").iterdir()}
    code, output = invoke(*options, "--output", str(run), "--seeds", "3")
    assert code == 0, output
    assert "compare: 5 of 7 runs are kept from before" in output
    after = {path.name: path.stat().st_mtime_ns for path in (run / "results").iterdir()}
    assert {name for name in after if name not in before} == {
        f"{name}.seed-2.{kind}" for name in THREE[1:] for kind in ("json", "onnx")
    }
    made = {name: stamp for name, stamp in before.items() if ".measured." not in name}  # a disturbed one is repeated
    assert {name: after[name] for name in made} == made


def test_other_conditions_make_everything_that_depends_on_them_anew(
    finished: tuple[Path, str], options: list[str]
) -> None:
    code, output = invoke(*options, "--output", str(finished[0]), "--epochs", "0.7", "--seeds", "1")
    assert code == 0, output
    assert "magnitude_50, seed 1: accuracy" in output


@pytest.mark.slow
def test_a_killed_comparison_goes_on_where_it_was(options: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [*ENTRY, "compare", *options, "--output", str(run), "--set", "tracking.mlflow=false"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    kept = run / "results" / "ptq_dynamic.seed-0.json"
    for _ in range(1200):
        if kept.exists():
            break
        assert process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    stamp = kept.stat().st_mtime_ns
    code, output = invoke(*command[len(ENTRY) + 1 :])
    assert code == 0, output
    assert "runs are kept from before" in output
    assert kept.stat().st_mtime_ns == stamp
    assert len(json.loads((run / "compare.json").read_text())["rows"]) == 3


@pytest.fixture
def recipe_file(tiny_recipe: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_recipe))
    return path


@pytest.mark.slow
def test_the_joint_rows_are_students_of_a_finished_search(recipe_file: Path, tmp_path: Path) -> None:
    run, search = tmp_path / "run", tmp_path / "search"
    found = CliRunner().invoke(app, ["search", str(recipe_file), "--output", str(search), "--trials", "3"])
    assert found.exit_code == 0, found.output
    both = ["--methods", "joint,joint_accurate"]
    arguments = [str(recipe_file), *both, "--output", str(run), "--run", str(search)]
    code, output = invoke(*arguments)
    assert code == 0, output
    teacher, joint, accurate = json.loads((run / "compare.json").read_text())["rows"]
    assert accurate["figures"]["accuracy"] >= joint["figures"]["accuracy"]
    best = json.loads((search / "best" / "nas_manifest.json").read_text())
    assert joint["n_seeds"] == 2
    assert joint["figures"]["size_bytes"] == best["metrics"]["size_bytes"] < teacher["figures"]["size_bytes"]
    code, output = invoke(*arguments, "--output", str(tmp_path / "other"), "--set", "data.validation_share=0.3")
    assert (code, "its teacher and data are not that of this comparison" in output) == (2, True), output
    assert "seed 1" not in output


@pytest.mark.slow
def test_without_a_search_one_is_run_for_the_given_minutes(recipe_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = [str(recipe_file), "--methods", "joint", "--search", "0.01", "--seeds", "2", "--output", str(run)]
    code, output = invoke(*arguments)
    assert code == 0, output
    assert "time: 0.006 minutes are over" in output
    assert [row["name"] for row in json.loads((run / "compare.json").read_text())["rows"]] == ["teacher", "joint"]
    code, output = invoke(*arguments)
    assert code == 0, output
    assert "trial 0" not in output  # the search was finished


@pytest.mark.slow
def test_the_search_takes_what_the_teacher_said_from_the_other_methods(recipe_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    joint = ["--methods", "distilbert,joint", "--search", "0.01", "--seeds", "1", "--epochs", "0.2"]
    code, output = invoke(str(recipe_file), *joint, "--output", str(run))
    assert code == 0, output
    (said,), (found,) = (list((folder / "teacher").glob("*.logits.npy")) for folder in (run, run / "search"))
    assert found.name == said.name
    assert found.stat().st_mtime_ns == said.stat().st_mtime_ns  # a copy; computed anew it would be younger


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "magnitude_5"], "Did you mean 'magnitude_50'"),
        (["--methods", "nothing"], "known: teacher, ptq_dynamic"),
        (["--methods", "teacher", "--seeds", "0"], "--seeds: 0 is out of range"),
        (["--methods", "joint", "--run", "/nowhere"], "--run /nowhere: holds no recipe.yaml"),
        (["--methods", "joint", "--run", "/nowhere", "--search", "3"], "give one"),
        (["--methods", "joint", "--search", "-1"], "--search: -1 minutes"),
        (["--methods", "teacher", "--data", "/nowhere.csv"], "/nowhere.csv"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    code, output = invoke(*arguments, "--output", str(tmp_path / "run"))
    assert code == 2
    assert message in output
    assert "Traceback" not in output


def test_help_lists_every_method_with_its_line() -> None:
    code, output = invoke("--help")
    assert code == 0
    shown = " ".join(output.split())
    for method in METHODS.values():
        assert f"{method.name} {method.title}" in shown


def test_a_folder_in_use_or_not_to_be_written_is_one_line(tmp_path: Path) -> None:
    held = RunFolder(tmp_path / "run")
    held.create()
    held.lock()
    code, output = invoke("--methods", "teacher", "--output", str(held.path))
    held.unlock()
    assert (code, f"in use by process {os.getpid()}" in output, len(output.strip().splitlines())) == (2, True, 1)
    (tmp_path / "file").write_text("")
    code, output = invoke("--methods", "teacher", "--output", str(tmp_path / "file" / "run"))
    assert (code, "cannot be written" in output, len(output.strip().splitlines())) == (2, True, 1)
    assert not (held.path / "teacher" / "model").exists()


def test_a_teacher_without_data_is_one_line(tiny_teacher: Path, tmp_path: Path) -> None:
    code, output = invoke("--teacher", str(tiny_teacher), "--methods", "teacher", "--output", str(tmp_path / "run"))
    assert code == 2
    assert output.startswith("error: --data: missing for teacher")
    assert not (tmp_path / "run").exists()
