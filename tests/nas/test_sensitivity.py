from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from compressors.importance import score_importance
from nas.candidates import Candidates
from nas.data.tokens import Tokens
from nas.objectives import Constraint
from nas.outputs import divergence, predict_logits
from nas.recipe import Recipe
from nas.seeds import seeds
from nas.sensitivity import sensitivity, shape_changes, teacher_shape
from search_spaces.families.encoder_model import TextEncoder
from search_spaces.seeding import rng_for
from tests.nas.phases import TEACHER, candidates, known


def token_rows(n: int = 48) -> Tokens:
    rng = rng_for(0, "token rows")
    lengths = rng.integers(4, 12, n)
    ids = rng.integers(4, 94, lengths.sum()).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Tokens(ids, np.zeros(len(ids), np.uint8), offsets, rng.integers(0, 2, n))


def teacher(idle_layer: int | None = None) -> TextEncoder:
    """A random teacher whose every unit matters, but for those of one layer."""
    torch.manual_seed(0)
    model = TextEncoder(TEACHER).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
        for part in (model.layers[idle_layer].out, model.layers[idle_layer].down) if idle_layer is not None else ():
            part.weight.mul_(1e-4)
            part.bias.mul_(1e-4)
    return model


ROWS = token_rows()


@cache
def without_work_in(made: Candidates, layer: int) -> dict[str, dict[Any, float]]:
    return damages_of(made, teacher(layer))


def damages_of(made: Candidates, model: TextEncoder) -> dict[str, dict[Any, float]]:
    batch = [(tuple(ROWS.collate(np.arange(len(ROWS)))), torch.from_numpy(ROWS.labels))]
    base = teacher_shape(made)
    assert base is not None
    importance = score_importance(model, batch, "first_order")
    return sensitivity(made, base, model, importance, ROWS, predict_logits(model, ROWS))


@pytest.fixture(scope="module", params=["uniform", "per_layer"])
def made(request: pytest.FixtureRequest) -> Candidates:
    return candidates(space={"mode": request.param}, compress={"distillation": {}})


@pytest.fixture(scope="module")
def damages(made: Candidates) -> dict[str, dict[Any, float]]:
    return damages_of(made, teacher())


def test_every_value_of_every_gene_of_the_shape_has_a_damage_and_the_teachers_own_is_harmless(
    made: Candidates, damages: dict[str, dict[Any, float]]
) -> None:
    base = teacher_shape(made)
    assert base is not None
    assert set(damages) == {gene for gene in made.shape_genes if made.space.dimensions[gene].size > 1}
    for gene, values in damages.items():
        assert tuple(values) == made.space.dimensions[gene].values
        assert values.pop(base[gene]) == 0
        assert all(damage > 1e-4 for damage in values.values()), gene
        values[base[gene]] = 0.0


def test_damage_never_falls_with_the_distance_from_the_teachers_value(
    made: Candidates, damages: dict[str, dict[Any, float]]
) -> None:
    for gene, values in damages.items():
        if not gene.startswith("keep_"):
            in_order = [values[value] for value in made.space.dimensions[gene].values]  # the teacher's is the last
            assert in_order == sorted(in_order, reverse=True), gene


def test_the_damage_of_a_lost_layer_is_the_divergence_of_the_teacher_without_it() -> None:
    made, model = candidates(), teacher()
    without = teacher()
    without.layers = torch.nn.ModuleList([model.layers[0], model.layers[2]])
    expected = divergence(predict_logits(model, ROWS), predict_logits(without, ROWS))
    assert damages_of(made, model)["keep_1"][False] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("idle", [1, 2])
def test_a_layer_that_does_nothing_is_cheaper_to_lose_than_one_that_works(made: Candidates, idle: int) -> None:
    found = without_work_in(made, idle)
    assert 100 * found[f"keep_{idle}"][False] < found[f"keep_{3 - idle}"][False]


@pytest.mark.parametrize("idle", [1, 2])
@pytest.mark.parametrize("share", [35, 50, 70])
def test_seeds_keep_to_the_budget_and_lose_the_idle_layer_first(made: Candidates, idle: int, share: int) -> None:
    limits = [Constraint.parse(f"latency_ms <= {share}%")]
    base, profile = teacher_shape(made), known(made)
    assert base is not None
    found = seeds(profile, base, without_work_in(made, idle), limits)
    assert found or made.mode == "uniform"  # whose answer may be in the ladder
    for genes in found:
        assert profile.metrics(genes)["latency_ms"] <= limits[0].limit(profile.teacher)
        assert profile.shortfall(genes, limits) <= 0
        assert not genes[f"keep_{idle}"] or genes[f"keep_{3 - idle}"]
        assert made.space.canonical(genes) == genes


def test_seeds_of_several_budgets_are_new_and_get_faster(
    made: Candidates, damages: dict[str, dict[Any, float]]
) -> None:
    base, profile = teacher_shape(made), known(made)
    assert base is not None
    found = seeds(profile, base, damages, [])
    keys = [made.space.key(genes) for genes in found]
    assert found
    assert len(set(keys)) == len(keys)
    assert not set(keys) & {made.space.key(genes) for genes in made.warm_start()}
    whole = profile.metrics(base)["latency_ms"]
    assert all(profile.fastest_ms <= profile.metrics(genes)["latency_ms"] < whole for genes in found)


def test_a_budget_that_no_student_meets_has_no_seed(made: Candidates, damages: dict[str, dict[Any, float]]) -> None:
    base = teacher_shape(made)
    assert base is not None
    assert seeds(known(made), base, damages, [Constraint.parse("latency_ms <= 0.0001")]) == []


def test_only_genes_that_count_in_the_teachers_shape_and_that_the_recipe_leaves_open_are_changed() -> None:
    made = Candidates(
        Recipe.model_validate({"space": {"mode": "per_layer", "genes": {"ffn_1": [32, 64], "keep_2": [True]}}}), TEACHER
    )
    base = teacher_shape(made)
    assert base is not None
    changes = shape_changes(made, base)
    assert changes["ffn_1"] == (32, 64)
    assert "keep_2" not in changes
    assert not any("." in gene for gene in changes)


def test_without_the_teachers_shape_there_is_nothing_to_start_from() -> None:
    assert teacher_shape(candidates(space={"genes": {"keep_1": [False]}})) is None
