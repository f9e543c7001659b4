import pytest
import torch
from torch import nn

from compressors.base import Material
from compressors.criteria import CRITERIA, score_weights
from compressors.prunable import block_of, prunable
from search_spaces.errors import ConfigError, DataError
from tests.compressors.encoders import material, random_encoder, same_state
from tests.compressors.tiny_cnn import cnn, pictures

MODELS = {"encoder": (random_encoder, material), "cnn": (cnn, pictures)}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_weight_gets_a_finite_score_and_the_model_is_left_alone(criterion, kind):
    make, rows = MODELS[kind]
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    names = list(prunable(model, "test")[0])
    scores = score_weights(criterion, model, names, rows())
    assert {name: score.shape for name, score in scores.items()} == {n: model.get_parameter(n).shape for n in names}
    assert all(score.isfinite().all() and score.std() > 0 for score in scores.values())
    assert same_state(model, before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_random_scores_follow_the_seed_and_differ_between_weights():
    model = random_encoder()
    names = ["layers.0.query.weight", "layers.0.key.weight"]
    one, same, other = (score_weights("random", model, names, Material([], seed)) for seed in (1, 1, 2))
    assert torch.equal(one[names[0]], same[names[0]])
    assert not torch.equal(one[names[0]], other[names[0]])
    assert not torch.equal(one[names[0]], one[names[1]])


@pytest.mark.parametrize("criterion", ["first_order", "first_order_signed", "obd", "wanda"])
def test_a_criterion_that_looks_at_data_needs_some(criterion):
    with pytest.raises(DataError, match="0 batches to score on; give at least one batch"):
        score_weights(criterion, random_encoder(), ["layers.0.up.weight"], Material([]))


def test_an_unknown_criterion_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"'wandas' is unknown; known: magnitude, .*Did you mean 'wanda'"):
        score_weights("wandas", random_encoder(), [], Material([]))


def test_tables_and_head_are_skipped_with_the_reason():
    weights, skipped = prunable(random_encoder(), "test")
    reasons = {skip.where: skip.why for skip in skipped}
    assert reasons["embeddings.word.weight"] == "is an embedding table"
    assert reasons["head.dense.weight"] == "belongs to the classification head"
    assert set(weights) == {
        f"layers.{i}.{name}.weight" for i in (0, 1) for name in ("query", "key", "value", "out", "up", "down")
    }


def test_kinds_of_modules_that_are_not_known_are_skipped_and_shared_weights_count_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.GRU(3, 3), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    weights, skipped = prunable(model, "test")
    assert list(weights) == ["0.weight"]
    reasons = {skip.where: skip.why for skip in skipped}
    assert reasons["1.weight_ih_l0"] == "GRU is not supported; Linear and Conv2d are"
    assert reasons["2.weight"] == "is the weight of another module, too"


def test_a_model_without_matrices_is_refused_naming_what_it_has():
    with pytest.raises(ConfigError, match=r"test: 0 weights .*The model has 0 \(Embedding\), 1 \(GRU\)\."):
        prunable(nn.Sequential(nn.Embedding(3, 3), nn.GRU(3, 3)), "test")


@pytest.mark.parametrize(
    ("name", "block"),
    [("layers.3.up.weight", "layers.3"), ("stem.weight", "stem"), ("a.blocks.0.1.conv.weight", "a.blocks.0")],
)
def test_a_weight_belongs_to_the_layer_that_is_numbered_first(name, block):
    assert block_of(name) == block
