"""A search whose students lose words and matrices before they are trained: what it knew is what came out."""

import csv
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import pytest
from optuna.trial import FrozenTrial, TrialState
from transformers import AutoTokenizer

import nas
from nas.data.tokenize import tokenize
from nas.engine import Engine
from nas.files import read_json, write_json
from nas.inprocess import InProcessExecutor
from nas.knowledge import Profile
from nas.outputs import accuracy
from nas.prepare import Prepared, prepare
from nas.profile import profile
from nas.progress import Silent
from nas.recipe import Recipe
from nas.run_folder import RunFolder
from nas.student import manifest
from nas.tracker import NullTracker
from nas.workbench import workbench
from search_spaces.families.encoder_costs import macs
from tests.conftest import SIMULATED

N_USED = 40  # words of the texts; the teacher has 90
COMPRESS = {
    "vocabulary": {"min_count": 1},
    "low_rank": {},
    "distillation": {"hidden": 0.0},
    "int8": {"enabled": True, "per_channel": True},
}


class Found(NamedTuple):
    """A finished search, and what was known before it."""

    engine: Engine
    students: list[dict[str, Any]]
    trials: list[FrozenTrial]
    prepared: Prepared
    known: Profile


def few_words(source: Path, path: Path) -> Path:
    """Write the texts with the first words only."""
    with source.open(newline="") as file, path.open("w", newline="") as out:
        writer = csv.writer(out)
        for text, label in csv.reader(file):
            words = [f"w{int(word[1:]) % N_USED}" for word in text.split() if word[1:].isdigit()]
            writer.writerow([" ".join(words) or text, label])
    return path


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path, tiny_data: Path) -> Found:
    path = tmp_path_factory.mktemp("compressed")
    recipe = Recipe.model_validate(
        {
            "teacher": {"model": str(tiny_teacher)},
            "data": {"source": str(few_words(tiny_data, path / "few.csv")), "validation_share": 0.2},
            "space": {"mode": "per_layer"},
            "compress": COMPRESS,
            "search": {"trials": 6, "profile_shapes": 5, "train": {"epochs": 0.5}},
            "finalize": {"finalists": 2, "seeds": 1, "starts": 1, "train": {"epochs": 0.5}},
        }
    )
    folder = RunFolder(path / "run")
    folder.create()
    engine = Engine(recipe, folder, InProcessExecutor(), NullTracker(), Silent())
    students = engine.run()
    prepared = prepare(recipe, folder, Silent())
    stored = read_json(folder.profile)
    write_json(folder.profile, {key: value for key, value in stored.items() if key != "later"})  # as the search knew it
    known = profile(prepared, folder, InProcessExecutor(), Silent())  # read from the run folder
    return Found(engine, students, engine.record.trials((TrialState.COMPLETE,)), prepared, known)


def test_costs_are_known_before_training(found: Found) -> None:
    failed = [trial.user_attrs["message"] for trial in found.engine.record.trials((TrialState.FAIL,))]
    assert (len(found.trials), failed) == (6, [])
    assert len({trial.user_attrs["genes"]["low_rank.share"] for trial in found.trials}) > 1
    for trial in found.trials:
        told, got = found.known.metrics(trial.user_attrs["genes"]), trial.user_attrs["metrics"]
        assert got["macs"] == told["macs"]
        assert got["parameters"] == told["parameters"]
        assert got["latency_ms"] == told["latency_ms"]


def test_delivered_students_load_and_are_what_was_foretold(found: Found) -> None:
    device = workbench(found.prepared.bundle).device
    for row in found.students:
        folder = found.engine.folder.students / row["name"]
        model, tokenizer = nas.load_student(str(folder)), AutoTokenizer.from_pretrained(folder)
        told = found.known.metrics(row["genes"])
        assert sum(p.numel() for p in model.parameters()) == told["parameters"]
        assert macs(model.config, found.known.n_tokens) == told["macs"] == row["metrics"]["macs"]
        assert model.config.vocab_size == len(tokenizer) == N_USED + 4
        assert manifest(folder)["config"] == model.config.to_json()
        rows = tokenize(tokenizer, found.prepared.data.validation, 64)
        artefact = (folder / "model.onnx").read_bytes()
        assert accuracy(device.predict(artefact, rows, 1), rows) == row["metrics"]["accuracy"]


def test_what_is_known_of_the_words_outlives_the_search(found: Found) -> None:
    assert set(found.known.n_words.values()) == {N_USED + 4}
    assert set(found.known.n_words) == {"vocabulary+int8"}


def test_a_search_chooses_between_lists_of_methods(tmp_path: Path, tiny_teacher: Path, tiny_data: Path) -> None:
    loss = {"distillation": {"alpha": 0.1, "temperature": 2.0, "hidden": 0.0, "live": False}}
    recipe = Recipe.model_validate(
        {
            "teacher": {"model": str(tiny_teacher)},
            "data": {"source": str(tiny_data), "validation_share": 0.2},
            "device": SIMULATED,
            "compress": {**loss, "int8": {"enabled": True}},
            "or_compress": [{**loss, "static_int8": {"enabled": True, "exclude": ""}}],
            "search": {
                "strategy": "random",
                "trials": 6,
                "warm_start": False,
                "profile_shapes": 4,
                "train": {"epochs": 0.5},
            },
            "finalize": {"finalists": 2, "seeds": 1, "starts": 1, "train": {"epochs": 0.5}},
        }
    )
    folder = RunFolder(tmp_path / "run")
    folder.create()
    engine = Engine(recipe, folder, InProcessExecutor(), NullTracker(), Silent())
    students = engine.run()
    seen = set()
    for trial in engine.record.trials((TrialState.COMPLETE,)):
        last = trial.user_attrs["genes"]["methods"].rpartition("+")[2]
        assert trial.user_attrs["reports"][-1]["compressor"] == last
        seen.add(last)
    assert seen == {"int8", "static_int8"}
    assert all((folder.students / row["name"] / "model.onnx").is_file() for row in students)


def test_a_search_chooses_whether_words_take_four_bits(tmp_path: Path, tiny_teacher: Path, tiny_data: Path) -> None:
    tables = {"scope": "tables", "block": 32, "symmetric": True, "table_bits": 4, "exclude": ""}
    recipe = Recipe.model_validate(
        {
            "teacher": {"model": str(tiny_teacher)},
            "data": {"source": str(tiny_data), "validation_share": 0.2},
            "space": {"genes": {"hidden": [32]}},
            "compress": {
                "distillation": {"alpha": 0.1, "temperature": 2.0, "hidden": 0.0, "live": False},
                "weights_4bit": tables,
                "int8": {"enabled": True, "per_channel": True},
                "half": {"enabled": True, "format": "float16"},
            },
            "search": {"strategy": "random", "trials": 6, "profile_shapes": 4, "train": {"epochs": 0.5}},
            "finalize": {"finalists": 3, "seeds": 1, "starts": 1, "train": {"epochs": 0.5}},
        }
    )
    folder = RunFolder(tmp_path / "run")
    folder.create()
    engine = Engine(recipe, folder, InProcessExecutor(), NullTracker(), Silent())
    students = engine.run()
    trials = engine.record.trials((TrialState.COMPLETE,))
    assert {trial.user_attrs["genes"]["weights_4bit.enabled"] for trial in trials} == {True, False}
    for row in students:
        file = (folder.students / row["name"] / "model.onnx").read_bytes()
        operators = [node.op_type for node in onnx.load_model_from_string(file).graph.node]
        assert ("GatherBlockQuantized" in operators) == row["genes"]["weights_4bit.enabled"]
        assert "MatMulInteger" in operators
        assert row["metrics"]["size_bytes"] == len(file)
