import copy

import numpy as np
import pytest
import torch
from torch import nn

from compressors.base import Material
from compressors.fake_quantization import FakeQuantization
from compressors.int8 import quantize
from compressors.mixed_precision import MixedPrecision
from search_spaces.errors import ConfigError
from tests.compressors.encoders import encoder, texts


class Pictures(nn.Module):
    """A tiny CNN; its last layer is never called as a module."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=2)
        self.norm, self.out = nn.BatchNorm2d(8), nn.Linear(8, 2)

    def forward(self, x):
        x = self.norm(self.second(torch.relu(self.first(x)))).mean((2, 3))
        return nn.functional.linear(x, self.out.weight, self.out.bias)


def material(n=64):
    tokens = texts(n)
    return Material(
        [(tokens.collate(rows), torch.from_numpy(tokens.labels[rows])) for rows in np.arange(n).reshape(2, -1)]
    )


def pictures(n=32):
    torch.manual_seed(1)
    return Material([((torch.randn(n, 3, 8, 8),), torch.arange(n) % 2)])


def sharp():
    """An encoder whose answers differ from row to row."""
    model = encoder()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model


def answers(model, rows):
    with torch.no_grad():
        return torch.cat([model(*inputs) for inputs, _ in rows.batches])


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    "method",
    [FakeQuantization(), FakeQuantization("both", "ternary", calibration="mse"), MixedPrecision(3.0)],
    ids=["weights", "both", "mixed"],
)
@pytest.mark.parametrize("kind", ["encoder", "cnn"])
def test_the_argument_is_untouched_and_shares_nothing_with_the_result(method, kind):
    model, rows = (encoder(), material()) if kind == "encoder" else (Pictures(), pictures())
    before, said = state(model), answers(model.eval(), rows)
    result = method.apply(model.train(), rows)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not result.training
    assert torch.equal(answers(model.eval(), rows), said)
    own = {p.data_ptr() for p in model.parameters()}
    assert not own & {p.data_ptr() for p in result.parameters()}
    assert {name for name, p in result.named_parameters() if not torch.equal(p, before[name])} == {
        change.where for change in method.report().changed if change.where.endswith(".weight")
    }


def test_weights_have_as_many_values_as_bits_can_say():
    for scheme, bits, n in (("symmetric", 3, 7), ("affine", 3, 8), ("binary", None, 2), ("ternary", None, 3)):
        model = FakeQuantization(scheme=scheme, bits=bits).apply(encoder(), material())
        for row in model.layers[0].up.weight:
            assert 2 <= len(row.unique()) <= n
        whole = FakeQuantization(scheme=scheme, bits=bits, per_channel=False).apply(encoder(), material())
        assert 2 <= len(whole.layers[0].up.weight.unique()) <= n


def test_8_bits_are_those_of_the_artefact():
    model = encoder()
    result = FakeQuantization(embeddings=True).apply(model, material())
    codes, scale = quantize(model.layers[1].down.weight.detach().T.numpy(), True)
    assert np.array_equal(result.layers[1].down.weight.detach().T.numpy(), codes * scale)
    codes, scale = quantize(model.embeddings.word.weight.detach().numpy(), False)
    assert np.array_equal(result.embeddings.word.weight.detach().numpy(), codes * scale)
    # positions are not looked up but sliced: the artefact keeps them
    assert torch.equal(result.embeddings.position.weight, model.embeddings.position.weight)


@pytest.mark.parametrize("scope", ["weights", "activations", "both"])
def test_more_bits_are_nearer_to_the_unrounded_answers(scope):
    model, rows = sharp(), material()
    said = answers(model, rows)
    errors = []
    for bits in (2, 4, 8):
        result = FakeQuantization(scope, bits=bits, activation_bits=bits).apply(model, rows)
        errors.append(float((answers(result, rows) - said).square().mean()))
    assert errors[0] > 4 * errors[1] > 64 * errors[2] > 0


@pytest.mark.parametrize("scheme", ["affine", "symmetric"])
@pytest.mark.parametrize("calibration", ["min_max", "percentile", "mse", "entropy"])
def test_every_calibration_keeps_the_answers_nearly_at_8_bits(calibration, scheme):
    model, rows = sharp(), material()
    method = FakeQuantization("activations", activation_scheme=scheme, calibration=calibration)
    said = answers(model, rows)
    error = (answers(method.apply(model, rows), rows) - said).norm() / said.norm()
    assert 0 < error < 0.1


def test_inputs_are_rounded_to_static_ranges_whatever_comes():
    model, rows = nn.Sequential(nn.Linear(4, 4, bias=False)), torch.linspace(-1, 1, 44).view(11, 4)
    nn.init.eye_(model[0].weight)
    calibrated = FakeQuantization("activations", activation_bits=2, calibration="min_max")
    result = calibrated.apply(model, Material([((rows,), torch.zeros(11))]))
    assert result(10 * rows).unique().tolist() == pytest.approx([-4 / 3, -2 / 3, 0, 2 / 3])
    dynamic = FakeQuantization("activations", activation_bits=2).apply(model, Material([]))
    assert dynamic(10 * rows).unique().tolist() == pytest.approx([-40 / 3, -20 / 3, 0, 20 / 3])


def test_a_copy_of_the_rounded_model_rounds_as_well():
    rows = material()
    result = FakeQuantization("both", activation_bits=2).apply(sharp(), rows)
    assert torch.equal(answers(copy.deepcopy(result), rows), answers(result, rows))


def test_the_report_counts_bits_and_bytes_and_says_what_is_simulated():
    model, rows = Pictures(), pictures()
    method = FakeQuantization("both", bits=3, calibration="min_max")
    method.apply(model, rows)
    report = method.report()
    n, channels = 8 * 27 + 8 * 36 + 16, 8 + 8 + 2
    assert report.figures["bits_per_weight"] == (3 * n + 32 * channels) / n
    total = sum(p.numel() for p in model.parameters())
    assert report.figures["float_bytes"] == 4 * total
    layers = ((216, 8), (288, 8), (16, 2))
    assert report.figures["packed_bytes"] == 4 * (total - n) + sum(-(-(3 * size + 32 * k) // 8) for size, k in layers)
    assert {c.where: (c.before, c.after) for c in report.changed} == {
        **{f"{name}.weight": (32, 3) for name in ("first", "second", "out")},
        **{f"{name}.input": (32, 8) for name in ("first", "second")},
    }
    why = {skip.where: skip.why for skip in report.skipped}
    assert "no runtime here computes with 3-bit symmetric" in why["runtime"]
    assert "hooks" in why["activations"]
    assert "no calibration row" in why["out.input"]
    assert why["norm.weight"] == "weight of BatchNorm2d stays in float32"


def test_shared_weights_are_rounded_and_counted_once():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    method = FakeQuantization(bits=4)
    result = method.apply(model, Material([]))
    assert result[1].weight is result[0].weight
    assert method.report().figures["packed_bytes"] == 4 * 4 * 4 / 8 + 4 * 4


def test_nothing_is_rounded_without_a_scope():
    model, method = encoder(), FakeQuantization("none")
    result = method.apply(model, material())
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), result.parameters(), strict=True))
    assert method.report().skipped[0].why == "scope is none"


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"bits": 9}, r"fake_quantization\.bits: 9 is outside the scheme 'symmetric'; 2 to 8"),
        ({"scheme": "binary", "bits": 8}, r"bits: 8 is outside the scheme 'binary'; only 1"),
        ({"scheme": "tenary"}, r"scheme: 'tenary' is unknown.*Did you mean 'ternary'"),
        ({"scope": "all"}, r"scope: 'all' is unknown; known: none, weights, activations, both"),
        ({"calibration": "kl"}, r"calibration: 'kl' is unknown"),
        ({"activation_bits": 1}, r"activation_bits: 1 is out of range; 2 to 8"),
        ({"activation_scheme": "binary"}, r"activation_scheme: 'binary' is unknown; known: symmetric, affine"),
    ],
)
def test_a_wrong_knob_is_named(knobs, message):
    with pytest.raises(ConfigError, match=message):
        FakeQuantization(**knobs)


@pytest.mark.parametrize("method", [FakeQuantization(), MixedPrecision()])
def test_a_model_without_layers_to_quantize_is_refused(method):
    model = nn.Sequential(nn.LayerNorm(2), nn.ReLU())
    with pytest.raises(ConfigError, match=r"no layer can be quantized.*LayerNorm, ReLU"):
        method.apply(model, pictures())


@pytest.mark.parametrize("method", [FakeQuantization("both", calibration="mse"), MixedPrecision()])
def test_no_rows_to_look_at_are_refused(method):
    with pytest.raises(ConfigError, match="0 batches"):
        method.apply(encoder(), Material([]))
