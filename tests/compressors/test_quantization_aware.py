import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressors.activations import RoundedInput
from compressors.base import Inner, Material
from compressors.distillation import Distillation
from compressors.fake_quantization import FakeQuantization
from compressors.int8 import quantize
from compressors.learned_step import LearnedStep
from compressors.quantization_aware import QuantizationAware
from compressors.schemes import SCHEMES
from compressors.structured import StructuredPruning
from nas.bundle import Outputs
from nas.distill import distill
from nas.precision import Copy
from nas.recipe import TrainSettings
from search_spaces.errors import ConfigError
from tests.compressors.encoders import encoder, texts

DTYPES = [torch.float32, torch.bfloat16]


def train(student, compressors, n_steps, dtype=torch.float32, lr=3e-3, end=True):
    """A training loop with the calls of a real one; returns the copy that computed."""
    tokens = texts(32)
    inputs, labels = tokens.collate(np.arange(32)), torch.from_numpy(tokens.labels)
    optimizer = torch.optim.AdamW(student.parameters(), lr=lr)
    for compressor in compressors:
        compressor.begin(student, n_steps)
    rewrites = [compressor.rewrite for compressor in compressors if compressor.rewrites]
    twin = Copy(student, dtype, rewrites)
    for step in range(n_steps):
        F.cross_entropy(twin.model(*inputs).float(), labels).backward()
        twin.pull_gradients()
        for compressor in compressors:
            compressor.after_backward(step)
        optimizer.step()
        replaced = [compressor.after_step(step, optimizer) for compressor in compressors]
        if any(replaced):
            twin = Copy(student, dtype, rewrites)
        twin.push_weights()
    for compressor in compressors:
        if end and isinstance(compressor, QuantizationAware):
            compressor.end()
    return twin.model


def levels(weight):
    return max(len(row.unique()) for row in weight)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("scheme", "bits", "n"),
    [("symmetric", 3, 7), ("affine", 2, 4), ("binary", None, 2), ("ternary", None, 3), ("lsq", 2, 4)],
)
def test_the_student_ends_with_the_weights_that_computed(scheme, bits, n, dtype):
    student = encoder()
    start = student.layers[0].up.weight.detach().clone()
    twin = train(student, [QuantizationAware(scheme, bits)], 3, dtype)
    for name, parameter in student.named_parameters():
        computed = twin.get_parameter(name)
        assert torch.equal(parameter.to(dtype), computed), name
    assert 2 <= levels(student.layers[0].up.weight) <= n
    assert student.layers[0].up.weight.dtype == torch.float32
    assert not torch.equal(student.layers[0].up.weight, SCHEMES["symmetric"].quantize(start, 3, True))


def test_8_bits_at_the_end_are_stored_by_the_artefact_without_another_rounding():
    student = encoder()
    train(student, [QuantizationAware()], 3)
    weight = student.layers[1].down.weight.detach()
    codes, scale = quantize(weight.T.numpy(), True)
    np.testing.assert_allclose((codes * scale).T, weight.numpy(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("scheme", ["symmetric", "lsq"])
def test_rounding_waits_for_its_share_of_the_steps(scheme):
    students = [encoder(), encoder()]
    quantization = QuantizationAware(scheme, 2, start=0.5)
    quantization.begin(students[0], 8)
    for step in range(4):
        twin = encoder()
        quantization.rewrite(twin)
        assert levels(twin.layers[0].up.weight) > 4
        quantization.after_step(step, torch.optim.SGD(students[0].parameters(), lr=0.1))
    twin = encoder()
    quantization.rewrite(twin)
    assert levels(twin.layers[0].up.weight) <= 4


def test_plain_training_before_the_start_is_plain_training():
    students = [encoder(), encoder()]
    train(students[0], [QuantizationAware(bits=2, start=0.99)], 5, end=False)
    train(students[1], [], 5)
    assert all(torch.equal(p, q) for p, q in zip(students[0].parameters(), students[1].parameters(), strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", ["symmetric", "lsq"])
@pytest.mark.parametrize("activations", ["dynamic", "moving", "learned"])
def test_it_goes_on_when_structured_pruning_cuts_the_student(scheme, activations, dtype):
    student = encoder()
    pruning = StructuredPruning(schedule="cubic")
    pruning.aim(replace(student.config, heads=(2, 1), ffn=(32, 32)))
    quantization = QuantizationAware(scheme, 3, activations=activations)
    twin = train(student, [pruning, quantization], 12, dtype)
    assert student.layers[1].query.weight.shape == (8, 32)
    assert levels(student.layers[1].query.weight) <= 8
    hooks = [list(layer.up._forward_pre_hooks.values()) for layer in twin.layers]
    assert [len(found) for found in hooks] == [1, 1]
    assert not any(module._forward_pre_hooks for module in student.modules())
    with torch.no_grad():
        assert student(*texts(4).collate(np.arange(4))).isfinite().all()


class Masked(Inner):
    """Zeroes in the twin what the student still has."""

    rewrites = True

    def rewrite(self, twin):
        with torch.no_grad():
            twin.layers[0].up.weight[:, ::2] = 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", ["symmetric", "lsq"])
def test_what_an_earlier_compressor_rewrote_is_rounded_and_not_undone(scheme, dtype):
    twin = train(encoder(), [Masked(), QuantizationAware(scheme, 4)], 2, dtype, end=False)
    assert not twin.layers[0].up.weight[:, ::2].any()
    assert twin.layers[0].up.weight[:, 1::2].any()


def test_learned_ranges_move_at_the_learning_rate_and_go_on_in_a_new_twin():
    student, quantization = encoder(), QuantizationAware(activations="learned", activation_bits=3)
    train(student, [quantization], 5, lr=3e-3, end=False)
    ranges = quantization._inputs.by_layer
    assert set(ranges) == {change.where.removesuffix(".input") for change in quantization.report().changed} - {
        f"{name}.weight" for name in quantization._layers
    }
    moved = torch.stack([given.moved.detach() for given in ranges.values()])
    assert 0 < moved.abs().max() <= 5 * 3e-3 * 1.01
    assert (moved.abs().amax(1) > 0).all()
    quantization.rewrite(copy.deepcopy(student))
    assert all(torch.equal(given.moved, before) for given, before in zip(ranges.values(), moved, strict=True))


@pytest.mark.parametrize("activations", ["learned", "moving"])
def test_layers_that_read_one_tensor_share_a_range_as_they_do_in_a_runtime(activations):
    student, quantization = encoder(), QuantizationAware(activations=activations)
    train(student, [quantization], 3)
    given = quantization._inputs.by_layer
    first, last = ([given[f"layers.{i}.{name}"] for name in ("query", "key", "value")] for i in (0, 1))
    assert first[0] is first[1] is first[2]
    assert last[0] is not last[1] is last[2]  # the last layer asks for the first token only
    assert len(set(given.values())) == len(given) - 3
    ranges = quantization.report().ranges
    assert set(ranges) == set(given)
    assert all(low < high for low, high in ranges.values())


@pytest.mark.parametrize("activations", ["none", "dynamic"])
def test_ranges_that_every_batch_has_anew_are_not_handed_on(activations):
    quantization = QuantizationAware(activations=activations)
    train(encoder(), [quantization], 2)
    assert quantization.report().ranges == {}


def test_frozen_weights_are_rounded_once_and_stay():
    student = encoder()
    student.layers[0].requires_grad_(False)
    expected = SCHEMES["affine"].quantize(student.layers[0].up.weight.detach(), 3, True)
    twin = train(student, [QuantizationAware("affine", 3)], 4)
    assert torch.equal(twin.layers[0].up.weight, expected)
    assert torch.equal(student.layers[0].up.weight, expected)


def test_learned_steps_lower_the_error_that_they_are_told_of():
    torch.manual_seed(0)
    weight = torch.randn(8, 200)
    learned = LearnedStep(weight, 3, per_channel=True)
    errors = []
    for _ in range(300):
        error = learned.round(weight) - weight
        errors.append(float(error.square().sum()))
        learned.take_gradient(2 * error)
        learned.update(3e-3)
    best = min(
        float(((weight / step).round().clamp(-4, 3) * step - weight).square().sum())
        for step in np.linspace(0.2, 1.5, 200)
    )
    assert errors[-1] < 0.9 * errors[0]
    assert errors[-1] < 1.03 * best


def test_a_cut_weight_gets_no_gradient_and_an_inner_one_all_of_it():
    weight = torch.tensor([[5.0, -5.0, 0.1, 0.0]])
    learned = LearnedStep(weight, 2, per_channel=False)  # a step of 5.05, levels -2 to 1
    learned.step.fill_(1.0)
    gradient = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    learned.round(weight)
    learned.take_gradient(gradient)
    assert gradient.tolist() == [[0, 0, 3, 4]]


def test_inputs_outside_a_moving_range_get_no_gradient():
    hook = RoundedInput(SCHEMES["affine"], 2, memory=0.5)
    x = torch.tensor([0.0, 1.0, 3.0], requires_grad=True)
    (rounded,) = hook(nn.Identity(), (x,))
    assert rounded.tolist() == [0, 1, 3]
    y = torch.tensor([0.0, 1.2, 7.0], requires_grad=True)
    (rounded,) = hook(nn.Identity(), (y,))  # the range is now (3 + 7) / 2
    assert hook.ends == (0.0, 5.0)
    rounded.sum().backward()
    assert rounded.tolist() == pytest.approx([0, 5 / 3, 5])
    assert y.grad.tolist() == [1, 1, 0]
    with torch.no_grad():
        hook(nn.Identity(), (torch.tensor([100.0]),))
    assert hook.ends == (0.0, 5.0)


@pytest.mark.parametrize("activations", ["dynamic", "learned"])
def test_a_cnn_learns_with_rounded_weights(activations):
    torch.manual_seed(0)
    student = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 2))
    x = torch.randn(64, 1, 6, 6)
    labels = (x.mean((1, 2, 3)) > 0).long()
    quantization = QuantizationAware("ternary", activations=activations)
    quantization.begin(student, 60)
    twin, optimizer = Copy(student, torch.float32, [quantization.rewrite]), torch.optim.Adam(student.parameters(), 1e-2)
    for step in range(60):
        F.cross_entropy(twin.model(x), labels).backward()
        twin.pull_gradients()
        quantization.after_backward(step)
        optimizer.step()
        quantization.after_step(step, optimizer)
        twin.push_weights()
    quantization.end()
    assert (student(x).argmax(1) == labels).float().mean() > 0.9
    assert levels(student[0].weight) <= 3


def test_training_with_two_bits_beats_rounding_to_two_bits_after_as_much_training():
    tokens = texts(256)
    teacher = Outputs(np.where(np.eye(2)[tokens.labels] > 0, 3.0, -3.0).astype(np.float16))
    wanted = torch.from_numpy(teacher.logits.astype(np.float32)).log_softmax(1)

    def learn(student, seed, compressors, **changes):
        settings = TrainSettings(batch_size=16, precision="fp32", train_embeddings=True, **changes)
        distill(student, tokens, teacher, settings, seed=seed, loss=Distillation(), compressors=compressors)
        return student

    def misfit(model):
        with torch.no_grad():
            said = model(*tokens.collate(np.arange(256))).log_softmax(1)
        return F.kl_div(said, wanted, reduction="batchmean", log_target=True).item()

    found = {"after": [], "symmetric": [], "lsq": []}
    for seed in range(2):
        start = learn(encoder(), seed, [], epochs=14, lr=3e-3)
        for name, misfits in found.items():
            while_learning = [QuantizationAware(name, 2)] if name != "after" else []
            student = learn(copy.deepcopy(start), seed, while_learning, epochs=3, lr=1e-3)
            rounded = FakeQuantization(bits=2).apply(student, Material([])) if name == "after" else student
            assert levels(rounded.layers[0].up.weight) <= 4
            misfits.append(misfit(rounded))
    means = {name: np.mean(misfits) for name, misfits in found.items()}
    assert means["symmetric"] < 0.2 * means["after"], means
    assert means["lsq"] < 0.2 * means["after"], means


def test_the_report_tells_bits_and_what_is_not_kept():
    student, quantization = encoder(), QuantizationAware("lsq", 4, activations="moving", embeddings=True)
    assert quantization.report().skipped[0].why == "training has not begun"
    train(student, [quantization], 2)
    report = quantization.report()
    bits = {change.where: (change.before, change.after) for change in report.changed}
    assert bits["layers.0.up.weight"] == bits["embeddings.word.weight"] == (32, 4)
    assert bits["layers.0.up.input"] == (32, 8)
    assert 4 < report.figures["bits_per_weight"] < 6
    assert report.figures["packed_bytes"] < report.figures["float_bytes"] / 4
    assert {"runtime", "activations", "layers.0.up.bias"} <= {skip.where for skip in report.skipped}


def test_none_needs_no_twin():
    student = encoder()
    assert train(student, [QuantizationAware("none")], 1) is student
    assert train(student, [QuantizationAware("none", activations="moving")], 1) is not student
    assert train(student, [QuantizationAware("lsq")], 1) is not student


def test_none_is_plain_training():
    student, quantization = encoder(), QuantizationAware("none")
    train(student, [quantization], 2)
    other = encoder()
    train(other, [], 2)
    assert all(torch.equal(p, q) for p, q in zip(student.parameters(), other.parameters(), strict=True))
    assert quantization.report().skipped[0].why == "scheme and activations are none"


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"scheme": "lsq", "bits": 1}, r"quantization_aware\.bits: 1 is outside"),
        ({"scheme": "log"}, r"quantization_aware\.scheme: 'log' is unknown; known: none, symmetric"),
        ({"activations": "static"}, r"activations: 'static' is unknown; known: none, dynamic, moving"),
        ({"start": 1.0}, r"start: 1\.0 is out of range; 0 to below 1"),
        ({"activation_bits": 16}, r"activation_bits: 16 is out of range; 2 to 8"),
    ],
)
def test_a_wrong_knob_is_named(knobs, message):
    with pytest.raises(ConfigError, match=message):
        QuantizationAware(**knobs)


def test_a_student_without_layers_to_quantize_is_refused():
    with pytest.raises(ConfigError, match="quantization_aware: no layer can be quantized"):
        QuantizationAware().begin(nn.LayerNorm(3), 4)
