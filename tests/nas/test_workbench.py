from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compressors.distillation import Distillation
from nas.bundle import Outputs
from nas.data.tokenize import tokenize
from nas.executor import Task
from nas.outputs import accuracy
from nas.prepare import Prepared, prepare
from nas.progress import Silent
from nas.recipe import Recipe
from nas.run_folder import RunFolder
from nas.spelling import tokenizer_from_json
from nas.trial import measure_shapes, train_student
from nas.workbench import Plan, workbench
from search_spaces.errors import ConfigError
from tests.compressors.methods import Shallow, methods

__all__ = ["methods"]
pytestmark = pytest.mark.usefixtures("methods")


@pytest.fixture
def recipe(tiny_recipe: dict[str, Any], tiny_teacher: Path) -> dict[str, Any]:
    return {**tiny_recipe, "teacher": {"model": str(tiny_teacher)}}


def prepared(recipe: dict[str, Any], path: Path, compress: dict[str, Any]) -> Prepared:
    folder = RunFolder(path)
    folder.create()
    return prepare(Recipe.model_validate({**recipe, "compress": compress}), folder, Silent())


def task(genes: dict[str, Any], **spec: Any) -> Task:
    train = {"epochs": 0.5}
    return Task("t", "train", {"genes": genes, "seed": 0, "train": train, "deliver": True, **spec})


def test_model_steps_act_before_the_training_unless_they_round_or_are_listed_after_it(recipe, tmp_path, methods):
    found = prepared(recipe, tmp_path, {"shallow": {"layers": 1}, "rounding": {}, "int8": {"enabled": False}})
    genes = found.candidates.warm_start()[0]
    result = train_student(task(genes), found.bundle)
    assert methods == ["shallow", "rounding"]
    assert [report["compressor"] for report in result["reports"]] == ["shallow", "rounding", "int8"]
    assert len(result["architecture"]["config"]["heads"]) == 2
    assert result["metrics"]["accuracy"] == result["metrics"]["accuracy_fp32"]
    later = prepared(recipe, tmp_path, {"distillation": {"hidden": 0.0}, "shallow": {"layers": 1}})
    methods.clear()
    bench = workbench(later.bundle)
    before = train_student(task(later.candidates.warm_start()[0]), later.bundle)
    assert len(before["architecture"]["config"]["heads"]) == 2
    assert bench.candidates.steps({})[1].name == "shallow"


def test_metrics_are_those_of_the_student_as_it_is_delivered(recipe, tmp_path):
    found = prepared(recipe, tmp_path, {"distillation": {"hidden": 0.0}, "shallow": {"layers": 1}})
    genes = found.candidates.warm_start()[0]
    metrics = train_student(task(genes), found.bundle)["metrics"]
    told = found.candidates.known(genes, found.n_tokens)
    config = Shallow(1).shape(found.candidates.architecture(genes).config)
    assert metrics["macs"] == told.macs == found.candidates.family.macs(config, found.n_tokens)
    assert metrics["parameters"] == told.parameters == found.candidates.family.parameters(config)


def test_what_candidates_begin_with_is_shared(recipe, tmp_path, methods):
    found = prepared(recipe, tmp_path, {"shallow": {}, "distillation": {"hidden": 0.0}, "int8": {}})
    genes = {**found.candidates.warm_start()[0], "shallow.layers": 1}
    for enabled in (False, True):
        train_student(task({**genes, "int8.enabled": enabled}), found.bundle)
    assert methods == ["shallow"]
    train_student(task({**genes, "shallow.layers": 0}), found.bundle)
    assert methods == ["shallow", "shallow"]


def test_a_training_in_two_parts_repeats_the_steps_before_it_and_keeps_the_steps_after_it_out(recipe, tmp_path):
    found = prepared(recipe, tmp_path, {"shallow": {"layers": 1}, "distillation": {"hidden": 0.0}, "rounding": {}})
    genes = found.candidates.warm_start()[0]
    first = train_student(task(genes, rung=(0.0, 0.5)), found.bundle)
    whole = task(genes, rung=(0.5, 1.0))
    whole.blobs["checkpoint"] = first["checkpoint"]
    second = train_student(whole, found.bundle)
    assert len(second["architecture"]["config"]["heads"]) == 2
    assert [report["compressor"] for report in second["reports"]] == ["shallow", "distillation", "rounding"]
    assert "checkpoint" not in second


def test_untrained_shapes_are_compressed_alike_for_the_profile(recipe, tmp_path):
    found = prepared(recipe, tmp_path, {"shallow": {}, "distillation": {"hidden": 0.0}, "int8": {}})
    genes = found.candidates.warm_start()[0]
    whole, cut = ({**genes, "shallow.layers": n, "int8.enabled": False} for n in (0, 1))
    spec = {"candidates": [whole, cut], "tokens": 8, "quick": True}
    sizes = [row["size_bytes"] for row in measure_shapes(Task("m", "measure", spec), found.bundle)["measurements"]]
    lost = [found.candidates.known(each, 8).parameters for each in (whole, cut)]
    assert sizes[0] - sizes[1] == pytest.approx(4 * (lost[0] - lost[1]), rel=0.1)


def test_a_method_that_tells_its_shape_makes_no_variants_and_another_does(recipe, tmp_path, monkeypatch):
    found = prepared(recipe, tmp_path, {"shallow": {}, "int8": {}}).candidates
    genes = found.warm_start()[0]
    assert {found.variant(each) for each in found.variants(genes)} == {
        "fp32", "int8(per_channel=True)", "int8(per_channel=False)",
    }  # fmt: skip
    assert found.known({**genes, "shallow.layers": 1}, 8).macs < found.known({**genes, "shallow.layers": 0}, 8).macs
    monkeypatch.delattr(Shallow, "shape")
    other = {found.variant(each) for each in found.variants(genes)}
    assert {"shallow(layers=0)", "shallow(layers=1)", "shallow(layers=1)+int8(per_channel=True)"} < other


def test_knobs_that_cost_nothing_make_no_variants(recipe, tmp_path):
    compress = {"static_int8": {"enabled": True, "exclude": ""}, "half": {}}
    found = prepared(recipe, tmp_path, compress).candidates
    genes = {**found.warm_start()[0], "static_int8.calibration": "entropy", "half.format": "bfloat16"}
    made = found.variants({**genes, "half.enabled": True})
    assert {found.variant(each) for each in made} == {
        "static_int8(per_channel=True)", "static_int8(per_channel=False)",
        "static_int8(per_channel=True)+half", "static_int8(per_channel=False)+half",
    }  # fmt: skip
    assert {each["static_int8.calibration"] for each in made} == {"entropy"}
    assert {each.get("half.format") for each in made} == {"bfloat16", None}


def test_knobs_that_make_no_variants_change_neither_nodes_nor_bytes(recipe, tmp_path):
    found = prepared(recipe, tmp_path, {"static_int8": {"exclude": ""}, "half": {}})
    knobs = {"static_int8.enabled": True, "static_int8.per_channel": True, "half.enabled": True}
    spec = {"tokens": 8, "quick": True, "candidates": []}
    for calibration, kind in (("min_max", "float16"), ("entropy", "float16"), ("mse", "bfloat16")):
        chosen = {**knobs, "static_int8.calibration": calibration, "half.format": kind}
        spec["candidates"].append({**found.candidates.warm_start()[0], **chosen})
    rows = measure_shapes(Task("m", "measure", spec), found.bundle)["measurements"]
    assert max(row["size_bytes"] for row in rows) == pytest.approx(min(row["size_bytes"] for row in rows), rel=0.01)


def test_a_student_with_fewer_words_is_trained_scored_and_delivered_with_them(recipe, tmp_path):
    found = prepared(recipe, tmp_path, {"words": {}, "distillation": {"hidden": 0.0}, "int8": {"enabled": True}})
    genes = found.candidates.warm_start()[0]
    train = found.bundle.train
    counts = np.bincount(train.ids, minlength=94)
    bundle = replace(found.bundle, train=train.subset(np.arange(8)), outputs=Outputs(found.bundle.outputs.logits[:8]))
    result = train_student(task(genes), replace(bundle, fingerprint="few rows"))
    n_words = result["architecture"]["config"]["vocab_size"]
    assert n_words < 94 == len(counts)
    tokenizer = tokenizer_from_json(result["tokenizer"])
    assert len(tokenizer) == n_words
    assert tokenizer.unk_token == "[UNK]"
    artefact, tokens = result["artefact"], tokenize(tokenizer, found.data.validation, 64)
    said = workbench(replace(bundle, fingerprint="few rows")).device.predict(artefact, tokens, 1)
    assert result["metrics"]["accuracy"] == accuracy(said, tokens)


def test_a_live_teacher_reads_the_words_of_the_student(recipe, tmp_path):
    loss = {"hidden": 0.0, "live": True, "layer_map": "last", "tokens": 1.0}
    loss |= {"attention": 0.0, "relation": 0.0, "cosine": 0.0, "similarity": 0.0}
    loss |= {"embedding": 0.0, "contrastive": 0.0}
    found = prepared(recipe, tmp_path, {"words": {}, "distillation": loss})
    rows, outputs = found.bundle.train.subset(np.arange(8)), Outputs(found.bundle.outputs.logits[:8])
    bundle = replace(found.bundle, train=rows, outputs=outputs, fingerprint="few rows, live")
    bench, genes = workbench(bundle), found.candidates.warm_start()[0]
    state = bench.build(found.candidates.architecture(genes), Plan.of(found.candidates.steps(genes)).before)
    teacher = state.live_teacher(bench.teacher, Distillation(**loss))
    assert teacher.config.vocab_size == state.model.config.vocab_size < bench.teacher.config.vocab_size
    assert torch.equal(teacher.embeddings.word.weight, bench.teacher.embeddings.word.weight[state.spelling.kept])
    assert state.live_teacher(bench.teacher, Distillation()) is bench.teacher
    curves = train_student(task(genes), bundle)["curves"]
    assert curves["teacher_share"][0] > 0


def test_a_search_refuses_an_impossible_order_and_two_trainings(recipe, tmp_path):
    with pytest.raises(ConfigError, match="'shallow' cannot follow 'rounding'"):
        prepared(recipe, tmp_path / "a", {"rounding": {}, "shallow": {}})
    with pytest.raises(ConfigError, match="'weight_pruning' cannot follow 'distillation': a student of a search is"):
        prepared(recipe, tmp_path / "b", {"distillation": {}, "shallow": {}, "weight_pruning": {}})


@pytest.mark.parametrize("open_knobs", [{}, {"end": 0.5}, {"schedule": "cubic"}])
def test_gradual_pruning_of_factored_layers_is_refused_before_anything_starts(recipe, tmp_path, open_knobs):
    later = {"distillation": {}, "structured_pruning": open_knobs}
    with pytest.raises(ConfigError, match="'structured_pruning' cannot follow 'low_rank': it cuts layers"):
        prepared(recipe, tmp_path / "a", {"low_rank": {}, **later})
    with pytest.raises(ConfigError, match="'structured_pruning' cannot follow 'layer_sharing'"):
        prepared(recipe, tmp_path / "b", {"layer_sharing": {}, **later})
    narrowed = {**recipe, "space": {"genes": {"low_rank.which": ["embeddings"]}}}
    assert prepared(narrowed, tmp_path / "c", {"low_rank": {}, **later}).candidates.space.size > 1
    once = {**later, "structured_pruning": {"schedule": "oneshot"}}
    assert prepared(recipe, tmp_path / "d", {"low_rank": {}, **once}).candidates.space.size > 1


def test_gradual_pruning_reaches_its_target_after_a_model_step(recipe, tmp_path):
    pruning = {"schedule": "cubic", "criterion": "magnitude", "end": 0.5}
    steps = {"rounding": {}, "distillation": {"hidden": 0.0}, "structured_pruning": pruning}
    compress = {name: steps[name] for name in ("distillation", "structured_pruning", "rounding")}
    found = prepared(recipe, tmp_path, compress)
    genes = found.candidates.warm_start()[1]
    result = train_student(task(genes), found.bundle)
    wanted = found.candidates.architecture(genes).config
    assert result["architecture"]["config"]["ffn"] == list(wanted.ffn)
