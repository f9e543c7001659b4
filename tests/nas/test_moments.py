import pytest
import torch
from torch import nn

from nas.moments import moments_of, restore_moments
from search_spaces.errors import ShapeError


def trained(steps: int) -> tuple[nn.Linear, torch.optim.AdamW]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    for step in range(steps):
        one_step(model, optimizer, step)
    return model, optimizer


def one_step(model: nn.Linear, optimizer: torch.optim.AdamW, step: int) -> None:
    optimizer.zero_grad()
    model(torch.full((4, 3), float(step + 1))).square().sum().backward()
    optimizer.step()


def test_another_optimiser_goes_on_as_the_first_one_would() -> None:
    (one, first), (two, _) = trained(3), trained(3)
    second = torch.optim.AdamW(two.parameters(), lr=0.1, fused=True)
    restore_moments(second, dict(two.named_parameters()), moments_of(first, dict(one.named_parameters())))
    for model, optimizer in ((one, first), (two, second)):
        one_step(model, optimizer, 3)
    assert torch.equal(one.weight, two.weight)
    assert torch.equal(one.bias, two.bias)


def test_the_tensors_are_not_shared_with_the_next_optimiser() -> None:
    (one, first), (two, second) = trained(3), trained(0)
    moments = moments_of(first, dict(one.named_parameters()))
    kept = {name: value.clone() for name, value in moments.items()}
    restore_moments(second, dict(two.named_parameters()), moments)
    one_step(two, second, 3)
    assert all(torch.equal(kept[name], moments[name]) for name in kept)


def test_what_has_no_name_or_no_moments_begins_anew() -> None:
    (one, first), (two, second) = trained(2), trained(0)
    moments = moments_of(first, {"weight": one.weight})
    assert set(moments) == {"weight/step", "weight/exp_avg", "weight/exp_avg_sq"}
    restore_moments(second, dict(two.named_parameters()), moments)
    assert two.weight in second.state
    assert two.bias not in second.state
    restore_moments(second, {}, moments)


def test_a_moment_of_another_shape_is_refused() -> None:
    (one, first), (_, second) = trained(2), trained(0)
    wide = nn.Linear(5, 2)
    with pytest.raises(ShapeError, match=r"exp_avg of weight has shape \(2, 3\); the parameter has \(2, 5\)"):
        restore_moments(second, dict(wide.named_parameters()), moments_of(first, dict(one.named_parameters())))
