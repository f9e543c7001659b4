import pytest
import torch

from search_spaces.families.attention import attend


def inputs(asking: int, dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(3, n, 16).to(dtype).requires_grad_() for n in (asking, 7, 7)]


def mask(has_padding: bool) -> torch.Tensor | None:
    return (torch.arange(7)[None, :] < torch.tensor([7, 4, 1])[:, None])[:, None, None, :] if has_padding else None


@pytest.mark.parametrize("asking", [1, 7])
@pytest.mark.parametrize("has_padding", [True, False])
def test_bfloat16_agrees_with_float32_forwards_and_backwards(asking, has_padding):
    low = inputs(asking, torch.bfloat16)
    high = [x.detach().float().requires_grad_() for x in low]
    upstream = torch.randn(3, asking, 16)
    results = [attend(*x, head_size=4, mask=mask(has_padding)) for x in (low, high)]
    assert torch.allclose(results[0].float(), results[1], atol=0.03)
    results[0].backward(upstream.bfloat16())
    results[1].backward(upstream)
    for a, b in zip(low, high, strict=True):
        assert torch.allclose(a.grad.float(), b.grad, atol=0.06)


def test_padding_changes_nothing():
    query, key, value = (x.detach() for x in inputs(7, torch.bfloat16))
    full = attend(query[1:2, :4], key[1:2, :4], value[1:2, :4], 4, None)
    padded = attend(query[1:2], key[1:2], value[1:2], 4, mask(True)[1:2])
    assert torch.equal(padded[:, :4], full)
