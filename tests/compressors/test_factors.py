import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressors.factors import factor_conv, factor_linear, factors, input_moments
from tests.compressors.convnet import convnet, image_material, images
from tests.compressors.encoders import encoder


def matrix(n_out: int, n_in: int) -> torch.Tensor:
    return torch.randn(n_out, n_in, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def inputs(n_in: int) -> torch.Tensor:
    """Return 200 vectors whose directions are very unequally strong and not along the axes."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(200, n_in, generator=generator, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(n_in, n_in, generator=generator, dtype=torch.float64)).Q
    return x * torch.logspace(0, -3, n_in, dtype=torch.float64) @ turn


@pytest.mark.parametrize("shape", [(20, 12), (12, 20), (16, 16)])
@pytest.mark.parametrize("rank", [1, 5, 12])
def test_the_error_is_that_of_the_singular_values_left_out(shape: tuple[int, int], rank: int) -> None:
    """Eckart and Young 1936."""
    weight = matrix(*shape)
    outer, inner = factors(weight, rank)
    tail = torch.linalg.svdvals(weight)[rank:].norm()
    assert torch.linalg.norm(weight - outer @ inner) == pytest.approx(float(tail), abs=1e-9)
    assert torch.allclose(outer.T @ outer, torch.eye(rank, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize("shape", [(20, 12), (12, 20)])
@pytest.mark.parametrize("rank", [1, 4, 9])
def test_the_aware_answers_are_the_best_possible_ones(shape: tuple[int, int], rank: int) -> None:
    """By Eckart and Young no matrix of that rank answers better than the truncated answers themselves."""
    weight, x = matrix(*shape), inputs(shape[1])
    answers = x @ weight.T
    outer, inner = factors(weight, rank, x.T @ x / len(x))
    best = torch.linalg.svdvals(answers)[rank:].norm()
    aware = torch.linalg.norm(answers - x @ inner.T @ outer.T)
    assert aware == pytest.approx(float(best), rel=1e-5, abs=1e-7)
    left, right = factors(weight, rank)
    assert aware < torch.linalg.norm(answers - x @ right.T @ left.T)


def test_directions_that_no_input_has_cost_nothing() -> None:
    weight = matrix(10, 8)
    x = inputs(8)[:3]
    outer, inner = factors(weight, 3, x.T @ x)
    assert torch.allclose(x @ weight.T, x @ inner.T @ outer.T, atol=1e-6)


def test_a_full_rank_linear_is_the_same_function() -> None:
    linear = nn.Linear(7, 5)
    x = torch.randn(4, 7)
    assert torch.allclose(factor_linear(linear, 5)(x), linear(x), atol=1e-6)
    bare = nn.Linear(7, 5, bias=False)
    assert torch.allclose(factor_linear(bare, 5)(x), bare(x), atol=1e-6)
    assert factor_linear(bare, 5).bias is None


@pytest.mark.parametrize("options", [{"stride": 2, "padding": 1}, {"dilation": 2}, {"bias": False}])
def test_a_full_rank_convolution_is_the_same_function(options: dict) -> None:
    conv = nn.Conv2d(3, 6, 3, **options)
    assert torch.allclose(factor_conv(conv, 6)(images()), conv(images()), atol=1e-5)


def test_the_moments_of_a_convolution_tell_its_mean_squared_answer() -> None:
    model = convnet()
    moments = input_moments(model, ["0", "2", "7"], image_material().batches)
    assert sorted(moments) == ["0", "7"]
    conv = model[0]
    answers = F.conv2d(images(), conv.weight, None, conv.stride, conv.padding)
    weight = conv.weight.detach().flatten(1).double()
    expected = answers.square().sum(1).mean().item()
    assert torch.trace(weight @ moments["0"] @ weight.T).item() == pytest.approx(expected, rel=1e-5)


def test_padding_does_not_count_in_the_moments_of_a_text_encoder() -> None:
    model = encoder()
    ids = torch.randint(5, 100, (2, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    names = ["layers.0.up", "layers.1.key", "layers.1.down"]
    labels = torch.zeros(2, dtype=torch.long)
    types = torch.zeros_like(ids)
    padded = input_moments(model, names, [((ids, mask, types), labels)])
    apart = [((ids[:1], mask[:1], types[:1]), labels[:1]), ((ids[1:, :3], mask[1:, :3], types[1:, :3]), labels[1:])]
    bare = input_moments(model, names, apart)
    assert all(torch.allclose(padded[name], bare[name], rtol=1e-4, atol=1e-6) for name in names)
