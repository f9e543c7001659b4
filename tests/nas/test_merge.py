import copy
import csv
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import BertForSequenceClassification

from compressors.steps import Step
from compressors.terms import MASKED
from nas.lab import Lab, compress_model, open_lab
from nas.merge import JointLab, join
from nas.merged import judge
from nas.outputs import predict_logits
from nas.progress import Silent
from nas.recipe import Recipe
from nas.run_folder import RunFolder
from search_spaces.errors import ConfigError
from tests.conftest import WORDS, tiny_config, tiny_tokenizer


def steps(*texts: str) -> list[Step]:
    return [Step.parse(text) for text in texts]


def write_texts(path: Path, words: range, lengths: tuple[int, int], labels: tuple[str, ...]) -> Path:
    """Write texts of some words, labelled by which part of the words their first word is of."""
    rng = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for _ in range(400):
            picks = rng.integers(words.start, words.stop, rng.integers(*lengths))
            label = labels[(picks[0] - words.start) * len(labels) // len(words)]
            writer.writerow([" ".join(WORDS[i] for i in picks), label])
    return path


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A second task: its teacher and its data."""
    folder = tmp_path_factory.mktemp("topics")
    torch.manual_seed(7)
    BertForSequenceClassification(tiny_config(num_labels=3)).save_pretrained(folder / "teacher")
    tiny_tokenizer().save_pretrained(folder / "teacher")
    data = write_texts(folder / "data.csv", range(70), (8, 20), ("low", "middle", "high"))
    return Recipe.model_validate(
        {"name": "topics", "teacher": {"model": str(folder / "teacher")}, "data": {"source": str(data)}}
    )


@pytest.fixture
def labs(tiny_teacher: Path, topics: Recipe, tmp_path: Path) -> dict[str, Lab]:
    data = write_texts(tmp_path / "halves.csv", range(20, 80), (3, 12), ("0", "1"))
    halves = Recipe.model_validate(
        {
            "name": "halves",
            "teacher": {"model": str(tiny_teacher)},
            "data": {"source": str(data), "validation_share": 0.2},
            "finalize": {"train": {"epochs": 2, "lr": 3e-3, "precision": "fp32"}},
        }
    )
    topics = topics.model_copy(update={"finalize": halves.finalize})
    return {r.name: open_lab(r, RunFolder(tmp_path / r.name), Silent()) for r in (halves, topics)}


def joined(labs: dict[str, Lab], *texts: str) -> JointLab:
    folder = RunFolder(next(iter(labs.values())).folder.path.parent / "merged")
    folder.create()
    return join(labs, steps(*texts), folder)


def test_the_training_rows_are_those_of_all_tasks_and_labels_are_columns(labs: dict[str, Lab]) -> None:
    joint = joined(labs)
    first, second = (lab.prepared.bundle.train for lab in labs.values())
    train = joint.prepared.bundle.train
    assert len(train) == len(first) + len(second)
    assert set(train.labels[: len(first)]) == {0, 1}
    assert set(train.labels[len(first) :]) == {2, 3, 4}
    for place, row in ((0, first.subset(np.array([0]))), (len(first) + 5, second.subset(np.array([5])))):
        found = train.subset(np.array([place]))
        np.testing.assert_array_equal(found.ids, row.ids)
        np.testing.assert_array_equal(found.types, row.types)
    assert [(task.start, task.columns) for task in joint.tasks] == [(0, slice(0, 2)), (2, slice(2, 5))]
    assert joint.teacher.config.labels == ("halves/0", "halves/1", "topics/high", "topics/low", "topics/middle")


@pytest.mark.parametrize("with_states", [False, True])
def test_each_teacher_speaks_of_its_own_rows_and_columns_alone(labs: dict[str, Lab], with_states: bool) -> None:
    joint = joined(labs)
    found = joint.outputs(with_states)
    row = 0
    for task in joint.tasks:
        said = task.lab.outputs(with_states)
        rows = slice(row, row + len(said.logits))
        np.testing.assert_array_equal(found.logits[rows, task.columns], said.logits)
        others = np.delete(found.logits[rows], np.arange(5)[task.columns], axis=1)
        assert (others == MASKED).all()
        if with_states:
            np.testing.assert_array_equal(found.states[rows], said.states)
        row = rows.stop
    assert row == len(found.logits)
    assert (found.states is not None) == with_states


def test_the_student_begins_as_the_first_teacher(labs: dict[str, Lab]) -> None:
    joint = joined(labs)
    (first, second), rows = (lab.teacher for lab in labs.values()), labs["halves"].prepared.bundle.validation
    begun = predict_logits(joint.teacher, rows)
    np.testing.assert_allclose(begun[:, :2], predict_logits(first, rows), atol=1e-5)
    assert torch.equal(joint.teacher.head.out.weight[2:], second.head.out.weight)


def test_one_student_learns_what_both_teachers_say(labs: dict[str, Lab]) -> None:
    before = {name: copy.deepcopy(lab.teacher.state_dict()) for name, lab in labs.items()}
    joint = joined(labs, "distillation")
    made = compress_model(joint, steps("distillation:alpha=0.0"))

    def misfit(model: torch.nn.Module) -> list[float]:
        """Return how far a model's log-odds are from each teacher's, in squares, on rows that nobody learned from."""
        found = []
        for task in joint.tasks:
            rows = task.lab.prepared.bundle.validation
            said = torch.from_numpy(predict_logits(model, rows)[:, task.columns]).log_softmax(1)
            goal = torch.from_numpy(predict_logits(task.lab.teacher, rows)).log_softmax(1)
            found.append((said - goal).square().mean().item())
        return found

    start, end = misfit(joint.teacher), misfit(made.model)
    assert start[0] < 1e-9
    assert end[1] < 0.5 * start[1]
    assert end[0] < start[1]
    for name, lab in labs.items():
        assert all(torch.equal(value, before[name][key]) for key, value in lab.teacher.state_dict().items())


def test_the_file_answers_each_task_and_is_smaller_than_two_files(labs: dict[str, Lab]) -> None:
    recipe = steps("vocabulary", "layer_pruning:keep=2", "distillation", "int8")
    joint = joined(labs)
    made = compress_model(joint, recipe)
    alone = {name: compress_model(lab, recipe) for name, lab in labs.items()}
    merged = judge(joint, made, alone)
    assert made.model.config.vocab_size == 80 + 4  # the words of both, and special tokens
    assert [task.output for task in merged.tasks] == ["logits.halves", "logits.topics"]
    assert merged.alone_bytes == sum(len(student.artefact) for student in alone.values())
    assert len(merged.artefact) < 0.7 * merged.alone_bytes
    session = onnxruntime.InferenceSession(merged.artefact)
    for task, figures in zip(joint.tasks, merged.tasks, strict=True):
        rows = made.tokens(task.lab.prepared.bundle.validation)
        hits = 0
        for row in range(len(rows)):
            one = rows.subset(np.array([row]))
            feed = {"input_ids": one.ids, "attention_mask": np.ones_like(one.ids), "token_type_ids": one.types}
            feed = {node.name: feed[node.name][None].astype(np.int64) for node in session.get_inputs()}
            (answer,) = session.run([figures.output], feed)
            assert answer.shape == (1, len(figures.labels))
            hits += int(answer.argmax() == one.labels[0])
        assert figures.merged.accuracy == hits / len(rows)
        assert figures.teacher.accuracy == task.lab.prepared.scores["accuracy"]
        assert figures.alone.size_bytes == len(alone[task.name].artefact)
        assert figures.n_tokens == task.lab.prepared.n_tokens
    told = merged.to_json()
    assert told["size_bytes"] == len(merged.artefact)
    assert told["tasks"][1]["labels"] == ("high", "low", "middle")


def test_without_students_of_their_own_there_is_nothing_to_add_up(labs: dict[str, Lab]) -> None:
    joint = joined(labs)
    merged = judge(joint, compress_model(joint, steps("int8")), {})
    assert merged.alone_bytes is None
    assert merged.tasks[0].alone is None


def changed_teacher(labs: dict[str, Lab], tmp_path: Path, **changes: object) -> dict[str, Lab]:
    """Replace the second teacher by one of another shape."""
    recipe, folder = labs["topics"].recipe, tmp_path / "other"
    shutil.copytree(recipe.teacher.model, folder)
    BertForSequenceClassification(tiny_config(num_labels=3, **changes)).save_pretrained(folder)
    teacher = recipe.teacher.model_copy(update={"model": str(folder)})
    lab = open_lab(recipe.model_copy(update={"teacher": teacher}), RunFolder(tmp_path / "again"), Silent())
    return {**labs, "topics": lab}


def test_a_teacher_of_another_width_gives_its_answers_and_its_output_layer_begins_anew(
    labs: dict[str, Lab], tmp_path: Path
) -> None:
    joint = joined(changed_teacher(labs, tmp_path, hidden_size=48))
    assert not joint.teacher.head.out.weight[2:].any()
    assert compress_model(joint, steps("distillation")).model.head.out.weight[2:].any()


@pytest.mark.parametrize(
    ("changes", "texts", "words"),
    [
        (
            {"vocab_size": 120},
            ["int8"],
            r"merge: the teacher of 'topics' has vocab_size 120, that of 'halves' 94; both must be the same",
        ),
        ({"max_position_embeddings": 80}, ["int8"], r"has n_positions 80, that of 'halves' 64"),
        ({"num_hidden_layers": 2}, ["distillation:hidden=0.1"], r"has shape \(2, 32\), that of 'halves' \(3, 32\)"),
    ],
)
def test_teachers_that_do_not_go_together_are_one_line(
    labs: dict[str, Lab], tmp_path: Path, changes: dict[str, object], texts: list[str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        joined(changed_teacher(labs, tmp_path, **changes), *texts)
    assert "\n" not in str(raised.value)


def test_other_words_are_one_line(labs: dict[str, Lab], tmp_path: Path) -> None:
    other = changed_teacher(labs, tmp_path)
    tokenizer = other["topics"].prepared.teacher.tokenizer
    tokenizer.backend_tokenizer.add_tokens(["[NEW]"])
    with pytest.raises(ConfigError, match=r"merge: the tokenizers of 'halves' and 'topics' differ"):
        joined(other)


def test_a_term_that_needs_a_running_teacher_is_refused(labs: dict[str, Lab]) -> None:
    with pytest.raises(ConfigError, match=r"merge: step 'distillation:live=true,cosine=1\.0' needs one teacher"):
        joined(labs, "distillation:live=true,cosine=1.0")


def test_what_was_trained_is_kept_and_another_teacher_does_not_get_it(labs: dict[str, Lab]) -> None:
    first = compress_model(joined(labs), steps("distillation"))
    again = compress_model(joined(labs), steps("distillation", "int8"))
    assert (first.reused, again.reused) == ((), ("distillation",))
    other = compress_model(joined(dict(reversed(labs.items()))), steps("distillation"))
    assert other.reused == ()
