"""Units of a layer: how much each matters now, and how to cut a parameter together with its optimiser state."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from search_spaces.errors import StateError
from search_spaces.families.encoder_model import Layer


class Cut(NamedTuple):
    """Which entries of one axis stay."""

    axis: int
    keep: Tensor


def head_scores(layer: Layer, with_gradient: bool) -> Tensor:
    """Return how much each head matters.

    With gradients, |dL/d gate| of a gate of 1 on the head's output: by the chain rule it is the sum of
    weight * gradient over the head's columns of the output projection.

    Args:
        layer: With gradients of the latest backward pass, where they are asked for.
        with_gradient: False: the L2 norm of the head's columns instead.

    Returns:
        ``(heads,)`` float32, larger = keep.

    Raises:
        StateError: Gradients are asked for and there are none.

    Source: Michel et al. 2019, https://arxiv.org/abs/1905.10650, eq. 2.
    """
    if with_gradient:
        return head_saliency(_product(layer.out.weight), layer.head_size)
    return layer.out.weight.detach().square().sum(0).view(-1, layer.head_size).sum(1).sqrt()


def neuron_scores(layer: Layer, with_gradient: bool) -> Tensor:
    """Return how much each FFN neuron matters.

    Args:
        layer: With gradients of the latest backward pass, where they are asked for.
        with_gradient: False: the product of the L2 norms of its ingoing and outgoing weights instead.

    Returns:
        ``(ffn,)`` float32, larger = keep.

    Raises:
        StateError: Gradients are asked for and there are none.

    Source: Hou et al. 2020 (DynaBERT), https://arxiv.org/abs/2004.04037, sec. 2.1: |sum w dL/dw| of the ingoing
    weights and bias, plus that of the outgoing weights.
    """
    if with_gradient:
        return neuron_saliency(_product(layer.up.weight), _product(layer.up.bias), _product(layer.down.weight))
    ingoing: Tensor = torch.linalg.vector_norm(layer.up.weight.detach(), dim=1)
    outgoing: Tensor = torch.linalg.vector_norm(layer.down.weight.detach(), dim=0)
    return ingoing * outgoing


def head_saliency(out: Tensor, head_size: int) -> Tensor:
    """Return ``(heads,)``: |sum w dL/dw| over each head's columns of the output projection; see `head_scores`.

    Args:
        out: ``(hidden, heads * head_size)``, w dL/dw of its weight.
        head_size: Columns of a head.
    """
    return out.sum(0).view(-1, head_size).sum(1).abs()


def neuron_saliency(up: Tensor, up_bias: Tensor, down: Tensor) -> Tensor:
    """Return ``(ffn,)``: |sum w dL/dw| of each neuron's ingoing weights and bias, plus outgoing; see `neuron_scores`.

    Args:
        up: ``(ffn, hidden)``, w dL/dw of the ingoing weight.
        up_bias: ``(ffn,)``, of its bias.
        down: ``(hidden, ffn)``, of the outgoing weight.
    """
    return (up.sum(1) + up_bias).abs() + down.sum(0).abs()


def block_units(heads: Tensor, head_size: int) -> Tensor:
    """Return the rows of the query, key and value matrices that belong to some heads, in order."""
    return (heads[:, None] * head_size + torch.arange(head_size, device=heads.device)).flatten()


def cut_parameter(module: nn.Module, name: str, cut: Cut, optimizer: torch.optim.Optimizer) -> None:
    """Replace a parameter by its kept part, in the module and in the optimiser, whose state is cut alike."""
    old = getattr(module, name)
    if len(cut.keep) == old.shape[cut.axis]:
        return
    new = nn.Parameter(old.detach().index_select(cut.axis, cut.keep), requires_grad=old.requires_grad)
    if old.grad is not None:
        new.grad = old.grad.index_select(cut.axis, cut.keep)
    setattr(module, name, new)
    for group in optimizer.param_groups:
        group["params"] = [new if parameter is old else parameter for parameter in group["params"]]
    if old in optimizer.state:
        state = optimizer.state.pop(old)
        optimizer.state[new] = {key: _cut_like(value, old, cut) for key, value in state.items()}


def _cut_like(value: object, old: Tensor, cut: Cut) -> object:
    """Cut a piece of state that has the parameter's shape; leave a step count alone."""
    if isinstance(value, Tensor) and value.shape == old.shape:
        return value.index_select(cut.axis, cut.keep)
    return value


def _product(parameter: Tensor) -> Tensor:
    """Return weight * gradient."""
    if parameter.grad is None:
        raise StateError(
            f"importance: a weight of shape {tuple(parameter.shape)} has no gradient, for it does not learn; scores of "
            "first order need one. Use structured_pruning.criterion: magnitude, or let all weights learn."
        )
    return parameter.detach() * parameter.grad
