import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from nas.cached_outputs import cached_outputs, share_outputs
from nas.data.sources import load_data
from nas.data.tokenize import tokenize
from nas.data.tokens import Tokens
from nas.files import atomic_array, sha256_of, write_json
from nas.outputs import divergence, predict_logits
from nas.recipe import DataSettings, TeacherSettings
from nas.teacher import Teacher, load_teacher
from search_spaces.errors import StateError
from tests.conftest import tiny_tokenizer


@pytest.fixture
def teacher(tiny_teacher: Path) -> Teacher:
    return load_teacher(TeacherSettings(model=str(tiny_teacher)), ("0", "1"))[0]


@pytest.fixture
def tokens(tiny_data: Path) -> Tokens:
    return tokenize(tiny_tokenizer(), load_data(DataSettings(source=str(tiny_data)), 0).train, 32)


def test_the_logits_are_those_of_transformers(tiny_teacher, teacher, tokens):
    reference = AutoModelForSequenceClassification.from_pretrained(tiny_teacher).eval()
    logits = predict_logits(teacher.model, tokens, batch_size=16)
    assert logits.dtype == np.float32
    for row in (0, 7, len(tokens) - 1):
        with torch.no_grad():
            expected = reference(input_ids=tokens.collate(np.array([row])).input_ids).logits[0].numpy()
        np.testing.assert_allclose(logits[row], expected, atol=1e-5)


def test_predicting_leaves_the_mode_of_the_model_as_it_was(teacher, tokens):
    expected = predict_logits(teacher.model, tokens)
    teacher.model.train()
    np.testing.assert_array_equal(predict_logits(teacher.model, tokens), expected)
    assert teacher.model.training


def test_outputs_are_computed_once_and_found_again(teacher, tokens, tmp_path):
    heard: list[tuple[int, int]] = []
    logits = cached_outputs(teacher, tokens, tmp_path, on_rows=lambda *step: heard.append(step)).logits
    assert (logits.shape, logits.dtype) == ((len(tokens), 2), np.float16)
    np.testing.assert_allclose(logits, predict_logits(teacher.model, tokens), atol=2e-3)
    assert heard[-1] == (len(tokens), len(tokens))
    heard.clear()
    again = cached_outputs(teacher, tokens, tmp_path, on_rows=lambda *step: heard.append(step)).logits
    np.testing.assert_array_equal(again, logits)
    assert heard == []
    assert isinstance(again, np.memmap)
    assert not again.flags.writeable


def test_hidden_states_are_those_of_the_first_token_after_every_layer(teacher, tokens, tmp_path):
    assert cached_outputs(teacher, tokens, tmp_path).states is None
    found = cached_outputs(teacher, tokens, tmp_path, with_states=True)
    assert found.states is not None
    assert (found.states.shape, found.states.dtype) == ((len(tokens), 3, 32), np.float16)
    for row in (0, len(tokens) - 1):
        with torch.no_grad():
            logits, states = teacher.model(*tokens.collate(np.array([row])), hidden_states=True)
        np.testing.assert_allclose(found.states[row], torch.stack(states[1:])[:, 0, 0], atol=2e-3)
        np.testing.assert_allclose(found.logits[row], logits[0], atol=2e-3)
    assert np.array_equal(cached_outputs(teacher, tokens, tmp_path, with_states=True).states, found.states)


def test_states_that_are_not_the_teachers_are_found_by_the_live_check(teacher, tokens, tmp_path):
    states = cached_outputs(teacher, tokens, tmp_path, with_states=True).states
    (path,) = tmp_path.glob("*.states.npy")
    with atomic_array(path, states.shape, states.dtype) as array:
        array[:] = states + np.float16(1)
    write_json(path.with_suffix(".json"), {"sha256": sha256_of(path)})
    with pytest.raises(StateError, match=r"states\.npy: \d+ of \d+ checked values differ"):
        cached_outputs(teacher, tokens, tmp_path, with_states=True)


def other(teacher: Teacher) -> Teacher:
    model = copy.deepcopy(teacher.model)
    with torch.no_grad():
        model.head.out.bias += 1.0
    return replace(teacher, model=model)


def test_other_tokens_and_other_weights_have_other_outputs(teacher, tokens, tmp_path):
    cached_outputs(teacher, tokens, tmp_path)
    cached_outputs(teacher, tokens.subset(np.arange(10)), tmp_path)
    cached_outputs(replace(other(teacher), fingerprint="another"), tokens, tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 3


@pytest.mark.parametrize("damage", ["cut", "zeroed", "deleted"])
def test_damaged_outputs_are_named(teacher, tokens, tmp_path, damage):
    cached_outputs(teacher, tokens, tmp_path)
    (path,) = tmp_path.glob("*.npy")
    content = path.read_bytes()
    path.unlink()
    if damage != "deleted":
        path.write_bytes(content[:-9] if damage == "cut" else content[:-500] + bytes(500))
    with pytest.raises(StateError, match=rf"{path.name}: missing or damaged"):
        cached_outputs(teacher, tokens, tmp_path)


def test_outputs_without_a_seal_are_computed_again(teacher, tokens, tmp_path):
    cached_outputs(teacher, tokens, tmp_path)
    (seal,) = tmp_path.glob("*.json")
    seal.unlink()
    seal.with_suffix(".npy").write_bytes(b"half")
    assert len(cached_outputs(teacher, tokens, tmp_path).logits) == len(tokens)


def test_outputs_of_another_teacher_are_found_by_the_live_check(teacher, tokens, tmp_path):
    cached_outputs(teacher, tokens, tmp_path)
    with pytest.raises(StateError, match=r"\.npy: \d+ of \d+ checked values differ"):
        cached_outputs(other(teacher), tokens, tmp_path)


@pytest.mark.parametrize("with_states", [False, True])
def test_shared_outputs_are_not_computed_again(teacher, tokens, tmp_path, with_states):
    first, second = tmp_path / "first", tmp_path / "second"
    second.mkdir()
    share_outputs(first, second)  # there is nothing yet
    computed = cached_outputs(teacher, tokens, first, with_states)
    (first / "half.npy").write_bytes(b"without a seal")
    share_outputs(first, second)
    assert not (second / "half.npy").exists()
    heard: list[tuple[int, int]] = []
    found = cached_outputs(teacher, tokens, second, with_states, lambda *step: heard.append(step))
    assert heard == []
    np.testing.assert_array_equal(found.logits, computed.logits)
    assert (found.states is not None) == with_states
    assert all(path.stat().st_ino != (first / path.name).stat().st_ino for path in second.iterdir())


def test_sharing_leaves_what_is_there_and_finishes_what_was_interrupted(teacher, tokens, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        cached_outputs(teacher, tokens, folder)
    stamps = {path: path.stat().st_mtime_ns for path in second.iterdir()}
    share_outputs(first, second)
    assert {path: path.stat().st_mtime_ns for path in second.iterdir()} == stamps
    (seal,) = second.glob("*.json")
    seal.unlink()
    seal.with_suffix(".npy").write_bytes(b"half")
    share_outputs(first, second)
    assert len(cached_outputs(teacher, tokens, second, on_rows=lambda *step: pytest.fail("computed")).logits) == len(
        tokens
    )


def test_shared_outputs_of_another_teacher_are_found_by_the_live_check(teacher, tokens, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    second.mkdir()
    cached_outputs(other(teacher), tokens, first)
    share_outputs(first, second)
    with pytest.raises(StateError, match=r"\.npy: \d+ of \d+ checked values differ"):
        cached_outputs(teacher, tokens, second)


def test_the_divergence_is_that_of_the_formula() -> None:
    teacher, student = np.random.default_rng(0).normal(size=(2, 5, 3))
    p, q = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) for logits in (teacher, student))
    assert divergence(teacher, student) == pytest.approx((p * np.log(p / q)).sum(axis=1).mean(), rel=1e-5)
    assert divergence(teacher, teacher + 3) == pytest.approx(0, abs=1e-6)
