from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compressors.answers import NOTHING, Need
from nas.bundle import Outputs
from nas.executor import Task
from nas.prepare import prepare
from nas.progress import Silent
from nas.recipe import Recipe, TrainSettings
from nas.run_folder import RunFolder
from nas.teaching import Teaching
from nas.trial import train_student
from tests.compressors.encoders import encoder, texts

TOKENS = texts(12)
ROWS = np.array([3, 7, 1])
CACHED = Outputs(np.arange(24, dtype=np.float16).reshape(12, 2), np.ones((12, 2, 32), np.float16))


def test_cached_answers_are_those_of_the_rows_and_nothing_more_than_was_asked_for():
    found = Teaching(CACHED, encoder(), NOTHING, torch.float32).answers(TOKENS.collate(ROWS), ROWS)
    assert found.logits.tolist() == [[6, 7], [14, 15], [2, 3]]
    assert found.first is None
    assert found.states == ()
    found = Teaching(CACHED, None, Need.CACHE, torch.float32).answers(TOKENS.collate(ROWS), ROWS)
    assert found.first.shape == (3, 2, 32)


def test_the_live_teacher_says_its_own_states_of_all_tokens_without_dropout_and_gradients():
    teacher, batch = encoder().train(), TOKENS.collate(ROWS)
    teaching = Teaching(CACHED, teacher, Need.LIVE | Need.STATES, torch.float32)
    found = teaching.answers(batch, ROWS)
    with torch.no_grad():
        expected = encoder()(*batch, hidden_states=True)[1]
    assert all(torch.equal(a, b) for a, b in zip(found.states, expected, strict=True))
    assert not any(state.requires_grad for state in (*found.states, found.scores(0)))
    assert teacher.training
    assert all(parameter.requires_grad for parameter in teacher.parameters())
    assert teaching.seconds > 0


def test_the_live_teacher_computes_in_the_type_of_the_run_and_is_left_in_its_own():
    teacher = encoder()
    found = Teaching(None, teacher, Need.LIVE, torch.bfloat16).answers(TOKENS.collate(ROWS), ROWS)
    assert found.logits is None
    assert found.states[-1].dtype == torch.bfloat16
    assert teacher.head.out.weight.dtype == torch.float32


@pytest.mark.parametrize("live", [False, True])
def test_a_trial_runs_the_teacher_of_its_bundle_where_the_recipe_lets_it(
    live: bool, tiny_recipe: dict[str, Any], tiny_teacher: Path, tmp_path: Path
) -> None:
    knobs: dict[str, Any] = {"alpha": 0.1, "temperature": 2.0, "hidden": 0.0, "live": live}
    if live:
        knobs |= {"layer_map": "skip", "tokens": 1.0, "attention": 0.1, "relation": 0.0, "cosine": 1.0}
        knobs |= {"similarity": 0.0, "embedding": 0.0, "contrastive": 0.1}
    tiny_recipe |= {"teacher": {"model": str(tiny_teacher)}, "compress": {"distillation": knobs, "tuning": {}}}
    folder = RunFolder(tmp_path / "run")
    folder.create()
    bundle = prepare(Recipe.model_validate(tiny_recipe), folder, Silent()).bundle
    genes = {"keep_1": True, "keep_2": False, "hidden": 16, "ffn": 32, "tuning.mode": "lora", "tuning.rank": 4}
    genes |= {"tuning.targets": "all", "tuning.l2": 0.0, "tuning.l1": 0.0, "tuning.l2_sp": 0.1}
    train = TrainSettings(epochs=0.5, share=0.5).model_dump()
    result = train_student(Task("t", "train", {"genes": genes, "seed": 0, "train": train, "deliver": False}), bundle)
    assert ("teacher_share" in result["curves"]) == live
    assert all(0 < share < 1 for share in result["curves"].get("teacher_share", ()))
    reports = {report["compressor"]: report for report in result["reports"]}
    assert reports["distillation"]["figures"]["live"] == live
    assert reports["tuning"]["figures"]["learned"] < 0.5 * reports["tuning"]["figures"]["parameters"]
