import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification
from typer.testing import CliRunner

from launch.cli import app
from nas.files import check_manifest
from tests.conftest import SIMULATED, tiny_config, tiny_tokenizer, write_rows


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["merge", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def write_recipe(name: str, teacher: Path, data: Path) -> str:
    recipe = {"name": name, "teacher": {"model": str(teacher)}, "data": {"source": str(data), "validation_share": 0.2}}
    recipe["device"] = SIMULATED
    Path(f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    return f"{name}.yaml"


def write_recipes(teacher: Path, data: Path) -> list[str]:
    """Write two recipes into the working directory, of a teacher and of another one."""
    other = Path("other-teacher")
    torch.manual_seed(7)
    BertForSequenceClassification(tiny_config(num_labels=2)).save_pretrained(other)
    tiny_tokenizer().save_pretrained(other)
    second = write_rows(Path("second.csv").absolute(), 300, 1)
    return [write_recipe("first", teacher, data), write_recipe("second", other, second)]


@pytest.fixture
def given(tiny_teacher: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two recipes in the working directory."""
    monkeypatch.chdir(tmp_path)
    return write_recipes(tiny_teacher, tiny_data)


RECIPES = ["first.yaml", "second.yaml"]
STEPS = ["--step", "layer_pruning:keep=2", "--step", "distillation", "--step", "int8", "--epochs", "0.5"]


@pytest.fixture(scope="module")
def merged(tiny_teacher: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which two teachers were merged, and what was printed."""
    folder = tmp_path_factory.mktemp("merged")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_recipes(tiny_teacher, tiny_data)
        code, output = invoke(*RECIPES, *STEPS, "--output", "student")
    assert code == 0, output
    return folder, output


def test_two_teachers_become_one_student_that_loads_and_answers_both_tasks(
    merged: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, output = merged
    monkeypatch.chdir(folder)
    for words in ("one for all", "student of it alone", "2 teachers", "2 students", "student: student"):
        assert words in output
    told, facts = json.loads(Path("student/report.json").read_text()), check_manifest(Path("student"))
    assert [task["task"] for task in told["tasks"]] == ["first", "second"]
    assert told["size_bytes"] == Path("student/model.onnx").stat().st_size < told["alone_bytes"]
    assert facts["tasks"]["logits.second"] == {"task": "second", "labels": ["0", "1"]}
    card = Path("student/README.md").read_text()
    assert "`logits.first`" in card
    model = AutoModelForSequenceClassification.from_pretrained("student").eval()
    assert list(model.config.id2label.values()) == ["first/0", "first/1", "second/0", "second/1"]
    row = AutoTokenizer.from_pretrained("student")("w1 w2 w3", return_tensors="pt", return_token_type_ids=True)
    session = onnxruntime.InferenceSession("student/model.onnx")
    feed = {node.name: row[node.name].numpy() for node in session.get_inputs()}
    answers = session.run(["logits.first", "logits.second"], feed)
    with torch.inference_mode():
        np.testing.assert_allclose(np.concatenate(answers, 1), model(**row).logits, atol=0.05)


def test_the_readme_of_a_student_can_be_followed(given: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert invoke(*given, "--step", "int8", "--no-alone", "--output", "this-folder")[0] == 0
    code = Path("this-folder/README.md").read_text().split("```python\n")[1].split("```")[0]
    found: dict[str, np.ndarray] = {}
    exec(code, found)
    assert found["answer"].shape == (1, 2)


def test_the_second_time_nothing_is_trained_again(merged: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(merged[0])
    code, output = invoke(*RECIPES, *STEPS)
    assert code == 0, output
    assert output.count("reused: layer_pruning, distillation") == 3  # the student of both, and one of each
    assert len(list(Path("runs").iterdir())) == 3


def test_json_is_all_that_is_printed_to_standard_output(given: list[str]) -> None:
    result = CliRunner().invoke(app, ["merge", *given, "--step", "int8", "--no-alone", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["alone_bytes"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["first.yaml", "--step", "int8"], "merge: 1 task was given; at least two"),
        (["first.yaml", "first.yaml", "--step", "int8"], "merge: two tasks have the name 'first'"),
        (["first.yaml", "copy.yaml", "--step", "int8"], "merge: 'copy' is the teacher and the data of 'first'"),
        (["first.yaml", "missing.yaml", "--step", "int8"], "missing.yaml: no such file"),
        (["first.yaml", "second.yaml"], "0 were given"),
        (["first.yaml", "second.yaml", "--step", "int8", "--output", "taken"], "merge taken: exists and is no student"),
        (["first.yaml", "second.yaml", "--step", "structured_pruning"], "use unit_pruning"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_started(given: list[str], arguments: list[str], words: str) -> None:
    Path("taken").mkdir()
    Path("copy.yaml").write_text(Path("first.yaml").read_text().replace("name: first", "name: copy"))
    code, output = invoke(*arguments)
    assert code == 2
    assert output.startswith("error: ")
    assert words in output
    assert len(output.strip().splitlines()) == 1
    assert not Path("runs").exists()


def test_teachers_that_do_not_go_together_are_one_line_and_leave_no_student(given: list[str]) -> None:
    odd = Path("odd")
    BertForSequenceClassification(tiny_config(num_labels=2, max_position_embeddings=80)).save_pretrained(odd)
    tiny_tokenizer().save_pretrained(odd)
    code, output = invoke(given[0], write_recipe("odd", odd, Path("second.csv")), "--step", "int8")
    assert code == 2
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "merge: the teacher of 'odd' has n_positions 80, that of 'first' 64" in line
    assert not list(Path("runs").glob("merge-*"))
