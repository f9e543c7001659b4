import copy
from itertools import chain
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from compressors.steps import Step
from nas.devices.base import Measurement
from nas.lab import Lab, compress_model, open_lab
from nas.measures import bits_remarks, measure, pruning_remarks
from nas.outputs import accuracy, predict_logits
from nas.progress import Silent, Snapshot
from nas.recipe import Recipe
from nas.run_folder import RunFolder
from search_spaces.errors import ConfigError
from tests.compressors.methods import methods

__all__ = ["methods"]


class Heard(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.phases: list[Snapshot] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def warn(self, line: str) -> None:
        self.lines.append(f"warning: {line}")

    def show(self, snapshot: Snapshot) -> None:
        self.phases.append(snapshot)

    def steps_of(self, phase: str) -> int:
        """Return how many steps of a training run were shown."""
        return sum(snapshot.phase == phase and snapshot.done > 0 for snapshot in self.phases)


def steps(*texts: str) -> list[Step]:
    return [Step.parse(text) for text in texts]


@pytest.fixture
def recipe(tiny_teacher: Path, tiny_data: Path) -> Recipe:
    return Recipe.model_validate(
        {
            "teacher": {"model": str(tiny_teacher)},
            "data": {"source": str(tiny_data), "validation_share": 0.2},
            "finalize": {"train": {"epochs": 0.5}},
        }
    )


@pytest.fixture
def lab(recipe: Recipe, tmp_path: Path, methods: list[str]) -> Lab:
    return open_lab(recipe, RunFolder(tmp_path / "lab"), Heard())


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_steps_act_in_order_and_the_teacher_stays(lab: Lab, methods: list[str]) -> None:
    before = copy.deepcopy(lab.teacher)
    made = compress_model(lab, steps("shallow", "distillation", "weight_pruning:sparsity=0.5", "rounding", "int8"))
    assert methods == ["shallow", "rounding", "rounding"]  # rehearsed, then in earnest
    assert [report.compressor for report in made.reports] == [
        "shallow", "distillation", "weight_pruning", "rounding", "int8",
    ]  # fmt: skip
    assert made.model.config.depth == 2
    weight = made.model.layers[0].up.weight
    assert torch.equal(weight * 64, (weight * 64).round())
    assert list(made.seconds) == ["shallow", "distillation+weight_pruning", "rounding", "export"]
    assert same(before, lab.teacher)


def test_static_int8_takes_the_ranges_that_training_learned_also_from_the_cache(lab: Lab) -> None:
    wanted = steps("distillation", "quantization_aware:activations=learned", "static_int8")
    first, again = compress_model(lab, wanted), compress_model(lab, wanted)
    assert again.reused == ("distillation", "quantization_aware")
    assert again.artefact == first.artefact
    assert again.reports == first.reports
    training, file = first.reports[1:]
    n_tensors = len(training.ranges) - 2 * (lab.teacher.config.depth - 1) - 1  # one for query, key and value
    assert file.figures["ranges_learned"] == n_tensors
    assert compress_model(lab, steps("static_int8")).reports[-1].figures.get("ranges_learned") is None


def test_a_training_step_without_a_loss_gets_the_default_distillation(lab: Lab) -> None:
    alone = compress_model(lab, steps("weight_pruning:sparsity=0.5"))
    together = compress_model(lab, steps("distillation", "weight_pruning:sparsity=0.5"))
    assert same(alone.model, together.model)
    assert [report.compressor for report in alone.reports] == ["distillation", "weight_pruning"]


def test_cutting_and_learning_may_take_turns(lab: Lab) -> None:
    turn = ("unit_pruning:ffn=0.3", "distillation")
    made = compress_model(lab, steps(*turn, *turn, "int8"))
    before, once, twice = (lab.teacher.config.ffn[0], made.reports[0], made.reports[2])
    assert [report.compressor for report in made.reports] == ["unit_pruning", "distillation"] * 2 + ["int8"]
    assert made.model.config.ffn[0] <= 0.55 * before
    assert once.changed[0].after == twice.changed[0].before


def test_no_steps_are_the_teacher_itself(lab: Lab) -> None:
    made = compress_model(lab, [])
    assert made.artefact == lab.reference
    assert same(made.model, lab.teacher)


def test_the_teacher_is_run_over_the_rows_only_when_something_learns(lab: Lab) -> None:
    compress_model(lab, steps("shallow", "int8"))
    assert not list(lab.folder.teacher.glob("*.npy"))
    compress_model(lab, steps("shallow", "distillation"))
    assert len(list(lab.folder.teacher.glob("*.npy"))) == 1


def test_a_shared_prefix_is_not_computed_again(lab: Lab, methods: list[str]) -> None:
    heard = lab.progress
    first = compress_model(lab, steps("shallow", "distillation", "int8"))
    trained = heard.steps_of("distillation")
    assert trained > 0
    second = compress_model(lab, steps("shallow", "distillation", "rounding", "int8:per_channel=false"))
    assert heard.lines[-2] == "reused: shallow, distillation"
    assert second.reused == ("shallow", "distillation")
    assert heard.steps_of("distillation") == trained
    assert methods == ["shallow", "rounding"]
    assert second.reports[:2] == first.reports[:2]


def test_what_comes_from_the_cache_is_what_was_computed(recipe: Recipe, tmp_path: Path, methods: list[str]) -> None:
    wanted = steps("shallow", "distillation", "weight_pruning:sparsity=0.5", "int8")
    first = compress_model(open_lab(recipe, RunFolder(tmp_path / "lab"), Heard()), wanted, seed=3)
    again = compress_model(open_lab(recipe, RunFolder(tmp_path / "lab"), Heard()), wanted, seed=3)
    fresh = compress_model(open_lab(recipe, RunFolder(tmp_path / "other"), Heard()), wanted, seed=3)
    assert again.reused
    assert not fresh.reused
    assert first.artefact == again.artefact == fresh.artefact
    assert first.reports == again.reports == fresh.reports


def test_another_seed_budget_or_knob_is_other_work(lab: Lab, recipe: Recipe) -> None:
    compress_model(lab, steps("shallow", "distillation"))
    assert not compress_model(lab, steps("shallow", "distillation"), seed=1).reused
    assert compress_model(lab, steps("shallow", "distillation:alpha=0.5")).reused == ("shallow",)
    longer = recipe.model_copy(
        update={"finalize": recipe.finalize.model_copy(update={"train": lab.train.model_copy(update={"epochs": 1.0})})}
    )
    assert compress_model(open_lab(longer, lab.folder, Heard()), steps("shallow", "distillation")).reused == (
        "shallow",
    )


def test_a_damaged_entry_is_said_and_made_again(lab: Lab) -> None:
    first = compress_model(lab, steps("distillation"))
    (path,) = lab.folder.cache.glob("*/model.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"\x7f")
    again = compress_model(lab, steps("distillation"))
    assert again.reused == ()
    assert any("is damaged" in line and line.startswith("warning: cache: ") for line in lab.progress.lines)
    assert again.artefact == first.artefact
    assert path.read_bytes() == content
    assert compress_model(lab, steps("distillation")).reused == ("distillation",)


def test_an_entry_without_its_end_is_made_again(lab: Lab) -> None:
    compress_model(lab, steps("distillation"))
    (path,) = lab.folder.cache.glob("*/nas_manifest.json")
    path.unlink()
    assert compress_model(lab, steps("distillation")).reused == ()


def test_a_model_that_its_weights_do_not_make_is_not_cached(lab: Lab, methods: list[str]) -> None:
    for _ in range(2):
        assert compress_model(lab, steps("hooked")).reused == ()
    assert methods == ["hooked", "hooked"]
    assert any("is not kept" in line for line in lab.progress.lines)


def test_a_pruned_vocabulary_says_the_same_of_covered_texts_and_reaches_every_later_step(lab: Lab) -> None:
    made = compress_model(lab, steps("words:least=25"))
    rows, ours = lab.prepared.bundle.validation, made.tokens(lab.prepared.bundle.validation)
    assert made.spelling is not None
    assert made.model.config.vocab_size == len(made.spelling.kept) < lab.teacher.config.vocab_size
    covered = np.array([np.isin(rows.subset(np.array([i])).ids, made.spelling.kept).all() for i in range(len(rows))])
    assert 0 < covered.sum() < len(rows)
    said, wanted = (lab.device.predict(a, t, 1) for a, t in ((made.artefact, ours), (lab.reference, rows)))
    np.testing.assert_allclose(said[covered], wanted[covered], atol=1e-6)
    assert abs(said - wanted)[~covered].max() > 1e-5
    texts = [text for (text,) in lab.prepared.data.validation.texts]
    assert made.tokens(rows).ids.tolist() == list(chain.from_iterable(made.tokenizer(texts)["input_ids"]))
    again = compress_model(lab, steps("words:least=25", "words:least=30", "distillation", "int8"))
    assert again.reused == ("words",)
    assert len(again.tokenizer) == again.model.config.vocab_size < made.model.config.vocab_size
    assert again.tokens(rows).ids.tolist() == list(chain.from_iterable(again.tokenizer(texts)["input_ids"]))
    assert 0 <= measure(lab, again, quick=True).student.accuracy <= 1


def test_an_impossible_order_is_refused_before_anything_is_computed(lab: Lab, methods: list[str]) -> None:
    with pytest.raises(ConfigError, match="'distillation' cannot follow 'rounding'"):
        compress_model(lab, steps("shallow", "rounding", "distillation"))
    with pytest.raises(ConfigError, match="unit_pruning"):
        compress_model(lab, steps("shallow", "structured_pruning"))
    assert methods == []


def test_an_error_in_a_later_step_is_found_before_the_training(lab: Lab) -> None:
    with pytest.raises(ConfigError, match="0 of 3 layers"):
        compress_model(lab, steps("shallow", "distillation", "failing"))
    assert len(list(lab.folder.cache.iterdir())) == 1
    assert lab.progress.steps_of("distillation") == 0
    assert "teacher: running once over the training rows" not in lab.progress.lines


def test_a_folder_of_another_teacher_or_other_data_is_refused(lab: Lab, recipe: Recipe) -> None:
    shorter = recipe.model_copy(update={"data": recipe.data.model_copy(update={"max_length": 8})})
    with pytest.raises(ConfigError, match="holds the work of teacher"):
        open_lab(shorter, lab.folder, Heard())


def test_material_is_the_seeds_and_counts_the_whole_corpus(lab: Lab) -> None:
    one, again, other = lab.material(1), lab.material(1), lab.material(2)
    assert all(torch.equal(a[0][0], b[0][0]) for a, b in zip(one.batches, again.batches, strict=True))
    assert not all(torch.equal(a[0][0], b[0][0]) for a, b in zip(one.batches, other.batches, strict=False))
    assert one.corpus is not None
    assert one.corpus.sum() == len(lab.prepared.bundle.train.ids)


def test_the_report_equals_an_independent_recount(lab: Lab) -> None:
    made = compress_model(lab, steps("shallow", "weight_pruning:sparsity=0.5"))
    told = measure(lab, made, quick=True).to_json()
    constants = [numpy_helper.to_array(each) for each in onnx.load_from_string(made.artefact).graph.initializer]
    weights = [each for each in constants if each.dtype == np.float32]
    assert told["student"]["parameters"] == sum(each.size for each in weights)
    assert told["student"]["nonzeros"] == sum(np.count_nonzero(each) for each in weights)
    assert told["student"]["size_bytes"] == len(made.artefact)
    for part in ("parameters", "nonzeros", "macs"):
        assert sum(layer[part] for layer in told["layers"]) == told["student"][part]
    assert told["student"]["macs"] == counted_macs(made.model, lab.prepared.n_tokens)
    tokens = lab.prepared.bundle.validation
    assert told["student"]["accuracy"] == accuracy(lab.device.predict(made.artefact, tokens, 1), tokens)
    assert told["student"]["accuracy_torch"] == accuracy(predict_logits(made.model, tokens), tokens)
    assert told["reports"][0]["changed"][0]["before"] == sum(p.numel() for p in lab.teacher.parameters())


def counted_macs(model: torch.nn.Module, n_tokens: int) -> int:
    """Count the products of every Linear with hooks, and those of attention by hand."""
    counts: list[int] = []
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(
                lambda linear, given, out: counts.append(given[0].numel() * linear.out_features)
            )
    copy.deepcopy(model)(torch.ones(1, n_tokens, dtype=torch.long))
    asking = [n_tokens] * (model.config.depth - 1) + [1]
    return sum(counts) + sum(2 * each * n_tokens * model.config.hidden for each in asking)


def measured(median_ms: float, reference_ms: float = 2.0) -> Measurement:
    low, high = 0.99 * median_ms, 1.01 * median_ms
    ratio = reference_ms / median_ms
    return Measurement(median_ms, high, low, high, 100, reference_ms, ratio, False, False, 1.0, 1000)


def test_zeros_and_missing_weights_that_save_no_time_are_said_to(lab: Lab) -> None:
    sparse = compress_model(lab, steps("weight_pruning:sparsity=0.7")).model
    shallow = compress_model(lab, steps("shallow")).model
    assert pruning_remarks(lab.teacher, sparse, measured(1.99))[0].startswith("pruned but not faster: 5")
    assert pruning_remarks(lab.teacher, shallow, measured(2.1))[0].startswith("smaller but not faster: 27%")
    assert pruning_remarks(lab.teacher, shallow, measured(1.3)) == []
    assert pruning_remarks(lab.teacher, lab.teacher, measured(2.0)) == []


@pytest.mark.usefixtures("methods")
def test_what_fewer_bits_did_to_the_time_is_said_and_what_is_only_simulated() -> None:
    (slower,) = bits_remarks(steps("int8"), measured(1.0), measured(1.5))
    assert slower.startswith("int8: 1.50x slower here")
    (simulated,) = bits_remarks(steps("distillation", "rounding"), measured(1.0), measured(1.0))
    assert simulated.startswith("rounding: simulated")
    assert bits_remarks(steps("distillation"), measured(1.0), measured(1.0)) == []


def test_both_files_are_measured_where_the_artefact_is_rewritten(lab: Lab) -> None:
    measures = measure(lab, compress_model(lab, steps("int8")), quick=True)
    assert measures.final.size_bytes == measures.student.size_bytes < measures.plain.size_bytes
    assert measures.student.bits_per_weight < 16 < measures.teacher.bits_per_weight
    assert measures.remarks[-1].startswith("int8: ")


def test_a_device_whose_files_are_closed_is_refused_before_anything_is_made(recipe: Recipe, tmp_path: Path) -> None:
    closed = Recipe.model_validate({**recipe.model_dump(), "device": {"name": "phone", "backend": "executorch"}})
    with pytest.raises(ConfigError, match=r"device 'phone': runs model\.pte, whose weights cannot be looked at"):
        open_lab(closed, RunFolder(tmp_path / "lab"), Silent())
    assert not (tmp_path / "lab").exists()
