"""The two thin matrices nearest to one, and the inputs that tell what near means.

Knows single modules and matrices; not which of a model are factored.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressors.base import Sample
from search_spaces.families.encoder_model import TextEncoder
from search_spaces.families.factored import FactoredLinear


class FactoredConv(nn.Sequential):
    """Two convolutions in place of one: to ``rank`` channels, then one by one pixel to all."""


def factors(weight: Tensor, rank: int, moment: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the thin matrices whose product answers most like ``weight``.

    Args:
        weight: ``(out, in)``.
        rank: Of the product, at most ``min(out, in)``.
        moment: ``(in, in)`` positive semidefinite, E[x x^T]; None = the identity.

    Returns:
        ``(out, rank)`` with orthonormal columns, and ``(rank, in)``; both of the weight's type.

    Source: U U^T W minimises ||(W - W') S^(1/2)||, U being the first left singular vectors of W S^(1/2), since
    (U U^T W) S^(1/2) is the truncated decomposition of W S^(1/2); see `compressors.low_rank.LowRank`.
    """
    exact = weight.detach().double()
    outer = _left_vectors(exact, moment)[:, :rank].contiguous()
    largest = outer.gather(0, outer.abs().argmax(0, keepdim=True))
    outer = outer * largest.sign()  # so that equal matrices give equal factors
    return outer.to(weight.dtype), (outer.T @ exact).to(weight.dtype)


def factor_linear(linear: nn.Linear, rank: int, moment: Tensor | None = None) -> FactoredLinear:
    """Return the nearest product of two thin Linears; the bias stays."""
    has_bias = linear.bias is not None
    thin = FactoredLinear(linear.in_features, linear.out_features, rank, has_bias).to(linear.weight)
    with torch.no_grad():
        thin.outer.weight.data, thin.inner.weight.data = factors(linear.weight, rank, moment)
        if has_bias:
            thin.outer.bias.copy_(linear.bias)
    return thin.train(linear.training)


def factor_conv(conv: nn.Conv2d, rank: int, moment: Tensor | None = None) -> FactoredConv:
    """Return the nearest two convolutions with ``rank`` channels between them; the argument has one group."""
    kind: dict[str, Any] = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
    inner = nn.Conv2d(conv.in_channels, rank, conv.kernel_size, **kind, bias=False)  # type: ignore[arg-type]
    outer = nn.Conv2d(rank, conv.out_channels, 1, bias=conv.bias is not None)
    pair = FactoredConv(inner, outer).to(conv.weight)
    with torch.no_grad():
        left, right = factors(conv.weight.flatten(1), rank, moment)
        outer.weight.copy_(left[:, :, None, None])
        inner.weight.copy_(right.view_as(inner.weight))
        if conv.bias is not None and outer.bias is not None:
            outer.bias.copy_(conv.bias)
    return pair.train(conv.training)


def input_moments(model: nn.Module, names: Sequence[str], batches: Sequence[Sample]) -> dict[str, Tensor]:
    """Return the second moments of what enters Linears and convolutions; padding of a text encoder does not count.

    Args:
        model: In evaluation mode; not changed.
        names: Of modules; those of other kinds are left out.
        batches: Of the training split.
    """
    sums = _Sums()
    modules = {name: model.get_submodule(name) for name in names}
    wanted = {name: module for name, module in modules.items() if isinstance(module, nn.Linear | nn.Conv2d)}
    with ExitStack() as hooks, torch.no_grad():
        for name, module in wanted.items():
            hooks.callback(module.register_forward_pre_hook(partial(sums.add, name)).remove)
        for inputs, _ in batches if wanted else ():
            sums.mask = inputs[1].bool() if isinstance(model, TextEncoder) else None
            model(*inputs)
    return {name: total / sums.n[name] for name, total in sums.totals.items()}


class _Sums:
    """Running sums of x x^T by module."""

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}
        self.n: dict[str, int] = {}
        self.mask: Tensor | None = None

    def add(self, name: str, module: nn.Module, given: tuple[Tensor, ...]) -> None:
        """Add what enters a module."""
        x, vectors = given[0], given[0].flatten(0, -2)
        if isinstance(module, nn.Conv2d):
            kind: dict[str, Any] = {"stride": module.stride, "padding": module.padding, "dilation": module.dilation}
            vectors = F.unfold(x, module.kernel_size, **kind).transpose(1, 2).flatten(0, 1)
        elif self.mask is not None and x.shape[:-1] == self.mask.shape:
            vectors = x[self.mask]
        self.totals[name] = self.totals.get(name, 0) + (vectors.T @ vectors).double()
        self.n[name] = self.n.get(name, 0) + len(vectors)


def _left_vectors(weight: Tensor, moment: Tensor | None) -> Tensor:
    """Return the left singular vectors of W S^(1/2), best first, on the cheaper side."""
    if moment is not None and len(weight) <= len(moment):
        vectors: Tensor = torch.linalg.eigh(weight @ moment @ weight.T).eigenvectors.flip(1)
        return vectors
    if moment is not None:
        values, axes = torch.linalg.eigh(moment)
        weight = weight @ (axes * values.clamp(min=0).sqrt())  # any root R with R R^T = S serves
    left: Tensor = torch.linalg.svd(weight, full_matrices=False).U
    return left
