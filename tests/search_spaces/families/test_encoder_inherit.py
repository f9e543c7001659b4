from pathlib import Path

import numpy as np
import pytest
import torch

from search_spaces.errors import ConfigError
from search_spaces.families.encoder_hf import from_hf
from search_spaces.families.encoder_inherit import low_rank
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder
from search_spaces.families.importance import Importance, most_important
from search_spaces.families.text_encoder import Architecture, TextEncoderFamily
from search_spaces.seeding import rng_for
from tests.search_spaces.families.tiny import MAKERS, padded_batch, save_tiny_hf

FAMILY = TextEncoderFamily()


@pytest.fixture(params=MAKERS)
def teacher(request: pytest.FixtureRequest, tmp_path: Path) -> TextEncoder:
    save_tiny_hf(request.param, tmp_path)
    return from_hf(str(tmp_path))[0]


def random_importance(config: EncoderConfig, seed: int = 0) -> Importance:
    rng = rng_for(seed, "importance")
    return Importance(
        tuple(rng.random(n) for n in config.heads),
        tuple(rng.random(n) for n in config.ffn),
        rng.random(config.hidden),
        rng.random(config.depth),
    )


def batch_for(model: TextEncoder) -> dict[str, torch.Tensor]:
    return padded_batch(model.config.pad_token_id)


def test_permuting_without_cutting_leaves_every_logit(teacher: TextEncoder) -> None:
    permuted = FAMILY.permute(teacher, random_importance(teacher.config))
    assert not torch.equal(permuted.layers[0].up.weight, teacher.layers[0].up.weight)
    difference = permuted(**batch_for(teacher)) - teacher(**batch_for(teacher))
    assert difference.abs().max() < 1e-4


@pytest.mark.parametrize("mode", ["uniform", "per_layer"])
def test_the_full_size_student_is_the_teacher(teacher: TextEncoder, mode: str) -> None:
    genes = FAMILY.warm_start(teacher.config, mode)[0]
    architecture = FAMILY.architecture(teacher.config, genes, mode)
    student = FAMILY.build(teacher, architecture, random_importance(teacher.config))
    assert student.config == teacher.config
    assert torch.equal(student(**batch_for(teacher)), teacher(**batch_for(teacher)))


@pytest.mark.parametrize("mode", ["uniform", "per_layer"])
def test_random_students_run_and_have_the_shape_of_their_config(teacher: TextEncoder, mode: str) -> None:
    space, importance = FAMILY.space(teacher.config, mode), random_importance(teacher.config)
    for number in range(12):
        genes = space.sample(rng_for(number, "student"))
        architecture = FAMILY.architecture(teacher.config, genes, mode)
        student = FAMILY.build(teacher, architecture, importance)
        expected = {name: p.shape for name, p in TextEncoder(architecture.config).state_dict().items()}
        assert {name: p.shape for name, p in student.state_dict().items()} == expected
        assert student(**batch_for(teacher)).shape == (4, 3)
        assert student.config.is_uniform or mode == "per_layer"
        assert Architecture.from_json(architecture.to_json()) == architecture


def test_a_student_can_be_trained_and_leaves_its_teacher_alone(teacher: TextEncoder) -> None:
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    genes = FAMILY.warm_start(teacher.config, "uniform")[0]
    student = FAMILY.build(
        teacher, FAMILY.architecture(teacher.config, genes, "uniform"), random_importance(teacher.config)
    )
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    student(**batch_for(teacher)).sum().backward()
    optimizer.step()
    assert not torch.equal(student.head.out.weight, teacher.head.out.weight)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_the_most_important_units_are_kept_in_the_teachers_order(teacher: TextEncoder) -> None:
    importance = random_importance(teacher.config)
    architecture = shrunk(teacher.config, layers=(0, 2), heads=(1, 2), ffn=(16, 24))
    student = FAMILY.build(teacher, architecture, importance)
    neurons = np.sort(np.argsort(-importance.ffn[2])[:24])
    assert torch.equal(student.layers[1].up.weight, teacher.layers[2].up.weight[neurons])
    assert torch.equal(student.layers[1].down.weight, teacher.layers[2].down.weight[:, neurons])
    best = int(importance.heads[0].argmax())
    block = slice(best * 8, best * 8 + 8)
    assert torch.equal(student.layers[0].key.weight, teacher.layers[0].key.weight[block])
    assert torch.equal(student.layers[0].out.weight, teacher.layers[0].out.weight[:, block])


def test_units_that_do_nothing_can_be_cut_without_a_change(teacher: TextEncoder) -> None:
    importance = random_importance(teacher.config)
    with torch.no_grad():
        for layer, heads, ffn in zip(teacher.layers, importance.heads, importance.ffn, strict=True):
            worst = int(heads.argmin())
            layer.out.weight[:, worst * 8 : worst * 8 + 8] = 0
            layer.down.weight[:, np.argsort(ffn)[:32]] = 0
    student = FAMILY.build(teacher, shrunk(teacher.config, (0, 1, 2), (3, 3, 3), (32, 32, 32)), importance)
    assert torch.allclose(student(**batch_for(teacher)), teacher(**batch_for(teacher)), atol=1e-5)


def test_a_student_wider_than_its_teacher_is_refused(teacher: TextEncoder) -> None:
    with pytest.raises(ConfigError, match=r"student.layer_2.ffn: 65 units cannot be inherited; the teacher has 64"):
        FAMILY.build(teacher, shrunk(teacher.config, (0, 2), (4, 4), (64, 65)), random_importance(teacher.config))


def test_low_rank_is_the_truncated_singular_value_decomposition() -> None:
    table = torch.from_numpy(rng_for(0, "table").standard_normal((50, 12))).float()
    left, right = low_rank(table, 5)
    u, s, v = np.linalg.svd(table.numpy())
    assert left.shape == (50, 5)
    assert right.shape == (12, 5)
    assert np.allclose((left @ right.T).numpy(), (u[:, :5] * s[:5]) @ v[:5], atol=1e-4)


def test_full_rank_loses_nothing() -> None:
    table = torch.from_numpy(rng_for(1, "table").standard_normal((30, 8))).float()
    left, right = low_rank(table, 8)
    assert torch.allclose(left @ right.T, table, atol=1e-5)


def test_of_equal_scores_the_first_units_are_kept() -> None:
    assert most_important(np.array([1.0, 2.0, 1.0, 1.0]), 3).tolist() == [0, 1, 2]


def test_importance_survives_flat_names(teacher: TextEncoder) -> None:
    importance = random_importance(teacher.config)
    arrays = importance.to_arrays()
    again = Importance.from_arrays(arrays).to_arrays()
    assert list(arrays) == list(again)
    assert all(np.array_equal(arrays[name], again[name]) for name in arrays)


def shrunk(
    teacher: EncoderConfig, layers: tuple[int, ...], heads: tuple[int, ...], ffn: tuple[int, ...]
) -> Architecture:
    return Architecture(layers, EncoderConfig.from_json({**teacher.to_json(), "heads": heads, "ffn": ffn}))


@pytest.mark.parametrize("change", [{"ranks": {"layers.0.up": 4}}, {"sharing": [0, 0, 2]}, {"embedding_rank": 4}])
def test_a_model_without_matrices_of_its_own_cannot_be_cut(change: dict, teacher: TextEncoder) -> None:
    odd = TextEncoder(EncoderConfig.from_json({**teacher.config.to_json(), **change}))
    with pytest.raises(ConfigError, match=r"student: a model that .* cannot be cut; .* Cut first, then"):
        FAMILY.permute(odd, random_importance(odd.config))
