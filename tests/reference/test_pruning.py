"""Scores and masks of single weights against torch.nn.utils.prune, finite differences, closed forms and counting."""

import copy
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from compressors.base import Material
from compressors.criteria import movement, score_weights
from compressors.one_shot import OneShotPruning
from compressors.prunable import prunable
from tests.compressors.encoders import material, random_encoder
from tests.compressors.tiny_cnn import cnn, pictures


def classifier() -> nn.Module:
    """A Linear from 5 inputs to 3 logits: everything about its loss is known in closed form."""
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict(body=nn.Linear(5, 3))).eval()


def points() -> Material:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(11, 5, generator=generator), torch.randint(0, 3, (11,), generator=generator)
    return Material([((x[:4],), y[:4]), ((x[4:],), y[4:])])


def row_gradients(model: nn.Module, material: Material) -> np.ndarray:
    """Return ``(rows, 3, 5)``: (softmax - onehot) x^T, the gradient of cross-entropy of each row."""
    x = torch.cat([inputs[0] for inputs, _ in material.batches]).double().numpy()
    y = torch.cat([labels for _, labels in material.batches]).numpy()
    weight, bias = (p.detach().double().numpy() for p in model.body.parameters())
    exponentials = np.exp(x @ weight.T + bias)
    errors = exponentials / exponentials.sum(1, keepdims=True) - np.eye(3)[y]
    return errors[:, :, None] * x[:, None, :]


@pytest.mark.parametrize("make", [random_encoder, cnn])
@pytest.mark.parametrize("sparsity", [0.3, 0.9])
def test_global_magnitude_is_that_of_torch(make, sparsity):
    model = make()
    pruned = OneShotPruning(sparsity, "magnitude", "global").apply(model, Material([]))
    theirs = copy.deepcopy(model)
    names = [name.removesuffix(".weight") for name in prunable(model, "test")[0]]
    pairs = [(theirs.get_submodule(name), "weight") for name in names]
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=sparsity)
    for name in names:
        assert torch.equal(pruned.get_submodule(name).weight, theirs.get_submodule(name).weight), name


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.99])
def test_magnitude_of_one_layer_is_that_of_torch(sparsity):
    model = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Conv2d(4, 6, 3)).eval()
    pruned = OneShotPruning(sparsity).apply(model, Material([]))
    for index in (0, 2):
        theirs = prune.l1_unstructured(copy.deepcopy(model[index]), "weight", amount=sparsity)
        assert torch.equal(pruned[index].weight, theirs.weight)


@pytest.mark.parametrize("make", [random_encoder, cnn])
def test_signed_first_order_is_the_slope_of_the_loss_towards_removal(make):
    model = make().double()
    given = material() if make is random_encoder else doubled(pictures())
    (name, *_), samples = list(prunable(model, "test")[0])[2:], given.batches
    scores = score_weights("first_order_signed", model, [name], given)[name]
    weight, n_rows = model.get_parameter(name), sum(len(labels) for _, labels in samples)
    for place in [tuple(place) for place in np.argwhere(np.ones(weight.shape))[::97]]:
        original, losses = weight[place].item(), []
        for share in (1 - 1e-5, 1 + 1e-5):
            with torch.no_grad():
                weight[place] = share * original
                losses.append(sum(float(F.cross_entropy(model(*x), y, reduction="sum")) for x, y in samples) / n_rows)
        with torch.no_grad():
            weight[place] = original
        assert float(scores[place]) == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-4, abs=1e-9)


def doubled(given: Material) -> Material:
    return Material([((inputs[0].double(),), labels) for inputs, labels in given.batches])


def test_first_order_is_absolute_in_every_batch_and_signed_is_not():
    model, given = classifier(), points()
    slopes, weight = row_gradients(model, given), model.body.weight.detach().numpy()
    first, second = np.split(slopes, [4])
    absolute = (4 * np.abs(weight * first.mean(0)) + 7 * np.abs(weight * second.mean(0))) / 11
    signed = -weight * slopes.mean(0)
    found = {c: score_weights(c, model, ["body.weight"], given) for c in ("first_order", "first_order_signed")}
    assert np.allclose(found["first_order"]["body.weight"], absolute, rtol=1e-4, atol=1e-7)
    assert np.allclose(found["first_order_signed"]["body.weight"], signed, rtol=1e-4, atol=1e-7)


def test_second_order_is_half_the_squared_weight_times_the_mean_squared_gradient_of_a_row():
    model, given = classifier(), points()
    expected = model.body.weight.detach().numpy() ** 2 * (row_gradients(model, given) ** 2).mean(0) / 2
    scores = score_weights("obd", model, ["body.weight"], given)["body.weight"]
    assert np.allclose(scores, expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("make", [random_encoder, cnn])
def test_second_order_is_that_of_a_pass_for_every_row(make):
    model, given = make(), material() if make is random_encoder else pictures()
    names = list(prunable(model, "test")[0])
    weights, squares, n_rows = [model.get_parameter(name) for name in names], [0.0] * len(names), 0
    for inputs, labels in given.batches:
        for row in range(len(labels)):
            loss = F.cross_entropy(model(*(part[row : row + 1] for part in inputs)), labels[row : row + 1])
            squares = [s + g.square() for s, g in zip(squares, torch.autograd.grad(loss, weights), strict=True)]
            n_rows += 1
    scores = score_weights("obd", model, names, given)
    for name, weight, square in zip(names, weights, squares, strict=True):
        expected = (weight.square() * square / n_rows / 2).detach()
        assert torch.allclose(scores[name], expected, rtol=1e-3, atol=1e-4 * float(expected.max())), name


def test_second_order_of_a_module_that_is_used_twice_sums_both_uses_before_squaring():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(3, 3)

        def forward(self, x):
            return self.body(torch.tanh(self.body(x)))

    torch.manual_seed(0)
    model, x, y = Twice().eval(), torch.randn(1, 3), torch.tensor([2])
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y), [model.body.weight])
    scores = score_weights("obd", model, ["body.weight"], Material([((x,), y)]))["body.weight"]
    assert torch.allclose(scores, (model.body.weight * gradient).detach().square() / 2, rtol=1e-4)


def test_wanda_is_the_magnitude_times_the_norm_of_the_input():
    model, given = classifier(), points()
    x = torch.cat([inputs[0] for inputs, _ in given.batches])
    expected = model.body.weight.detach().abs() * x.norm(dim=0)
    assert torch.allclose(score_weights("wanda", model, ["body.weight"], given)["body.weight"], expected)


def test_wanda_of_a_grouped_convolution_reads_the_channels_of_its_group():
    model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Flatten()).eval()
    x = torch.randn(5, 4, 6, 6)
    scores = score_weights("wanda", model, ["0.weight"], Material([((x,), torch.zeros(5))]))["0.weight"]
    norms = x.square().sum((0, 2, 3)).sqrt()
    for out, own in ((0, norms[:2]), (2, norms[:2]), (3, norms[2:]), (5, norms[2:])):
        assert torch.allclose(scores[out], model[0].weight[out].detach().abs() * own[:, None, None])


def test_wanda_of_an_encoder_leaves_padding_out():
    model, given = random_encoder(), material()
    longer = Material([(tuple(F.pad(part, (0, 7)) for part in inputs), labels) for inputs, labels in given.batches])
    names = list(prunable(model, "test")[0])
    plain, padded = (score_weights("wanda", model, names, some) for some in (given, longer))
    assert all(torch.allclose(plain[name], padded[name], rtol=1e-4) for name in names)


def test_movement_is_positive_where_a_step_leads_away_from_zero():
    weight, gradient = torch.tensor([2.0, 2.0, -3.0, -3.0, 0.0]), torch.tensor([-0.5, 0.5, 0.1, -0.1, 9.0])
    assert movement(weight, gradient).tolist() == pytest.approx([1.0, -1.0, 0.3, -0.3, 0.0])
    moved = (weight - 0.1 * gradient).abs() - weight.abs()  # a step of gradient descent
    assert torch.equal((moved > 0)[:4], (movement(weight, gradient) > 0)[:4])


@pytest.mark.parametrize(("pattern", "n", "m"), [("2:4", 2, 4), ("4:8", 4, 8)])
@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "first_order"])
def test_every_m_neighbours_keep_the_n_best(pattern, n, m, criterion):
    model, given = random_encoder(), material()
    pruned = OneShotPruning(0.5, criterion, pattern=pattern).apply(model, given)
    names = list(prunable(model, "test")[0])
    scores = score_weights(criterion, model, names, given)
    for name in names:
        stays = (pruned.get_parameter(name) != 0).view(-1, m)
        of_score = scores[name].reshape(-1, m)
        assert (stays.sum(1) == n).all()
        assert (of_score.masked_fill(~stays, torch.inf).amin(1) >= of_score.masked_fill(stays, -1).amax(1)).all()


def test_neighbours_of_a_kernel_are_input_channels_at_one_place():
    model = nn.Sequential(nn.Conv2d(8, 5, 3)).eval()
    pruned = OneShotPruning(0.5, pattern="2:4").apply(model, Material([]))
    counts = (pruned[0].weight != 0).view(5, 2, 4, 3, 3).sum(2)
    assert (counts == 2).all()
