"""What every row of the family table promises to the engine."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compressors.importance import score_importance
from search_spaces.families import FAMILIES
from search_spaces.families.importance import Importance
from search_spaces.seeding import rng_for
from tests.search_spaces.families.tiny import padded_batch, save_tiny_hf

LABELS = ("a", "b", "c")
CASES = [(family, mode) for family in FAMILIES for mode in ("uniform", "per_layer")]


@pytest.fixture(params=CASES, ids=["-".join(case) for case in CASES])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Any, str]:
    save_tiny_hf("bert", tmp_path)
    family = FAMILIES.load(request.param[0])()
    return family, family.load(str(tmp_path), LABELS)[0], request.param[1]


def importance_of(teacher: Any) -> Importance:
    batch = padded_batch()
    inputs = batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]
    return score_importance(teacher, [(inputs, torch.tensor([0, 1, 2, 0]))])


def test_first_candidates_are_canonical_different_and_of_the_space(case: tuple[Any, Any, str]) -> None:
    family, teacher, mode = case
    space, first = family.space(teacher.config, mode), family.warm_start(teacher.config, mode)
    assert all(space.canonical(genes) == genes for genes in first)
    assert len({space.key(genes) for genes in first}) == len(first) >= 3


def test_different_genes_are_different_students_and_survive_json(case: tuple[Any, Any, str]) -> None:
    family, teacher, mode = case
    space = family.space(teacher.config, mode)
    shapes = {}
    for number in range(60):
        genes = space.sample(rng_for(number, "genes"))
        architecture = family.architecture(teacher.config, genes, mode)
        shapes.setdefault(space.key(genes), set()).add(architecture)
        assert type(architecture).from_json(json.loads(json.dumps(architecture.to_json()))) == architecture
    assert all(len(same) == 1 for same in shapes.values())
    assert len({next(iter(same)) for same in shapes.values()}) == len(shapes)


def test_costs_are_finite_and_the_smallest_first_candidate_is_cheaper_than_the_teacher(
    case: tuple[Any, Any, str],
) -> None:
    family, teacher, mode = case
    smallest = family.architecture(teacher.config, family.warm_start(teacher.config, mode)[1], mode).config
    assert family.macs(smallest, 16) < family.macs(teacher.config, 16)
    assert family.parameters(smallest) < family.parameters(teacher.config)
    values = [family.features(config, 16) for config in (smallest, teacher.config)]
    assert list(values[0]) == list(values[1])
    assert np.isfinite([list(v.values()) for v in values]).all()


def test_a_widened_student_is_built_wide(case: tuple[Any, Any, str]) -> None:
    family, teacher, mode = case
    narrow = family.architecture(teacher.config, family.warm_start(teacher.config, mode)[1], mode)
    wide = family.build(teacher, family.widen(narrow, teacher.config), importance_of(teacher))
    assert wide.config.depth == narrow.config.depth
    assert wide.layers[0].up.out_features == teacher.config.ffn[0]
