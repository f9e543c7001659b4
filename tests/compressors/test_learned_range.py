import numpy as np
import pytest
import torch
from torch import nn

from compressors.calibration import Histogram, least_error
from compressors.learned_range import LearnedRange


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def started(values, bits=2):
    """Return a range that has seen its first batch."""
    learned = LearnedRange(bits, torch.device("cpu"))
    with torch.no_grad():
        learned(nn.Identity(), (values,))
    return learned


def rounded(learned, x):
    return learned(nn.Identity(), (x,))[0]


def test_a_range_begins_where_the_first_batch_is_rounded_with_the_least_error():
    first = noise(1000)
    learned = started(first, bits=3)
    assert learned.ends.tolist() == pytest.approx(least_error(Histogram.of(first.numpy()), 8))
    assert learned.ends.abs().max() < first.abs().max()
    assert len(rounded(learned, noise(500, seed=1)).unique()) == 8
    assert rounded(learned, first.new_tensor([-99.0, 99.0])).tolist() == pytest.approx(learned.ends.tolist())


def test_inputs_that_are_all_alike_still_get_a_range():
    learned = started(torch.zeros(4))
    assert learned.ends.tolist() == [0, 1]
    assert rounded(learned, torch.zeros(2)).tolist() == [0, 0]


def passed_through(x, low, high, residual, most):
    """The rounded values as a function of the ends, with what rounding adds to a code held fixed."""
    step = (high - low) / most
    return np.where(x < low, low, np.where(x > high, high, x + step * residual))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_the_gradients_of_the_ends_are_finite_differences(bits):
    first, x, pull = noise(300), 2 * noise(300, seed=1), noise(300, seed=2)
    learned, most = started(first, bits), 2**bits - 1
    (rounded(learned, x) * pull).sum().backward()
    width = float(learned.ends.diff().detach())
    low, high = learned.ends.double().tolist()
    values, weights = x.double().numpy(), pull.double().numpy()
    codes = (values - low) / (high - low) * most
    residual, eps = np.round(codes) - codes, 1e-6
    for place, (a, b) in enumerate(((eps, 0.0), (0.0, eps))):
        ends = [(low + sign * a, high + sign * b) for sign in (1, -1)]
        plus, minus = ((passed_through(values, *each, residual, most) * weights).sum() for each in ends)
        assert float(learned.moved.grad[place]) == pytest.approx(width * (plus - minus) / (2 * eps), rel=1e-3)


def test_the_gradient_of_an_input_passes_inside_the_range_and_only_there():
    learned = started(torch.tensor([0.0, 3.0]))
    x = torch.tensor([-0.1, 0.0, 1.4, 3.0, 3.1], requires_grad=True)
    (rounded(learned, x) * torch.arange(1.0, 6.0)).sum().backward()
    assert x.grad.tolist() == [0, 2, 3, 4, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_range_follows_inputs_that_grow_until_they_are_rounded_with_little_error(dtype):
    learned = started(noise(2000), bits=3)
    optimizer, x = torch.optim.Adam([learned.moved], 1e-2), 4 * noise(2000, seed=1)
    errors = []
    for _ in range(400):
        error = (rounded(learned, x.to(dtype)).float() - x).square().mean()
        errors.append(error.item())
        error.backward()
        optimizer.step()
        optimizer.zero_grad()
    levels = torch.linspace(*least_error(Histogram.of(x.numpy()), 8), 8)
    least = (x[:, None] - levels).square().amin(1).mean().item()
    assert errors[-1] < 0.2 * errors[0]
    assert errors[-1] < 1.1 * least


def test_a_range_never_closes():
    learned = started(torch.tensor([0.0, 3.0]))
    with torch.no_grad():
        learned.moved += torch.tensor([0.9, -0.6])
    learned.stay_open()
    low, high = learned.ends.tolist()
    assert high - low == pytest.approx(0.03)
    before = learned.moved.clone()
    learned.stay_open()
    assert torch.allclose(learned.moved, before, atol=1e-6)
