import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressors.base import Material
from compressors.bit_sensitivity import bit_damages
from compressors.mixed_precision import MixedPrecision
from compressors.schemes import SCHEMES
from search_spaces.errors import ConfigError

BITS = (8, 4, 3, 2)


def network(scale=8.0):
    """Two layers that matter and one that does next to nothing."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 3)).eval()
    with torch.no_grad():
        model[0].weight.mul_(scale)
        model[2].weight.mul_(0.01)
        model[4].weight.mul_(scale)
    return model


def material(n=120):
    torch.manual_seed(1)
    x = torch.randn(n, 6)
    return Material([((part,), label) for part, label in zip(x.split(50), (x.argmax(1) % 3).split(50), strict=True)])


def rounded(weight, bits):
    return SCHEMES["symmetric"].quantize(weight, bits, True)


def divergence(before, after):
    return F.kl_div(after.log_softmax(1), before.log_softmax(1), reduction="batchmean", log_target=True)


def test_damage_is_the_divergence_with_only_one_layer_rounded():
    model, rows = network(), material()
    weights = {name: model.get_submodule(name).weight for name in ("0", "2", "4")}
    found = bit_damages(model, weights, rows.batches, (BITS, rounded), "kl")
    x = torch.cat([inputs[0] for inputs, _ in rows.batches])
    for name in weights:
        worst = 0.0
        for n, damage in zip(BITS, found[name], strict=True):
            other = network()
            other.get_submodule(name).weight.data = rounded(other.get_submodule(name).weight.data, n)
            worst = max(worst, divergence(model(x), other(x)).item())
            assert damage == pytest.approx(worst, rel=1e-3, abs=1e-7)
    fresh = network()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), fresh.parameters(), strict=True))


@pytest.mark.parametrize("sensitivity", ["kl", "loss", "fisher"])
def test_the_choice_is_the_best_of_all_choices_within_the_budget(sensitivity):
    model, rows = network(), material()
    method = MixedPrecision(3.5, BITS, sensitivity=sensitivity)
    method.apply(model, rows)
    weights = {name: model.get_submodule(name).weight for name in ("0", "2", "4")}
    damages = bit_damages(model, weights, rows.batches, (BITS, rounded), sensitivity)
    sizes = [weight.numel() for weight in weights.values()]
    fitting = [
        sum(damages[name][place] for name, place in zip(weights, places, strict=True))
        for places in itertools.product(range(4), repeat=3)
        if sum(BITS[p] * size for p, size in zip(places, sizes, strict=True)) <= 3.5 * sum(sizes)
    ]
    report = method.report()
    assert report.figures["damage_foretold"] == pytest.approx(min(fitting))
    assert report.figures["average_bits"] <= 3.5
    chosen = [change.after for change in report.changed]
    average = sum(n * size for n, size in zip(chosen, sizes, strict=True)) / sum(sizes)
    assert report.figures["average_bits"] == pytest.approx(average)


@pytest.mark.parametrize("sensitivity", ["kl", "fisher"])
def test_a_layer_that_hardly_matters_gets_the_fewest_bits(sensitivity):
    method = MixedPrecision(4.0, BITS, sensitivity=sensitivity)
    method.apply(network(), material())
    bits = {change.where: change.after for change in method.report().changed}
    assert bits["2.weight"] < min(bits["0.weight"], bits["4.weight"])


def test_it_does_less_harm_than_the_same_bits_everywhere():
    model, rows = network(), material()
    said, harm = torch.cat([model(*inputs) for inputs, _ in rows.batches]), []
    for bits in ((4,), BITS):
        result = MixedPrecision(4.0, bits, sensitivity="kl").apply(model, rows)
        harm.append(divergence(said, torch.cat([result(*inputs) for inputs, _ in rows.batches])).item())
    assert harm[1] < 0.5 * harm[0]


def test_the_weights_are_rounded_to_the_bits_of_the_report():
    model, method = network(), MixedPrecision(3.0, BITS)
    result = method.apply(model, material())
    for change in method.report().changed:
        name = change.where.removesuffix(".weight")
        expected = rounded(model.get_submodule(name).weight, change.after)
        assert torch.equal(result.get_submodule(name).weight, expected)


def test_excluded_layers_stay_and_do_not_count():
    model, method = network(), MixedPrecision(2.5, BITS, exclude=["4", "0*"])
    result = method.apply(model, material())
    assert torch.equal(result[0].weight, model[0].weight)
    assert torch.equal(result[4].weight, model[4].weight)
    report = method.report()
    assert [change.where for change in report.changed] == ["2.weight"]
    assert report.figures["average_bits"] == 2
    assert {"0.weight", "4.weight"} <= {skip.where for skip in report.skipped if "excluded" in skip.why}


def test_32_bits_leave_the_model_alone():
    model, method = network(), MixedPrecision(32.0)
    assert torch.equal(method.apply(model, material())[0].weight, model[0].weight)
    assert method.report().skipped[0].why == "the average is 32 bits"


@pytest.mark.parametrize(
    ("exclude", "message"),
    [(["head.*"], r"no layer matches 'head\.\*'; the model has 3 layers, first: 0, 2, 4"), (["*"], "match all 3")],
)
def test_patterns_that_leave_nothing_to_do_are_refused(exclude, message):
    with pytest.raises(ConfigError, match=message):
        MixedPrecision(exclude=exclude).apply(network(), material())


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"average": 1.9}, r"mixed_precision\.average: 1\.9 is out of range; 2 \(the least of bits\) to 32"),
        ({"bits": ()}, r"bits: \[\] is empty"),
        ({"bits": (4, 12)}, r"bits: 12 is outside the scheme 'symmetric'"),
        ({"sensitivity": "hessian"}, r"sensitivity: 'hessian' is unknown; known: fisher, kl, loss"),
    ],
)
def test_a_wrong_knob_is_named(knobs, message):
    with pytest.raises(ConfigError, match=message):
        MixedPrecision(**knobs)
