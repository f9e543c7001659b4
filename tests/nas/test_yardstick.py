"""The figures of real models, small ones, in a real lab."""

import dataclasses
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from compressors.steps import Step
from nas.comparison import Comparison
from nas.lab import Compressed, Lab, compress_model, open_lab
from nas.noise import with_typos
from nas.outputs import predict_logits
from nas.progress import Silent
from nas.recipe import Recipe
from nas.run_folder import RunFolder
from nas.yardstick import COLUMNS, Yardstick
from search_spaces.errors import DivergedError
from tests.conftest import write_rows

MEASURED = {"latency_ms", "p95_ms", "memory_bytes", "compressed_bytes"}


@pytest.fixture(scope="module")
def lab(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("lab")
    recipe = Recipe.model_validate(
        {
            "teacher": {"model": str(tiny_base), "finetune": {"epochs": 6, "lr": 5e-3}},
            "data": {"source": str(write_rows(folder / "train.csv", 1200, 0)), "validation_share": 0.2},
        }
    )
    return open_lab(recipe, RunFolder(folder), Silent())


@pytest.fixture(scope="module")
def teacher(lab: Lab) -> Compressed:
    return compress_model(lab, [])


@pytest.fixture(scope="module")
def figures(lab: Lab, teacher: Compressed) -> dict[str, float]:
    return Yardstick(lab).judge(teacher)


def test_the_teacher_agrees_with_itself_in_everything(lab: Lab, figures: dict[str, float]) -> None:
    assert figures["agreement"] == 1.0
    assert figures["attribution"] == pytest.approx(1.0)
    assert figures["accuracy"] == pytest.approx(lab.prepared.scores["accuracy"], abs=0.01)
    assert figures["accuracy"] > 0.6
    assert figures["worst_class"] <= figures["accuracy"]


def test_every_column_is_judged_measured_or_follows(lab: Lab, teacher: Compressed, figures: dict[str, float]) -> None:
    measured = Yardstick(lab).measure(teacher.artefact)
    assert set(measured) >= MEASURED
    follows = {"retention", "test_accuracy"}  # of the teacher's row; of a test split, which is not there
    assert {column.name for column in COLUMNS} == ({*figures, *measured} & {c.name for c in COLUMNS}) | follows
    assert measured["low_ms"] <= measured["latency_ms"] <= measured["high_ms"] <= 10 * measured["p95_ms"]
    assert measured["speedup"] == pytest.approx(1, rel=0.5)
    assert 0 < measured["idle_bytes"] < measured["memory_bytes"]


def test_sizes_are_those_of_the_file(lab: Lab, teacher: Compressed, figures: dict[str, float]) -> None:
    small = compress_model(lab, [Step("int8")])
    judged = Yardstick(lab).judge(small)
    assert judged["size_bytes"] == len(small.artefact) < figures["size_bytes"] == len(teacher.artefact)
    measured = Yardstick(lab).measure(small.artefact)
    assert measured["compressed_bytes"] == len(zlib.compress(small.artefact)) < judged["size_bytes"]


def test_noise_costs_accuracy_where_it_changes_a_text(lab: Lab, figures: dict[str, float]) -> None:
    validation = lab.prepared.data.validation
    assert with_typos(validation, 0).texts == validation.texts  # these words are too short for typing errors
    assert figures["typos"] == figures["accuracy"]
    assert figures["missing_words"] < figures["accuracy"]


def test_a_spoilt_student_is_worse_in_every_way(lab: Lab, teacher: Compressed, figures: dict[str, float]) -> None:
    model = type(teacher.model)(teacher.model.config).eval()  # never trained
    spoilt = dataclasses.replace(teacher, model=model, artefact=lab.device.export(model))
    judged = Yardstick(lab).judge(spoilt)
    for name in ("accuracy", "agreement", "attribution", "worst_class", "missing_words"):
        assert judged[name] < figures[name], name


def test_calibration_tells_a_boasting_student_from_its_twin(
    lab: Lab, teacher: Compressed, figures: dict[str, float]
) -> None:
    weights = {name: value.clone() for name, value in teacher.model.state_dict().items()}
    model = type(teacher.model)(teacher.model.config)
    model.load_state_dict(
        {name: 30 * value if name.startswith("head.out") else value for name, value in weights.items()}
    )
    boasting = dataclasses.replace(teacher, model=model.eval(), artefact=lab.device.export(model.eval()))
    judged = Yardstick(lab).judge(boasting)
    assert judged["accuracy"] == figures["accuracy"]
    assert judged["calibration_error"] == pytest.approx(1 - figures["accuracy"], abs=0.02)  # always sure
    assert judged["attribution"] == pytest.approx(1.0)


def test_answers_are_those_of_the_file_and_not_of_the_model(lab: Lab, teacher: Compressed) -> None:
    flipped = type(teacher.model)(teacher.model.config).eval()
    flipped.load_state_dict(teacher.model.state_dict())
    with torch.no_grad():
        flipped.head.out.weight.neg_()
        flipped.head.out.bias.neg_()
    judged = Yardstick(lab).judge(dataclasses.replace(teacher, artefact=lab.device.export(flipped)))
    assert judged["agreement"] < 0.05
    logits = predict_logits(flipped, lab.prepared.bundle.validation)
    assert judged["accuracy"] == pytest.approx(np.mean(logits.argmax(1) == lab.prepared.bundle.validation.labels))


def test_a_file_that_does_not_answer_in_numbers_is_refused(lab: Lab, teacher: Compressed) -> None:
    model = type(teacher.model)(teacher.model.config).eval()
    with torch.no_grad():
        model.head.out.bias.fill_(float("nan"))
    with pytest.raises(DivergedError, match="outputs of the file are not finite"):
        Yardstick(lab).judge(dataclasses.replace(teacher, artefact=lab.device.export(model)))


def test_methods_that_something_disturbed_are_measured_again(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Comparison(lab, tmp_path, ("teacher", "ptq_dynamic", "weights_4bit"), 1)
    made.run()
    seen: list[bytes] = []

    def timed(artefact: bytes) -> dict[str, float]:
        seen.append(artefact)
        is_slow = len(seen) == 2
        return {"latency_ms": 0.9 if is_slow else 0.5, "reference_ms": 1.3 if is_slow else 1.0, "speedup": 2.0}

    monkeypatch.setattr(made.yardstick, "measure", timed)
    made.measure()
    assert len(seen) == 4
    assert seen[3] == seen[1]
    assert made._measurement("ptq_dynamic") == {"latency_ms": 0.5, "reference_ms": 1.0, "speedup": 2.0}
    made.measure()
    assert len(seen) == 4  # all is known
