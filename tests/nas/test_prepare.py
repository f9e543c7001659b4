from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from nas.prepare import Prepared, prepare, prepare_to_measure
from nas.progress import Silent
from nas.recipe import Recipe
from nas.run_folder import RunFolder
from search_spaces.errors import StateError


@pytest.fixture
def recipe(tiny_recipe: dict[str, Any], tiny_teacher: Path) -> dict[str, Any]:
    return {**tiny_recipe, "teacher": {"model": str(tiny_teacher)}}


def prepared(recipe: dict[str, Any], path: Path, **changes: Any) -> Prepared:
    folder = RunFolder(path)
    folder.create()
    return prepare(Recipe.model_validate({**recipe, **changes}), folder, Silent())


@pytest.mark.parametrize(("knobs", "wanted"), [({"hidden": 0.0}, False), ({"hidden": 0.1}, True), ({}, True)])
def test_hidden_states_are_kept_where_a_student_may_learn_from_them(recipe, tmp_path, knobs, wanted):
    found = prepared(recipe, tmp_path, compress={"distillation": knobs, "int8": {}})
    states = found.bundle.outputs.states
    assert (states is not None) == wanted
    if states is not None:
        assert states.shape == (len(found.bundle.train), 3, 32)


def test_a_resumed_search_has_the_importance_it_began_with(recipe, tmp_path):
    first = prepared(recipe, tmp_path).bundle.importance
    (path,) = (tmp_path / "teacher").glob("importance-*.safetensors")
    again = prepared(recipe, tmp_path).bundle.importance
    assert all(np.array_equal(first[name], again[name]) for name in first)
    path.write_bytes(save({name: scores + 1 for name, scores in load(path.read_bytes()).items()}))
    assert np.array_equal(prepared(recipe, tmp_path).bundle.importance["hidden"], first["hidden"] + 1)


def test_measuring_needs_no_training_and_no_folder_and_sees_the_same_space(recipe, tmp_path):
    whole = prepared(recipe, tmp_path, teacher={**recipe["teacher"], "finetune": {"epochs": 1}})
    told = Recipe.model_validate({**recipe, "teacher": {**recipe["teacher"], "finetune": {"epochs": 1}}})
    brief = prepare_to_measure(told, Silent())
    assert brief.candidates.space.fingerprint == whole.candidates.space.fingerprint
    assert (brief.n_tokens, len(brief.bundle.outputs.logits)) == (whole.n_tokens, 0)
    assert brief.bundle.importance.keys() == whole.bundle.importance.keys()
    for name, scores in whole.bundle.importance.items():
        assert brief.bundle.importance[name].shape == scores.shape


def test_bundles_with_other_importance_have_other_names(recipe, tmp_path):
    told = Recipe.model_validate(recipe)
    whole, brief = prepared(recipe, tmp_path), prepare_to_measure(told, Silent())
    assert whole.teacher.fingerprint == brief.teacher.fingerprint
    assert whole.bundle.fingerprint != brief.bundle.fingerprint
    assert prepare_to_measure(told, Silent()).bundle.fingerprint == brief.bundle.fingerprint


def test_damaged_importance_is_named(recipe, tmp_path):
    prepared(recipe, tmp_path)
    (path,) = (tmp_path / "teacher").glob("importance-*.safetensors")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StateError, match=rf"{path.name}: is damaged"):
        prepared(recipe, tmp_path)


def test_the_teacher_is_scored_once_on_every_split_there_is(recipe, tmp_path):
    found = prepared(recipe, tmp_path)
    assert list(found.scores) == ["accuracy"]
    assert 0 <= found.scores["accuracy"] <= 1
    assert prepared(recipe, tmp_path).scores == found.scores
