import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.bundle import Bundle, Outputs
from nas.checkpoint import load_checkpoint, save_checkpoint, untrained_score
from nas.executor import Task
from nas.outputs import divergence, predict_logits
from nas.prepare import prepare
from nas.progress import Silent
from nas.recipe import Recipe, TrainSettings
from nas.run_folder import RunFolder
from nas.trial import train_student, workbench
from tests.compressors.encoders import encoder, texts
from tests.conftest import write_rows

GRADUAL = {
    "distillation": {"alpha": 0.5, "temperature": 1.0, "hidden": 0.0, "live": False},
    "structured_pruning": {"end": 0.5},
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path) -> Bundle:
    """A task that tiny students can learn, with a teacher that is sure of the labels."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "taught")
    folder.create()
    rows = write_rows(tmp_path_factory.mktemp("data") / "train.csv", 600, 0)
    recipe = {
        "teacher": {"model": str(tiny_teacher)},
        "data": {"source": str(rows), "validation_share": 0.3},
        "compress": GRADUAL,
    }
    found = prepare(Recipe.model_validate(recipe), folder, Silent()).bundle
    sure = np.where(np.eye(2)[found.train.labels] > 0, 3.0, -3.0).astype(np.float16)
    return replace(found, outputs=Outputs(sure))


def task(bundle: Bundle, rung: tuple[float, float] | None, schedule: str, blobs: Mapping[str, bytes]) -> Task:
    """Return the task of a student of two narrow layers."""
    shape = {"keep_1": False, "keep_2": True, "hidden": 32, "ffn": 32, "structured_pruning.criterion": "first_order"}
    genes = workbench(bundle).candidates.space.canonical({**shape, "structured_pruning.schedule": schedule})
    train = TrainSettings(epochs=20, lr=3e-3, train_embeddings=True, precision="fp32").model_dump()
    spec = {"genes": genes, "seed": 0, "train": train, "deliver": False}
    return Task("t", "train", spec if rung is None else {**spec, "rung": list(rung)}, blobs)


def delivered(found: Task) -> Task:
    """Return the task that also sends the weights back."""
    return replace(found, spec={**found.spec, "deliver": True})


def climb(bundle: Bundle, rungs: list[float], schedule: str) -> list[dict[str, Any]]:
    """Return the results of a student's way through rungs."""
    results: list[dict[str, Any]] = []
    blobs: dict[str, bytes] = {}
    for rung in itertools.pairwise([0.0, *rungs]):
        results.append(train_student(task(bundle, rung, schedule, blobs), bundle))
        blobs = {"checkpoint": results[-1]["checkpoint"]} if "checkpoint" in results[-1] else {}
    return results


def test_a_student_trained_in_steps_is_the_one_trained_in_one_go(bundle: Bundle) -> None:
    whole = train_student(delivered(task(bundle, None, "oneshot", {})), bundle)
    first = train_student(task(bundle, (0.0, 0.3), "oneshot", {}), bundle)
    last = train_student(delivered(task(bundle, (0.3, 1.0), "oneshot", {"checkpoint": first["checkpoint"]})), bundle)
    assert last["weights"] == whole["weights"]
    assert last["artefact"] == whole["artefact"]


@pytest.mark.parametrize("schedule", ["oneshot", "cubic"])
def test_a_student_trained_in_steps_ends_near_one_trained_in_one_go(bundle: Bundle, schedule: str) -> None:
    whole = train_student(task(bundle, None, schedule, {}), bundle)
    first, last = climb(bundle, [0.3, 1.0], schedule)
    assert whole["metrics"]["accuracy"] > 0.8
    assert last["metrics"]["accuracy"] == pytest.approx(whole["metrics"]["accuracy"], abs=0.05)
    assert last["metrics"]["parameters"] == first["metrics"]["parameters"] == whole["metrics"]["parameters"]
    assert last["architecture"] == whole["architecture"]
    assert last["curves"]["loss"][0] < 0.8 * first["curves"]["loss"][0]  # it began where the first rung ended
    assert last["score"] == 1 - last["metrics"]["accuracy"]
    assert "checkpoint" not in last


def test_the_rung_without_training_judges_the_slice_of_the_target_shape(bundle: Bundle) -> None:
    (result,) = climb(bundle, [0.0], "cubic")
    whole = train_student(task(bundle, None, "oneshot", {}), bundle)
    assert result["curves"]["loss"] == []
    assert "checkpoint" not in result
    assert result["metrics"]["parameters"] == whole["metrics"]["parameters"]
    assert result["score"] > 0
    assert {"build", "score"} <= result["seconds"].keys()


def test_the_score_without_training_is_the_distance_to_the_cached_teacher(bundle: Bundle) -> None:
    bench = workbench(bundle)
    said = Outputs(predict_logits(bench.teacher, bundle.train).astype(np.float16))
    assert untrained_score(bench.teacher, replace(bundle, outputs=said)) == pytest.approx(0, abs=1e-5)
    sure = divergence(bundle.outputs.logits, predict_logits(bench.teacher, bundle.train))
    assert untrained_score(bench.teacher, bundle) == pytest.approx(sure, rel=0.1)  # 256 of 420 rows


def test_a_checkpoint_gives_the_same_student_back() -> None:
    student, tokens = encoder(heads=(2, 4), ffn=(32, 96)), texts(20)
    again, _ = load_checkpoint(save_checkpoint(student))
    assert again.config == student.config
    assert np.array_equal(predict_logits(again, tokens), predict_logits(student, tokens))
