import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressors.base import Material
from compressors.group_scores import CRITERIA, score_groups
from compressors.importance import score_importance
from compressors.unit_pruning import UnitPruning
from search_spaces.errors import ConfigError, DataError
from search_spaces.families import encoder_costs
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder
from search_spaces.families.groups import Group, Member
from search_spaces.families.importance import most_important
from tests.compressors.encoders import encoder, material, random_encoder, same_state
from tests.compressors.tiny_cnn import TinyCnn, cnn, pictures


def out_of(kept: np.ndarray, size: int) -> list[int]:
    return sorted(set(range(size)) - set(kept.tolist()))


class NormOfSome(nn.Module):
    """A LayerNorm for which the other dimensions do not exist."""

    def __init__(self, norm: nn.LayerNorm, kept: np.ndarray) -> None:
        super().__init__()
        self.norm, self.kept = norm, torch.from_numpy(kept)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self.norm.weight[self.kept], self.norm.bias[self.kept]
        some = F.layer_norm(x[..., self.kept], (len(self.kept),), weight, bias, self.norm.eps)
        return torch.zeros_like(x).index_copy(-1, self.kept, some)


@pytest.mark.parametrize("criterion", ["magnitude", "first_order", "activation"])
def test_cut_heads_and_neurons_give_the_logits_of_zeroed_ones(criterion):
    model, given = random_encoder(), material()
    cut = UnitPruning(criterion, heads=0.5, ffn=0.25).apply(model, given)
    assert (cut.config.heads, cut.config.ffn) == ((2, 2), (48, 72))
    masked, scores = copy.deepcopy(model), score_importance(model, given.batches, criterion)
    with torch.no_grad():
        for index, layer in enumerate(masked.layers):
            for head in out_of(most_important(scores.heads[index], 2), 4):
                layer.out.weight[:, 8 * head : 8 * head + 8] = 0
            gone = out_of(most_important(scores.ffn[index], cut.config.ffn[index]), model.config.ffn[index])
            layer.down.weight[:, gone] = 0
        for inputs, _ in given.batches:
            assert torch.allclose(cut(*inputs), masked(*inputs), atol=1e-4)
            assert not torch.allclose(cut(*inputs), model(*inputs), atol=1e-2)


def test_a_cut_stream_gives_the_logits_of_a_stream_whose_norms_see_the_rest_only():
    model, given = random_encoder(), material()
    cut = UnitPruning("first_order", hidden=0.25).apply(model, given)
    assert (cut.config.hidden, cut.config.embedding) == (24, 24)
    kept = most_important(score_importance(model, given.batches, "first_order").hidden, 24)
    masked = copy.deepcopy(model)
    for path, module in list(masked.named_modules()):
        if isinstance(module, nn.LayerNorm):
            owner, _, name = path.rpartition(".")
            setattr(masked.get_submodule(owner), name, NormOfSome(module, kept))
    gone = out_of(kept, 32)
    with torch.no_grad():
        masked.head.dense.weight[gone], masked.head.dense.bias[gone] = 0, 0
        for inputs, _ in given.batches:
            assert torch.allclose(cut(*inputs), masked(*inputs), atol=1e-4)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_cut_channels_give_the_logits_of_zeroed_ones(criterion):
    model, given = cnn(inner=24), pictures()
    cut = UnitPruning(criterion, channels=0.75).apply(model, given)
    scores = score_groups(criterion, model, model.unit_groups(), given)
    assert (cut.stem.out_channels, cut.blocks[1].first.out_channels) == (4, 8)
    masked = copy.deepcopy(model)
    gone = out_of(most_important(scores["channels.stream"], cut.stem.out_channels), 16)
    with torch.no_grad():
        for norm in (masked.stem_norm, *(block.second_norm for block in masked.blocks)):
            norm.weight[gone], norm.bias[gone] = 0, 0  # what is added to the stream
        for index, block in enumerate(masked.blocks):
            inner = most_important(scores[f"channels.{index}"], cut.blocks[index].first.out_channels)
            block.second.weight[:, out_of(inner, 24)] = 0
        for inputs, _ in given.batches:
            assert torch.allclose(cut(*inputs), masked(*inputs), atol=1e-4)
            assert not torch.allclose(cut(*inputs), model(*inputs), atol=1e-2)


def test_the_report_counts_what_is_left():
    model, pruning = cnn(), UnitPruning("magnitude", channels=0.5)
    cut = pruning.apply(model, pictures())
    report = pruning.report()
    assert [(c.where, c.before, c.after) for c in report.changed] == [
        ("channels.stream", 16, 8),
        ("channels.0", 12, 8),
        ("channels.1", 12, 8),
    ]
    twin = TinyCnn(8, 8)
    assert report.figures["parameters_after"] == sum(p.numel() for p in twin.parameters())
    assert cut.state_dict().keys() == twin.state_dict().keys()
    twin.load_state_dict(cut.state_dict())  # every tensor fits

    encoder_pruning = UnitPruning("random", heads=0.25, hidden=0.5)
    small = encoder_pruning.apply(random_encoder(), material())
    figures, expected = encoder_pruning.report().figures, encoder_costs.parameters(small.config)
    assert figures["parameters_after"] == sum(p.numel() for p in small.parameters()) == expected
    assert {skip.where: skip.why for skip in encoder_pruning.report().skipped}["ffn.0"] == "the share of ffn is 0"


@pytest.mark.parametrize(
    ("make", "rows", "shares"),
    [(random_encoder, material, {"heads": 0.5, "ffn": 0.5, "hidden": 0.5}), (cnn, pictures, {"channels": 0.5})],
)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_argument_is_untouched(criterion, make, rows, shares):
    model, given = make(), rows()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    cut = UnitPruning(criterion, **shares).apply(model, given)
    assert same_state(model, before)
    assert not cut.training
    theirs = {p.data_ptr() for p in model.parameters()}
    assert not any(p.data_ptr() in theirs for p in cut.parameters())


@pytest.mark.parametrize(
    ("share", "heads", "ffn"), [(0.01, (3, 3), (63, 95)), (0.25, (3, 3), (48, 72)), (0.99, (1, 1), (1, 1))]
)
def test_at_least_one_unit_goes_and_one_stays_and_widths_are_multiples_of_eight_where_near(share, heads, ffn):
    cut = UnitPruning("random", heads=share, ffn=share).apply(encoder(), material())
    assert (cut.config.heads, cut.config.ffn) == (heads, ffn)


def test_a_group_of_one_unit_is_skipped_and_an_unknown_kind_is_reported():
    pruning = UnitPruning("random", heads=0.5, ffn=0.5, channels=0.5)
    cut = pruning.apply(encoder(heads=(1, 4)), material())
    assert cut.config.heads == (1, 2)
    reasons = {skip.where: skip.why for skip in pruning.report().skipped}
    assert reasons["heads.0"] == "has 1 unit, and one stays"
    assert reasons["channels"] == "the model has none"


def test_a_stream_never_gets_as_wide_as_separate_tables():
    fields = {**encoder().config.to_json(), "embedding": 16}
    model = TextEncoder(EncoderConfig.from_json(fields)).eval()
    cut = UnitPruning("random", hidden=0.5).apply(model, material())
    assert (cut.config.hidden, cut.config.embedding) == (17, 16)
    assert cut.embeddings.project.weight.shape == (17, 16)


@pytest.mark.parametrize("criterion", ["first_order", "activation"])
def test_units_of_a_network_without_effect_have_no_score(criterion):
    model = cnn()
    with torch.no_grad():
        model.blocks[0].first_norm.weight[[1, 4]], model.blocks[0].first_norm.bias[[1, 4]] = 0, 0
        block = model.blocks[0]
        for parameter in (block.first.weight, block.depthwise.weight, block.depthwise.bias):
            parameter[[1, 4]] = 0
    scores = score_groups(criterion, model, model.unit_groups(), pictures())["channels.0"]
    assert (scores[[1, 4]] == 0).all()
    assert np.count_nonzero(scores) > 6


def test_first_order_of_a_channel_is_the_gradient_of_gates_on_all_its_weights():
    model, given = cnn().double(), pictures()
    given = Material([((inputs[0].double(),), labels) for inputs, labels in given.batches])
    scores = score_groups("first_order", model, model.unit_groups(), given)["channels.0"]
    block, unit, total = model.blocks[0], 3, 0.0
    modules = [(block.first, 0), (block.first_norm, 0), (block.depthwise, 0), (block.second, 1)]
    for inputs, labels in given.batches:
        for module, axis in modules:
            losses, kept = [], {name: p.detach().clone() for name, p in module.named_parameters()}
            for gate in (1 + 1e-5, 1 - 1e-5):
                with torch.no_grad():
                    for name, parameter in module.named_parameters():
                        parameter.copy_(kept[name]).select(axis, unit).mul_(gate)
                    losses.append(float(F.cross_entropy(model(*inputs), labels)))
            with torch.no_grad():
                for name, parameter in module.named_parameters():
                    parameter.copy_(kept[name])
            total += abs(losses[0] - losses[1]) / 2e-5
    assert scores[unit] == pytest.approx(total, rel=1e-4)


def test_magnitude_of_a_channel_is_the_norm_of_all_its_weights():
    model = cnn()
    block = model.blocks[1]
    own = [block.first.weight[2], block.first_norm.weight[2], block.first_norm.bias[2]]
    own += [block.depthwise.weight[2], block.depthwise.bias[2], block.second.weight[:, 2]]
    expected = torch.cat([part.detach().flatten() for part in own]).norm().item()
    scores = score_groups("magnitude", model, model.unit_groups(), Material([]))
    assert scores["channels.1"][2] == pytest.approx(expected, rel=1e-5)


def test_every_share_is_0_by_default_and_nothing_is_cut():
    model, pruning = encoder(), UnitPruning()
    same = pruning.apply(model, Material([]))
    assert same is not model
    assert same.config == model.config
    assert pruning.report().skipped[0].why == "every share is 0"


def test_a_module_that_does_not_say_its_units_is_refused():
    with pytest.raises(ConfigError, match="unit_pruning: a Sequential does not say which units it has; a text"):
        UnitPruning(ffn=0.5).apply(nn.Sequential(nn.Linear(3, 3)), Material([]))


def test_kinds_that_the_model_has_not_are_refused_with_those_it_has():
    with pytest.raises(ConfigError, match="0 groups of channels can shrink; the model has heads, ffn, hidden"):
        UnitPruning(channels=0.5).apply(encoder(), material())


def test_groups_that_forget_a_tensor_are_refused():
    class Forgetful(TinyCnn):
        def unit_groups(self) -> list[Group]:
            return [Group("channels.0", 12, (Member("blocks.0.first.weight"),))]

    with pytest.raises(ConfigError, match=r"the cut model does not run \(.*Correct unit_groups\(\) of Forgetful"):
        UnitPruning("magnitude", channels=0.5).apply(Forgetful().eval(), pictures())


def test_logits_are_no_units():
    class Greedy(TinyCnn):
        def unit_groups(self) -> list[Group]:
            return [Group("channels.head", 3, (Member("head.weight"), Member("head.bias")))]

    with pytest.raises(ConfigError, match=r"it gives logits of shape \(6, 2\) in place of \(6, 3\)"):
        UnitPruning("magnitude", channels=0.3).apply(Greedy().eval(), pictures())


def test_layers_that_share_their_weights_are_refused():
    model = TextEncoder(replace(encoder(ffn=(64, 64)).config, sharing=(0, 0))).eval()
    with pytest.raises(ConfigError, match=r"layers\.1\.query\.weight is factored or shared, as are 5 more"):
        UnitPruning(ffn=0.5).apply(model, material())


@pytest.mark.parametrize("criterion", ["first_order", "activation"])
def test_a_criterion_that_looks_at_data_needs_some(criterion):
    for model, share in ((encoder(), {"ffn": 0.5}), (cnn(), {"channels": 0.5})):
        with pytest.raises(DataError, match="0 batches to score on"):
            UnitPruning(criterion, **share).apply(model, Material([]))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"heads": 1.0}, r"unit_pruning\.heads: 1\.0 is out of range; 0 to below 1"),
        ({"channels": -0.5}, r"unit_pruning\.channels: -0\.5 is out of range"),
        ({"criterion": "luck"}, r"unit_pruning\.criterion: 'luck' is unknown; known: magnitude, first_order"),
    ],
)
def test_a_wrong_knob_is_named(knobs, message):
    with pytest.raises(ConfigError, match=message):
        UnitPruning(**knobs)
