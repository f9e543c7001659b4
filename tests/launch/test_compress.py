import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification
from typer.testing import CliRunner

from compressors import COMPRESSORS
from launch.cli import app
from nas import load_student
from nas.files import check_manifest
from nas.run_folder import RunFolder
from tests.compressors.methods import methods
from tests.conftest import SIMULATED, tiny_config

__all__ = ["methods"]


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture
def given(tiny_teacher: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return ["--teacher", str(tiny_teacher), "--data", str(tiny_data), "--epochs", "0.5"]


@pytest.fixture
def quick(given: list[str]) -> list[str]:
    """The same for a device that need not be measured."""
    return [*given, "--set", f"device={json.dumps(SIMULATED)}"]


def test_help_lists_every_method_with_its_line() -> None:
    code, output = invoke("compress", "--help")
    assert code == 0
    for name in COMPRESSORS:
        line = next(line for line in output.splitlines() if line.startswith(f"{name} "))
        assert COMPRESSORS.load(name).suits in line
        assert COMPRESSORS.load(name).stage in line


@pytest.mark.parametrize("name", list(COMPRESSORS))
def test_every_method_shows_its_knobs(name: str) -> None:
    code, output = invoke("compressors", name)
    assert code == 0
    assert all(knob in output for knob in COMPRESSORS.load(name).space().names)


def test_a_teacher_becomes_a_student_that_loads_and_says_what_was_scored(given: list[str], tiny_data: Path) -> None:
    wanted = ["--step", "distillation", "--step", "weight_pruning:sparsity=0.5", "--step", "int8"]
    code, output = invoke("compress", *given, *wanted, "--output", "student")
    assert code == 0, output
    for words in ("accuracy", "bits per weight", "weight_pruning", "layers.2", "student: student"):
        assert words in output
    told = json.loads(Path("student/report.json").read_text())
    assert [step["name"] for step in told["steps"]] == ["distillation", "weight_pruning", "int8"]
    assert told["student"]["size_bytes"] == Path("student/model.onnx").stat().st_size
    assert check_manifest(Path("student"))["metrics"]["accuracy"] == told["student"]["accuracy"]
    ours, theirs = load_student("student"), AutoModelForSequenceClassification.from_pretrained("student").eval()
    row = AutoTokenizer.from_pretrained("student")("w1 w2 w3", return_tensors="pt", return_token_type_ids=True)
    session = onnxruntime.InferenceSession("student/model.onnx")
    with torch.inference_mode():
        logits = ours(row["input_ids"])
        np.testing.assert_allclose(theirs(**row).logits, logits, atol=1e-5)
    deployed = session.run(None, {node.name: row[node.name].numpy() for node in session.get_inputs()})[0]
    np.testing.assert_allclose(deployed, logits, atol=0.05)
    assert float((ours.layers[0].up.weight == 0).float().mean()) == pytest.approx(0.5, abs=0.1)


def test_a_student_of_the_torch_device_is_small_and_runs_as_its_card_says(given: list[str]) -> None:
    if (why := COMPRESSORS.load("torchao").why_not()) is not None:
        pytest.skip(why)
    wanted = ["--device", "torch", "--step", "torchao:scheme=int8_weights"]
    code, output = invoke("compress", *given, *wanted, "--output", "this-folder")
    assert code == 0, output
    told = json.loads(Path("this-folder/report.json").read_text())
    assert told["student"]["size_bytes"] == Path("this-folder/artefact.safetensors").stat().st_size
    assert told["student"]["size_bytes"] < told["teacher"]["size_bytes"] / 2
    scope: dict[str, object] = {}
    exec(Path("this-folder/README.md").read_text().split("```python\n")[1].split("```")[0], scope)
    row = scope["tokenizer"]("a text", return_tensors="pt")  # type: ignore[operator]
    with torch.inference_mode():
        np.testing.assert_allclose(scope["logits"], load_student("this-folder")(row["input_ids"]), atol=0.05)


def test_the_second_time_skips_what_was_done(quick: list[str]) -> None:
    assert invoke("compress", *quick, "--step", "distillation")[0] == 0
    code, output = invoke("compress", *quick, "--step", "distillation", "--step", "int8")
    assert code == 0, output
    assert "reused: distillation" in output
    (log,) = Path("runs").glob("compress-*/log.txt")
    assert "reused: distillation" in log.read_text()


def test_a_teacher_is_fine_tuned_once(tiny_base: Path, quick: list[str]) -> None:
    arguments = ["--teacher", str(tiny_base), *quick[2:], "--set", "teacher.finetune.epochs=1"]
    for step, is_kept in (("int8", False), ("half", True)):
        code, output = invoke("compress", *arguments, "--step", step)
        assert code == 0, output
        assert ("teacher: was fine-tuned before, kept in " in output) == is_kept
        assert ("teacher: fine-tuning" in output) != is_kept


@pytest.mark.parametrize(("left_out", "kept"), [("--data", "--teacher"), ("--teacher", "--data")])
def test_a_teacher_without_data_or_data_without_a_teacher_is_one_line(
    given: list[str], left_out: str, kept: str
) -> None:
    where = given.index(kept)
    code, output = invoke("compress", *given[where : where + 2], "--step", "int8")
    assert code == 2
    assert output.startswith(f"error: {left_out}: missing for ")
    assert len(output.strip().splitlines()) == 1
    assert not Path("runs").exists()


def test_json_is_all_that_is_printed_to_standard_output(quick: list[str]) -> None:
    result = CliRunner().invoke(app, ["compress", *quick, "--step", "int8", "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["student"]["bits_per_weight"] < told["teacher"]["bits_per_weight"]


def test_steps_may_come_from_a_file_that_is_written_in_three_ways(quick: list[str]) -> None:
    for i, content in enumerate((["int8"], [{"int8": {}}], {"steps": [{"name": "int8", "knobs": {}}]})):
        Path("steps.yaml").write_text(yaml.safe_dump(content))
        code, output = invoke("compress", *quick, "--steps", "steps.yaml", "--output", f"student{i}")
        assert code == 0, output
        assert check_manifest(Path(f"student{i}"))["steps"] == [{"name": "int8", "knobs": {}}]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "0 were given"),
        (["--step", "int9"], "Did you mean 'int8'"),
        (["--step", "int8", "--step", "distillation"], "'distillation' cannot follow 'int8'"),
        (["--step", "structured_pruning"], "use unit_pruning"),
        (["--step", "weight_pruning:sparsity=2"], "weight_pruning.sparsity: 2"),
        (["--steps", "missing.yaml"], "missing.yaml: no such file"),
        (["--step", "int8", "--output", "taken"], "exists and is no student"),
        (["--step", "int8", "--device", "toaster"], "toaster"),
        (["--step", "int8", "--epochs", "0"], "epochs"),
        (["--step", "int8", "--output", "/proc/student"], "compress /proc/student: cannot be written"),
        (["--step", "int8:per_chanel=true"], "Did you mean 'per_channel'"),
        (["--step", "one_shot_pruning:sparsity=1.0"], "one_shot_pruning.sparsity: 1.0"),
        (["--step", "fake_quantization:bits=9"], "fake_quantization.bits: 9"),
        (["--step", "weights_4bit:block=20"], "weights_4bit.block: 20"),
        (
            ["--step", "one_shot_pruning:sparsity=0.5", "--step", "unit_pruning:ffn=0.5"],
            "structure comes before weights",
        ),
        (["--step", "fake_quantization", "--step", "unit_pruning"], "structure comes before bits"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_started(given: list[str], arguments: list[str], words: str) -> None:
    Path("taken").mkdir()
    code, output = invoke("compress", *given, *arguments)
    assert code == 2
    assert output.startswith("error: ")
    assert words in output
    assert len(output.strip().splitlines()) == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (["distillation", "static_int8:exclude=foo*"], "static_int8.exclude: 'foo*' matches none of 17 nodes"),
        (["distillation", "weights_4bit:block=256"], "its 32 columns are fewer than a block of 256"),
        (["distillation", "low_rank:which=foo*"], "low_rank.which: no layer matched 'foo*'"),
        (["weight_pruning:sparsity=0.5,pattern=2:4"], "layers.0.down.weight: its input width 62 is not a multiple"),
        (["distillation", "one_shot_pruning:sparsity=0.5,pattern=2:4"], "layers.0.down.weight: its input width 62"),
    ],
)
def test_what_a_later_step_cannot_do_is_said_before_the_training(
    quick: list[str], tiny_teacher: Path, steps: list[str], words: str
) -> None:
    shutil.copytree(tiny_teacher, "odd")
    BertForSequenceClassification(tiny_config(num_labels=2, intermediate_size=62)).save_pretrained("odd")
    quick = ["--teacher", "odd", *quick[2:]]
    code, output = invoke("compress", *quick, *(part for step in steps for part in ("--step", step)))
    assert code == 2
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert words in line
    assert output.strip().endswith(line)
    assert "teacher: running once" not in output
    (folder,) = Path("runs").glob("compress-*")
    assert not list((folder / "students").iterdir())


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("--data", "empty.csv", "has no rows"),
        ("--teacher", "./nowhere", "./nowhere is no folder"),
    ],
)
def test_a_teacher_or_data_that_are_not_there_are_one_line(given: list[str], name: str, value: str, words: str) -> None:
    Path("empty.csv").write_text("text,label\n")
    code, output = invoke("compress", *given, name, value, "--step", "static_int8")
    assert code == 2
    assert output.startswith("error: ")
    assert words in output
    assert len(output.strip().splitlines()) == 1
    assert not list(Path("runs").glob("*"))  # nothing is left of it


def test_a_folder_in_use_is_left_alone(quick: list[str]) -> None:
    assert invoke("compress", *quick, "--step", "int8")[0] == 0
    (folder,) = Path("runs").glob("compress-*")
    held = RunFolder(folder)
    held.lock()
    try:
        code, output = invoke("compress", *quick, "--step", "half")
    finally:
        held.unlock()
    assert code == 2
    assert f"{folder}: in use by process {os.getpid()}; wait for it, stop it" in output
    assert len(output.strip().splitlines()) == 1
    assert len(list((folder / "students").iterdir())) == 1


def test_an_error_in_the_third_step_leaves_no_student(quick: list[str], methods: list[str]) -> None:
    wanted = ["--step", "shallow", "--step", "distillation", "--step", "failing"]
    code, output = invoke("compress", *quick, *wanted, "--output", "student")
    assert code == 2
    assert "error: failing: 0 of 3 layers" in output
    assert not [path for path in Path().iterdir() if path.name.startswith("student")]
    (folder,) = Path("runs").glob("compress-*")
    assert not list((folder / "students").iterdir())


def test_a_student_replaces_the_earlier_one_whole(quick: list[str]) -> None:
    for step in ("int8", "distillation"):
        assert invoke("compress", *quick, "--step", step, "--output", "student")[0] == 0
    assert check_manifest(Path("student"))["steps"][0]["name"] == "distillation"
    assert sorted(path.name for path in Path().iterdir()) == ["runs", "student"]
