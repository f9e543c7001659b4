from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressors.base import Material
from compressors.layer_pruning import LayerPruning
from search_spaces.errors import ConfigError, DataError
from search_spaces.families.encoder_model import TextEncoder
from tests.compressors.encoders import encoder, material, random_encoder, same_state
from tests.compressors.tiny_cnn import cnn

HEADS, FFN = (4, 2, 4, 1, 4, 4), (64, 32, 96, 40, 48, 56)


def kept(pruned) -> list[int]:
    """Return which of the six layers are there, which their FFN widths tell."""
    return [FFN.index(width) for width in pruned.config.ffn]


@pytest.mark.parametrize(
    ("choice", "keep", "layers"),
    [
        ("stride", 3, [0, 2, 4]),
        ("stride", 2, [0, 3]),
        ("stride", 4, [0, 1, 3, 4]),
        ("stride", 1, [0]),
        ("first", 2, [0, 1]),
        ("last", 2, [4, 5]),
    ],
)
def test_the_layers_that_stay_are_those_of_the_choice(choice, keep, layers):
    assert kept(LayerPruning(keep, choice).apply(random_encoder(HEADS, FFN), Material([]))) == layers


@pytest.mark.parametrize("choice", ["importance", "stride", "first", "last"])
def test_the_logits_are_those_of_the_model_that_skips_the_other_layers(choice):
    model, given = random_encoder(HEADS, FFN), material()
    pruned = LayerPruning(3, choice).apply(model, given)
    inputs, _ = given.batches[0]
    x, mask = model.embeddings(inputs[0], inputs[2]), inputs[1][:, None, None, :].bool()
    for index in kept(pruned):
        x = model.layers[index](x, mask)
    assert torch.allclose(pruned(*inputs), model.head(x[:, 0]), atol=1e-5)


def test_the_layers_that_turn_the_stream_most_are_the_important_ones():
    model, given = random_encoder(HEADS, FFN), material()
    (inputs, _), *_ = given.batches
    real = inputs[1].bool()
    with torch.no_grad():
        for index in (1, 4):  # nothing is added, and the norms leave what they get as it is
            layer = model.layers[index]
            for linear in (layer.out, layer.down):
                linear.weight.mul_(1e-3)
                linear.bias.zero_()
        _, states = model(*inputs, hidden_states=True)
    similar = [float(F.cosine_similarity(a[real], b[real], dim=-1).mean()) for a, b in pairwise(states)]
    pruned = LayerPruning(4, "importance").apply(model, Material(given.batches[:1]))
    assert kept(pruned) == sorted(np.argsort(similar)[:4].tolist())


def test_the_argument_is_untouched_and_the_report_counts_what_went():
    model, given = random_encoder(HEADS, FFN), material()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pruning = LayerPruning(4, "importance")
    pruned = pruning.apply(model, given)
    assert same_state(model, before)
    report = pruning.report()
    gone = sum(change.before for change in report.changed)
    assert gone == sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in pruned.parameters())
    assert [skip.where for skip in report.skipped] == [f"layers.{index}" for index in kept(pruned)]
    assert report.figures == {"layers_before": 6.0, "layers_after": 4.0}


@pytest.mark.parametrize("keep", [0, 2])
def test_all_layers_stay_by_default_and_the_report_says_so(keep):
    model, pruning = encoder(), LayerPruning(keep)
    same = pruning.apply(model, Material([]))
    assert same is not model
    assert same.config == model.config
    assert pruning.report().skipped[0].why == "all 2 layers are to stay"


def test_more_layers_than_there_are_cannot_be_kept():
    with pytest.raises(ConfigError, match=r"layer_pruning\.keep: 3 is out of range; the model has 2 layers"):
        LayerPruning(3).apply(encoder(), Material([]))


@pytest.mark.parametrize("make", [cnn, lambda: nn.Sequential(nn.Linear(3, 3))])
def test_other_models_are_refused(make):
    with pytest.raises(ConfigError, match=r"layer_pruning: a (TinyCnn|Sequential) has no layers that can be left out"):
        LayerPruning(1).apply(make(), Material([]))


def test_importance_needs_rows():
    with pytest.raises(DataError, match="0 batches to score on"):
        LayerPruning(1).apply(encoder(), Material([]))


def test_layers_that_share_their_weights_are_refused():
    model = TextEncoder(replace(encoder(ffn=(64, 64)).config, sharing=(0, 0))).eval()
    with pytest.raises(ConfigError, match=r"layer_pruning: layers\.1\.query\.weight is factored or shared"):
        LayerPruning(1, "first").apply(model, Material([]))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"keep": -1}, r"layer_pruning\.keep: -1 is out of range; 0 \(all layers\) or more"),
        ({"choice": "strides"}, r"layer_pruning\.choice: 'strides' is unknown; .*Did you mean 'stride'"),
    ],
)
def test_a_wrong_knob_is_named(knobs, message):
    with pytest.raises(ConfigError, match=message):
        LayerPruning(**knobs)
