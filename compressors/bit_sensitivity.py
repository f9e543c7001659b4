"""How much each layer minds rounded weights, measured or estimated with only that layer rounded.

Knows models and rows; not how weights are rounded, nor how the figures are used.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressors.base import Sample
from compressors.criteria import gradients

SENSITIVITIES = ("fisher", "kl", "loss")

Rounded = Callable[[Tensor, int], Tensor]
"""Returns the weights rounded to some bits in a new tensor."""


def bit_damages(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    batches: Sequence[Sample],
    options: tuple[Sequence[int], Rounded],
    sensitivity: str,
) -> dict[str, list[float]]:
    """Return the damage of each layer alone at each number of bits, in nats; the model is left as it was.

    Damage never falls with fewer bits: what a few rows say to the contrary is noise.

    Args:
        model: In evaluation mode.
        weights: Of the layers, in place in the model, by name.
        batches: At least one.
        options: Numbers of bits, most first, and how to round to them.
        sensitivity: ``kl``: KL(unrounded || rounded) of the answers. ``loss``: growth of the cross-entropy; both take a
            forward pass for each layer and number. ``fisher``: ``1/2 sum F dw^2`` with the squared gradients F of the
            cross-entropy, from one backward pass (Theis et al. 2018, https://arxiv.org/abs/1801.05787, sec. 2.1).
    """
    bits, rounded = options
    found = {}
    if sensitivity == "fisher":
        for name, fisher in _fisher(model, weights, batches).items():
            changes = [rounded(weights[name].detach(), n) - weights[name].detach() for n in bits]
            found[name] = [0.5 * float((fisher * change.square()).sum()) for change in changes]
    else:
        before, labels = answers(model, batches), torch.cat([labels for _, labels in batches])
        for name, weight in weights.items():
            found[name] = []
            for n in bits:
                after = _answers_with(model, weight, rounded(weight.detach(), n), batches)
                growth = float(F.cross_entropy(after, labels) - F.cross_entropy(before, labels))
                found[name].append(divergence(before, after) if sensitivity == "kl" else growth)
    return {name: np.maximum.accumulate(damages).tolist() for name, damages in found.items()}


def answers(model: nn.Module, batches: Sequence[Sample]) -> Tensor:
    """Return ``(rows, labels)`` float32 logits of all batches."""
    with torch.inference_mode():
        return torch.cat([model(*inputs).float() for inputs, _ in batches])


def divergence(before: Tensor, after: Tensor) -> float:
    """Return the mean KL(before || after) in nats of ``(rows, labels)`` logits."""
    target, said = F.log_softmax(before, -1), F.log_softmax(after, -1)
    return float(F.kl_div(said, target, reduction="batchmean", log_target=True))


def _answers_with(model: nn.Module, weight: Tensor, other: Tensor, batches: Sequence[Sample]) -> Tensor:
    """Return the answers with another value in the place of one weight."""
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.copy_(other)
    said = answers(model, batches)
    with torch.no_grad():
        weight.copy_(kept)
    return said


def _fisher(model: nn.Module, weights: Mapping[str, Tensor], batches: Sequence[Sample]) -> dict[str, Tensor]:
    """Return an estimate of the squared gradient of one row: that of a batch's mean, times its rows."""
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for sample in batches:
        slopes = gradients(model, [f"{name}.weight" for name in weights], sample)
        for name, total in sums.items():
            total += len(sample[1]) / len(batches) * slopes[f"{name}.weight"].square()
    return sums
