"""Quantization against torch's own operators, brute force and hand computation."""

import numpy as np
import onnxruntime
import pytest
import torch
from scipy.stats import entropy as kl

from compressors.base import Material
from compressors.calibration import Histogram, _lost_information, entropy, least_error
from compressors.fake_quantization import FakeQuantization
from compressors.int8 import DynamicInt8, quantize
from compressors.learned_step import LearnedStep, step_slope
from compressors.schemes import SCHEMES, Grid, Uniform, span
from nas.devices.onnx_text_encoder import build_onnx
from tests.compressors.encoders import encoder, texts

BITS = range(2, 9)


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uniform(name):
    scheme = SCHEMES[name]
    assert isinstance(scheme, Uniform)
    return scheme


def off_ties(values, step):
    """True where rounding cannot depend on the last bit of a division."""
    codes = values / step
    return ((codes - codes.floor()) - 0.5).abs() > 1e-4


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", ["affine", "symmetric", "integer", "fixed_point"])
def test_one_scale_rounds_as_torch_does(name, bits):
    values = draws(60, 50) + 0.3
    grid = uniform(name).grid(*span(values, per_channel=False), bits)
    theirs = torch.fake_quantize_per_tensor_affine(values, float(grid.step), int(grid.zero), grid.least, grid.most)
    mine = SCHEMES[name].quantize(values, bits, per_channel=False)
    sure = off_ties(values, grid.step)
    assert sure.float().mean() > 0.99
    torch.testing.assert_close(mine[sure], theirs[sure], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", ["affine", "symmetric", "fixed_point"])
@pytest.mark.parametrize("shape", [(12, 70), (12, 5, 3, 3)])
def test_a_scale_for_each_channel_rounds_as_torch_does(name, bits, shape):
    values = draws(*shape) * torch.arange(1, 13).view(-1, *[1] * (len(shape) - 1))
    grid = uniform(name).grid(*span(values, per_channel=True), bits)
    theirs = torch.fake_quantize_per_channel_affine(
        values, grid.step.flatten(), grid.zero.flatten().int(), 0, grid.least, grid.most
    )
    mine = SCHEMES[name].quantize(values, bits, per_channel=True)
    sure = off_ties(values, grid.step)
    torch.testing.assert_close(mine[sure], theirs[sure], rtol=1e-5, atol=1e-6)
    assert all(len(channel.unique()) <= 2**bits for channel in mine)


@pytest.mark.parametrize("per_channel", [True, False])
def test_symmetric_8_bits_are_to_the_bit_what_the_artefact_stores(per_channel):
    weight = draws(48, 96) * torch.logspace(-3, 1, 48)[:, None]  # torch keeps (out, in), ONNX (in, out)
    weight[7] = 0
    codes, scale = quantize(weight.T.numpy(), per_channel)
    simulated = SCHEMES["symmetric"].quantize(weight, 8, per_channel)
    assert np.array_equal(simulated.numpy().T, codes * scale)


def test_xnor_and_twn_by_hand():
    weight = torch.tensor([[1.0, -3.0, 0.5, -0.5], [0.0, 8.0, -1.0, -7.0]])
    # means of magnitudes 1.25 and 4
    assert SCHEMES["binary"].quantize(weight, 1, True).tolist() == [[1.25, -1.25, 1.25, -1.25], [4.0, 4.0, -4.0, -4.0]]
    # deltas 0.875 and 2.8: means above are (1 + 3) / 2 and (8 + 7) / 2
    assert SCHEMES["ternary"].quantize(weight, 2, True).tolist() == [[2.0, -2.0, 0, 0], [0, 7.5, 0, -7.5]]
    # all together: mean 2.625, delta 1.8375, above are 3, 8 and 7
    assert SCHEMES["ternary"].quantize(weight, 2, False).tolist() == [[0, -6.0, 0, 0], [0, 6.0, 0, -6.0]]


def test_no_other_scale_of_a_binary_channel_is_nearer_to_its_weights():
    weight = draws(1, 200)
    error = (SCHEMES["binary"].quantize(weight, 1, True) - weight).square().sum()
    for scale in np.linspace(0.01, 3, 300):
        assert error <= (scale * weight.sign() - weight).square().sum() + 1e-4


@pytest.mark.parametrize("bits", BITS)
def test_the_fixed_point_step_is_the_least_power_of_two_that_cuts_nothing_off(bits):
    values = draws(40, 30) * torch.logspace(-2, 2, 40)[:, None]
    low, high = span(values, per_channel=True)
    grid = uniform("fixed_point").grid(low, high, bits)
    assert torch.equal(grid.step.log2(), grid.step.log2().round())
    for factor, fits in ((1.0, True), (0.5, False)):
        least, most = (Grid(grid.step * factor, grid.zero, grid.least, grid.most)).ends
        assert bool(((least <= low) & (high <= most)).all()) is fits


def surrogate(weight, step, kept, least, most):
    """Rounded weights as LSQ differentiates them: what rounding adds to a code stays as it is (straight through)."""
    codes = weight / step
    return step * np.where((codes > least) & (codes < most), codes + kept, np.clip(codes, least, most))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_slope_of_a_learned_step_is_that_of_finite_differences(bits):
    weight, gradient = (draws(500, seed=seed).double().numpy() for seed in (1, 2))
    step, least, most = 3.0 / 2**bits, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1  # cuts off a few at both ends
    kept = np.rint(weight / step) - weight / step
    ahead, behind = (gradient @ surrogate(weight, step + h, kept, least, most) for h in (1e-7, -1e-7))
    closed = gradient @ step_slope(torch.from_numpy(weight / step), least, most).numpy()
    assert closed == pytest.approx((ahead - behind) / 2e-7, rel=1e-4)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_both_gradients_of_a_learned_step_are_those_of_torchs_own_learnable_quantizer(bits):
    weight, gradient = draws(30, 40, seed=3), draws(30, 40, seed=4)
    learned = LearnedStep(weight, bits, per_channel=False)
    codes = weight / learned.step  # half a step outside the ends torch goes by the rounded code, the paper does not
    gradient[(codes > learned.most) & (codes < learned.most + 0.5)] = 0
    gradient[(codes < learned.least) & (codes > learned.least - 0.5)] = 0
    scale = 1 / np.sqrt(weight.numel() * learned.most)
    theirs = weight.clone().requires_grad_()
    step, zero = learned.step.detach().view(1).clone().requires_grad_(), torch.zeros(1)
    rounded = torch._fake_quantize_learnable_per_tensor_affine(theirs, step, zero, learned.least, learned.most, scale)
    rounded.backward(gradient)
    sure = off_ties(weight, learned.step)
    torch.testing.assert_close(learned.round(weight)[sure], rounded.detach()[sure])
    mine = gradient.clone()
    learned.take_gradient(mine)
    before = learned.step.clone()
    learned.update(1e-3)
    size = gradient.square().mean().sqrt()
    torch.testing.assert_close((before - learned.step).view(1), 1e-3 * step.grad / size, rtol=2e-3, atol=1e-7)
    assert ((mine - theirs.grad).abs() < 1e-6).float().mean() > 0.999


@pytest.mark.parametrize("levels", [4, 16, 256])
@pytest.mark.parametrize("shape", ["normal", "skewed", "one-sided"])
def test_the_range_of_least_error_is_near_the_best_of_all_ranges(levels, shape):
    values = np.random.default_rng(0).standard_t(3, 3000)
    values = {"normal": values, "skewed": values + 1.5, "one-sided": np.abs(values)}[shape]

    def error(low, high):
        grid = uniform("affine").grid(torch.tensor(low), torch.tensor(high), int(np.log2(levels)))
        return float((grid.round(torch.from_numpy(values)) - torch.from_numpy(values)).square().mean())

    low, high = least_error(Histogram.of(values), levels)
    lows = np.linspace(min(values.min(), 0), 0, 60)[:-1] if values.min() < 0 else [0.0]
    best = min(error(a, b) for a in lows for b in np.linspace(0, values.max(), 60)[1:])
    assert error(low, high) <= 1.05 * best


def test_entropy_cuts_a_tail_that_says_little_and_keeps_a_distribution_without_one():
    rng = np.random.default_rng(0)
    body = rng.normal(size=200_000)
    kept = entropy(Histogram.of(rng.uniform(-1, 1, 200_000)), 256)
    assert kept == pytest.approx((-1, 1), abs=0.02)
    low, high = entropy(Histogram.of(np.concatenate([body, [-30.0, 30.0]])), 256)
    assert 3 < high < 10
    assert -low == high


def test_entropy_of_a_known_histogram_is_found_by_going_through_all_thresholds():
    """Eight bins of magnitudes and four levels: every KL is done by hand with scipy."""
    counts = np.array([40, 30, 20, 10, 6, 0, 1, 2])
    # all bins: levels of two bins each, an empty bin stays empty
    spread = np.array([35, 35, 15, 15, 6, 0, 1.5, 1.5])
    assert _lost_information(counts, 8, 4) == pytest.approx(kl(counts, spread))
    # six bins: the tail of 3 goes to the last one, which has no level above zero
    assert _lost_information(counts, 6, 3) == np.inf
    # four bins and two levels: P's last bin has the tail, Q does not
    assert _lost_information(counts, 4, 2) == pytest.approx(kl([40, 30, 20, 19], [35, 35, 15, 15]))


def test_simulated_8_bits_foretell_the_artefact_that_onnx_runtime_runs():
    tokens, model = texts(48), encoder(ffn=(64, 64))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # answers that differ from row to row
    artefact = DynamicInt8().apply(build_onnx(model))
    session = onnxruntime.InferenceSession(artefact, providers=["CPUExecutionProvider"])
    method = FakeQuantization("both", activation_scheme="affine", calibration="dynamic", embeddings=True)
    simulated = method.apply(model, Material([]))
    exact, foretold, real = [], [], []
    for row in range(len(tokens)):  # one by one: a dynamic range is that of a batch
        inputs = tokens.collate(np.array([row]))
        with torch.no_grad():
            exact.append(model(*inputs).numpy())
            foretold.append(simulated(*inputs).numpy())
        names = [given.name for given in session.get_inputs()]
        real.append(session.run(None, {name: part.numpy() for name, part in zip(names, inputs, strict=True)})[0])
    rounding = np.abs(np.array(real) - np.array(exact)).mean()
    assert rounding > 1e-3
    assert np.abs(np.array(real) - np.array(foretold)).max() < 1e-2 * rounding
