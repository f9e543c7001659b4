from pathlib import Path
from typing import Any

import pytest

from nas.executor import Task
from nas.prepare import Prepared, prepare
from nas.progress import Silent
from nas.recipe import Recipe
from nas.run_folder import RunFolder
from nas.trial import measure_shapes, train_student
from nas.workbench import workbench
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


def test_a_search_refuses_an_impossible_order_and_two_trainings(recipe, tmp_path):
    with pytest.raises(ConfigError, match="'shallow' cannot follow 'rounding'"):
        prepared(recipe, tmp_path / "a", {"rounding": {}, "shallow": {}})
    with pytest.raises(ConfigError, match="'weight_pruning' cannot follow 'distillation': a student of a search is"):
        prepared(recipe, tmp_path / "b", {"distillation": {}, "shallow": {}, "weight_pruning": {}})


def test_gradual_pruning_reaches_its_target_after_a_model_step(recipe, tmp_path):
    pruning = {"schedule": "cubic", "criterion": "magnitude", "end": 0.5}
    steps = {"rounding": {}, "distillation": {"hidden": 0.0}, "structured_pruning": pruning}
    compress = {name: steps[name] for name in ("distillation", "structured_pruning", "rounding")}
    found = prepared(recipe, tmp_path, compress)
    genes = found.candidates.warm_start()[1]
    result = train_student(task(genes), found.bundle)
    wanted = found.candidates.architecture(genes).config
    assert result["architecture"]["config"]["ffn"] == list(wanted.ffn)
