"""What every row of the compressor table keeps to; a new row is tried here without a new test."""

import copy
import importlib.util
import json
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import nn
from torch.nn.utils import parametrize

import nas
from compressors import COMPRESSORS
from compressors.base import Compressor, Phase, Report, Stage
from nas.stages import State
from nas.student import save
from search_spaces.errors import ConfigError, MissingDependencyError
from search_spaces.families.encoder_model import TextEncoder
from search_spaces.seeding import rng_for
from search_spaces.space import Space
from tests.compressors.artefacts import DEVICE
from tests.conftest import tiny_tokenizer
from tests.contracts.recount import MEASURES, Graph, is_counted, is_kept, is_left_alone, n_learned, unreported
from tests.contracts.subjects import Bench, Text, Trial, bare, points, relu, train

CUTS_AGAIN = ("unit_pruning",)  # its shares are of what is there: prune, train and prune again is a method of its own


def rows(*stages: str) -> list[str]:
    return [name for name in COMPRESSORS if COMPRESSORS.load(name).stage in stages]


every = pytest.mark.parametrize("name", list(COMPRESSORS))
of_models = pytest.mark.parametrize("name", rows("model"))
of_files = pytest.mark.parametrize("name", rows("artefact"))
of_training = pytest.mark.parametrize("name", rows("training"))
on_both = pytest.mark.parametrize("kind", ["encoder", "cnn"])


@pytest.fixture(scope="module")
def bench(tiny_teacher: Path) -> Bench:
    return Bench(tiny_teacher)


@every
def test_it_is_a_compressor_of_its_own_name_and_a_known_stage(name: str) -> None:
    compressor = COMPRESSORS.load(name)()
    assert isinstance(compressor, Compressor)
    assert compressor.name == name
    assert compressor.stage in get_args(Stage)
    assert compressor.phase in get_args(Phase)
    assert 0 < len(compressor.suits) <= 100


@every
def test_every_point_of_its_space_is_accepted_and_its_space_is_stable(name: str) -> None:
    cls = COMPRESSORS.load(name)
    space = cls.space()
    assert Space.from_json(json.loads(json.dumps(space.to_json()))) == space
    rng = rng_for(0, name)
    for _ in range(20):
        cls(**space.sample(rng))


@every
def test_every_knob_has_a_default_and_an_unknown_one_is_refused(name: str) -> None:
    cls = COMPRESSORS.load(name)
    cls()
    with pytest.raises(TypeError):
        cls(no_such_knob=1)


@every
def test_its_report_is_json_before_it_did_anything(name: str) -> None:
    report = COMPRESSORS.load(name)().report()
    assert report.compressor == name
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report


@every
def test_it_has_what_its_stage_calls(name: str) -> None:
    compressor = COMPRESSORS.load(name)()
    calls = {
        "model": ("apply",),
        "loss": ("loss", "begin"),
        "training": ("begin", "rewrite", "after_backward", "after_step", "end"),
        "artefact": ("apply",),
    }
    assert all(callable(getattr(compressor, call)) for call in calls[compressor.stage])


@of_files
def test_without_its_package_it_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(COMPRESSORS.load(name), "why_not"):
        return  # it needs none
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    why = COMPRESSORS.load(name).why_not()
    assert re.search(r"is not installed. Install it with: pip install 'prentice\[\w+\]'$", why)
    with pytest.raises(MissingDependencyError, match=f"^{name}: {re.escape(why)}"):
        COMPRESSORS.load(name)().apply(relu())


@pytest.mark.parametrize("name", rows("model", "training", "artefact"))
def test_it_does_something_somewhere(name: str, bench: Bench) -> None:
    kinds = ["encoder"] if name in rows("training") else ["encoder", "cnn"]
    assert any(bench.acting(name, kind) for kind in kinds)


@pytest.mark.parametrize("name", rows("model", "artefact"))
@on_both
def test_what_does_not_apply_is_refused_in_one_line_that_says_who_refuses(name: str, kind: str, bench: Bench) -> None:
    layers = [part for part, _ in bench.subject(name, kind).model.named_parameters()] if name in rows("model") else []
    for trial in bench.trials(name, kind):
        if trial.after is None:
            assert trial.error.startswith((f"{name}.", f"{name}:", *layers)), trial.error
            assert "\n" not in trial.error
            assert len(trial.error) < 400
            assert trial.error.endswith(".")


@of_models
@on_both
def test_the_argument_is_not_touched_whether_it_is_compressed_or_refused(name: str, kind: str, bench: Bench) -> None:
    original = bench.subject(name, kind).model
    for trial in bench.trials(name, kind):
        given = trial.before.model
        assert same(given, original)
        assert getattr(given, "config", None) is trial.config
        assert trial.config == getattr(original, "config", None)
        assert not given.training
        assert all(p.requires_grad and p.grad is None for p in given.parameters())
        assert not has_hooks(given)
        if trial.after is not None:
            mine = {tensor.data_ptr() for tensor in given.state_dict().values()}
            assert mine.isdisjoint(tensor.data_ptr() for tensor in trial.after.model.state_dict().values())


@pytest.mark.parametrize("name", rows("model", "training", "artefact"))
@on_both
def test_what_it_makes_has_answers_of_the_same_shape(name: str, kind: str, bench: Bench) -> None:
    if name in rows("training") and kind == "cnn":
        return  # the training loop is the text encoder's
    for trial in bench.trials(name, kind):
        if trial.after is not None:
            answers = trial.after.answers()
            assert answers.shape == trial.before.answers().shape
            assert answers.isfinite().all()
        if isinstance(trial.after, Text):
            assert not trial.after.model.training


@of_models
@on_both
def test_the_report_says_what_counting_anew_finds(name: str, kind: str, bench: Bench) -> None:
    for trial in bench.trials(name, kind):
        if trial.after is None:
            continue
        before, after, report = trial.before.model, trial.after.model, trial.compressor.report()
        for change in report.changed:
            assert any(holds(before, after, change) for holds in MEASURES), (trial.knobs, change)
        for skip in report.skipped:
            assert is_left_alone(before, after, skip), (trial.knobs, skip)
        assert unreported(before, after, report) == [], trial.knobs
        for figure, model in (("parameters_before", before), ("parameters_after", after)):
            n = sum(parameter.numel() for parameter in model.parameters())
            assert report.figures.get(figure, n) == n


@of_training
def test_the_report_of_a_training_run_says_what_counting_anew_finds(name: str, bench: Bench) -> None:
    for trial in bench.acting(name, "encoder"):
        before, after = trial.before.model, trial.after.model
        for change in trial.compressor.report().changed:
            if not change.where.endswith(".input"):  # rounded while training only
                assert any(holds(before, after, change) for holds in (*MEASURES, n_learned)), (trial.knobs, change)


@of_files
@on_both
def test_the_report_says_what_is_in_the_file(name: str, kind: str, bench: Bench) -> None:
    for trial in bench.trials(name, kind):
        if trial.after is None:
            continue
        before, after, report = Graph(trial.before.content), Graph(trial.after.content), trial.compressor.report()
        assert all(is_counted(before, after, change) for change in report.changed), trial.knobs
        assert all(is_kept(before, after, skip) for skip in report.skipped), trial.knobs
        assert report.figures["bytes_before"] == len(trial.before.content)
        assert report.figures["bytes_after"] == len(trial.after.content)


@pytest.mark.parametrize("name", rows("model", "training", "artefact"))
def test_every_report_comes_back_from_json(name: str, bench: Bench) -> None:
    for trial in bench.trials(name, "encoder"):
        report = trial.compressor.report()
        assert Report.from_json(json.loads(json.dumps(report.to_json(), allow_nan=False))) == report


@pytest.mark.parametrize("name", rows("model", "training", "artefact"))
def test_where_nothing_matches_it_raises(name: str, bench: Bench) -> None:
    empty = nn.Sequential(nn.Flatten())
    for trial in bench.acting(name, "encoder"):
        compressor = COMPRESSORS.load(name)(**trial.knobs)
        calls = {
            "model": lambda compressor=compressor: compressor.apply(empty, bare()),
            "artefact": lambda compressor=compressor: compressor.apply(relu(), lambda file: iter([])),
            "training": lambda compressor=compressor: compressor.begin(empty, 4),
        }
        with pytest.raises(ConfigError, match=f"^{name}[.:]"):
            calls[compressor.stage]()


@pytest.mark.parametrize("name", rows("model", "training", "artefact"))
@on_both
def test_the_same_seed_gives_the_same_result(name: str, kind: str, bench: Bench) -> None:
    if name in rows("training") and kind == "cnn":
        return
    for number, trial in enumerate(bench.acting(name, kind)[:3]):
        torch.manual_seed(100 + number)  # the global generator must not matter
        again = bench.attempt(name, trial.knobs, bench.subject(name, kind))
        if name in rows("artefact"):
            assert again.after.content == trial.after.content
        else:
            assert same(again.after.model, trial.after.model)
        assert again.compressor.report() == trial.compressor.report()


@pytest.mark.parametrize("name", rows("model", "artefact"))
@on_both
def test_twice_is_refused_or_changes_nothing_more(name: str, kind: str, bench: Bench) -> None:
    for trial in bench.acting(name, kind)[:4]:
        again = bench.attempt(name, trial.knobs, trial.after)
        if again.after is None:
            continue
        if name in rows("artefact"):
            assert again.after.content == trial.after.content
        elif name in CUTS_AGAIN:
            assert n_parameters(again) < n_parameters(trial)
        else:
            torch.testing.assert_close(again.after.answers(), trial.after.answers(), atol=1e-4, rtol=1e-4)
            for one, other in zip(again.after.model.parameters(), trial.after.model.parameters(), strict=True):
                torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


@of_models
def test_a_compressed_encoder_is_loaded_and_exported_as_it_answers(name: str, bench: Bench, tmp_path: Path) -> None:
    for number, trial in enumerate(bench.acting(name, "encoder")):
        if not has_hooks(trial.after.model):  # what is simulated by hooks is said to be lost
            check_files(trial.after, tmp_path / str(number))


@of_models
def test_a_compressed_cnn_is_loaded_as_it_answers(name: str, bench: Bench) -> None:
    for trial in bench.acting(name, "cnn"):
        twin = copy.deepcopy(trial.after)
        for tensor in twin.model.state_dict().values():
            tensor.zero_()
        twin.model.load_state_dict(tensors_of(bytes_of(trial.after.model.state_dict())))
        assert torch.equal(twin.answers(), trial.after.answers())


@of_training
def test_training_with_it_leaves_a_plain_student(name: str, bench: Bench, tmp_path: Path) -> None:
    for number, trial in enumerate(bench.trials(name, "encoder")):
        assert trial.after is not None
        check_plain(trial)
        if number < 2:
            check_files(trial.after, tmp_path / str(number))


@pytest.mark.parametrize("name", rows("loss"))
def test_a_loss_trains_and_leaves_a_plain_student_and_its_teacher_alone(name: str, bench: Bench) -> None:
    text = bench.subject("layer_pruning", "encoder")
    teacher = copy.deepcopy(text.model)
    for knobs in points(name):
        compressor = COMPRESSORS.load(name)(**knobs)
        trial = Trial(knobs, text, text.model.config, compressor, train(text, compressor))
        check_plain(trial)
        assert not same(trial.after.model, text.model)
        assert same(text.model, teacher)
        again = train(text, COMPRESSORS.load(name)(**knobs))
        assert same(again.model, trial.after.model)
        assert Report.from_json(json.loads(json.dumps(compressor.report().to_json()))) == compressor.report()


def check_plain(trial: Trial) -> None:
    """A trained student has the start's modules and parameters, all of them free, and nothing else."""
    start, student = trial.before.model, trial.after.model
    assert [(n, type(m)) for n, m in student.named_modules()] == [(n, type(m)) for n, m in start.named_modules()]
    assert [n for n, _ in student.named_parameters()] == [n for n, _ in start.named_parameters()]
    assert [n for n, _ in student.named_buffers()] == [n for n, _ in start.named_buffers()]
    assert not has_hooks(student)
    assert not any(parametrize.is_parametrized(module) for module in student.modules())
    assert all(p.requires_grad and p.grad is None and type(p) is nn.Parameter for p in student.parameters())
    assert not student.training
    twin = TextEncoder(student.config)
    twin.load_state_dict(student.state_dict())


def check_files(text: Text, folder: Path) -> None:
    """A saved, a loaded and an exported model give the same answers."""
    model, answers = text.model, text.answers()
    file = DEVICE.export(model)
    save(folder, model.config, bytes_of(model.state_dict()), {"model.onnx": file}, tiny_tokenizer(), {})
    loaded = State(nas.load_student(folder), spelling=text.state.spelling)
    assert torch.equal(Text(loaded, text.corpus).answers(), answers)
    np.testing.assert_allclose(DEVICE.predict(file, text.tokens, 8), answers.numpy(), atol=1e-3)


def same(one: nn.Module, other: nn.Module) -> bool:
    """Return whether all tensors of two models are equal to the bit."""
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def has_hooks(model: nn.Module) -> bool:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind) for module in model.modules() for kind in kinds)


def n_parameters(trial: Trial) -> int:
    return sum(parameter.numel() for parameter in trial.after.model.parameters())
