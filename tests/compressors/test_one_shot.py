import pytest
import torch
from torch import nn

from compressors.base import Material
from compressors.criteria import CRITERIA
from compressors.one_shot import OneShotPruning
from search_spaces.errors import ConfigError
from tests.compressors.encoders import encoder, material, random_encoder, same_state
from tests.compressors.tiny_cnn import cnn, pictures

MODELS = {"encoder": (random_encoder, material), "cnn": (cnn, pictures)}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_argument_is_untouched_and_the_result_is_as_sparse_as_asked_for(criterion, kind):
    make, rows = MODELS[kind]
    model, given = make(), rows()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pruning = OneShotPruning(0.5, criterion)
    pruned = pruning.apply(model, given)
    assert same_state(model, before)
    theirs = {p.data_ptr() for p in model.parameters()}
    assert not any(p.data_ptr() in theirs for p in pruned.parameters())
    report = pruning.report()
    assert report.figures["sparsity"] == pytest.approx(0.5, abs=0.02)  # odd rows of tiny kernels round
    for change in report.changed:
        assert change.after == int(pruned.get_parameter(change.where).count_nonzero())
    inputs, _ = given.batches[0]
    assert pruned(*inputs).shape == model(*inputs).shape
    assert not torch.equal(pruned(*inputs), model(*inputs))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_pruning_twice_changes_nothing(criterion):
    given = material()
    once = OneShotPruning(0.5, criterion).apply(random_encoder(), given)
    twice = OneShotPruning(0.5, criterion).apply(once, given)
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), twice.parameters(), strict=True))


def test_what_matters_to_the_loss_is_kept_better_than_chance_keeps_it():
    model, given = random_encoder(), material(96)

    def loss(pruned: nn.Module) -> float:
        with torch.no_grad():
            return sum(float(nn.functional.cross_entropy(pruned(*x), y)) for x, y in given.batches) / 2

    def change(criterion: str) -> float:
        return abs(loss(OneShotPruning(0.3, criterion, "global").apply(model, given)) - loss(model))

    assert max(change(criterion) for criterion in ("magnitude", "first_order", "obd")) < change("random")


def test_the_first_weights_to_go_by_sign_are_those_that_do_harm():
    model, given = encoder(), material(96)  # small weights, for which the first order says nearly all
    (inputs, labels), *_ = given.batches
    better = OneShotPruning(0.05, "first_order_signed", "global").apply(model, Material([(inputs, labels)]))
    with torch.no_grad():
        losses = [float(nn.functional.cross_entropy(some(*inputs), labels)) for some in (model, better)]
    assert losses[1] < losses[0]


def test_wanda_prunes_every_output_row_alike():
    pruned = OneShotPruning(0.75, "wanda").apply(random_encoder(), material())
    assert (pruned.layers[0].up.weight == 0).sum(1).tolist() == [24] * 64


def test_nothing_is_pruned_by_default_and_the_report_says_so():
    model, pruning = encoder(), OneShotPruning()
    pruned = pruning.apply(model, Material([]))
    assert pruned is not model
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), pruned.parameters(), strict=True))
    assert pruning.report().skipped[0].why == "sparsity is 0"


def test_a_model_where_nothing_can_be_pruned_is_refused():
    with pytest.raises(ConfigError, match=r"one_shot_pruning: 0 weights .*The model has 0 \(Embedding\)"):
        OneShotPruning(0.5).apply(nn.Sequential(nn.Embedding(4, 4)), Material([]))


def test_a_width_that_the_pattern_does_not_divide_is_named_and_the_argument_stays_whole():
    model = encoder(ffn=(64, 50))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ConfigError, match=r"layers\.1\.down\.weight: its input width 50 is not a multiple of 4"):
        OneShotPruning(0.5, pattern="2:4").apply(model, Material([]))
    assert same_state(model, before)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"sparsity": 1.0}, r"one_shot_pruning\.sparsity: 1\.0 is out of range; 0 to below 1"),
        ({"criterion": "luck"}, r"one_shot_pruning\.criterion: 'luck' is unknown; known: magnitude, first_order"),
        ({"scope": "row"}, r"one_shot_pruning\.scope: 'row' is unknown; known: layer, global"),
        ({"sparsity": 0.3, "pattern": "2:4"}, r"one_shot_pruning\.pattern: 2:4 leaves 0\.5 .*sparsity is 0\.3"),
        ({"criterion": "wanda", "scope": "global"}, r"one_shot_pruning\.scope: 'global' does not go with wanda"),
    ],
)
def test_a_wrong_knob_is_named(knobs, message):
    with pytest.raises(ConfigError, match=message):
        OneShotPruning(**knobs)


def test_other_knobs_are_no_genes_where_nothing_is_pruned():
    space = OneShotPruning.space()
    assert space.active({"sparsity": 0.0}) == ("sparsity",)
    some = {"sparsity": 0.3, "criterion": "wanda"}
    assert space.active(some) == ("sparsity", "criterion")
