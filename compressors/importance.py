"""Scoring how much each unit of a text encoder matters, on samples of the *training* split.

Three criteria. ``first_order`` estimates what the loss would change without a unit: the sum of ``w * dL/dw`` over its
weights, absolute per batch (after a sum over batches, signs would cancel). ``activation`` is how strongly a unit
answers. ``magnitude`` looks at weights alone.

Source: Hou et al. 2020, DynaBERT, https://arxiv.org/abs/2004.04037, sec. 2.1; Muralidharan et al. 2024, Minitron,
https://arxiv.org/abs/2407.14679, sec. 2.2.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from compressors.base import Sample
from compressors.criteria import given
from compressors.units import head_saliency, neuron_saliency
from search_spaces.families.encoder_model import TextEncoder
from search_spaces.families.importance import Importance
from search_spaces.registry import unknown_name

Criterion = Literal["first_order", "magnitude", "activation"]


def score_importance(model: TextEncoder, batches: Iterable[Sample], criterion: Criterion = "first_order") -> Importance:
    """Return the importance of all heads, neurons, hidden dimensions and layers; the model is not changed.

    Args:
        model: The teacher.
        batches: Small batches of training rows; unread by ``magnitude``.
        criterion: What counts as important.

    Raises:
        ConfigError: The criterion is unknown.
        DataError: There are no batches.
    """
    known: dict[str, Callable[[TextEncoder, Iterable[Sample]], Importance]] = {
        "first_order": _first_order,
        "activation": _activation,
        "magnitude": _magnitude,
    }
    if criterion not in known:
        raise unknown_name("importance.criterion", criterion, list(known))
    with _evaluating(model):
        return known[criterion](model, batches)


class _Sums:
    """Running float64 sums of scores, under the names that `Importance.from_arrays` reads."""

    def __init__(self) -> None:
        self.values: dict[str, np.ndarray] = {}

    def add(self, name: str, scores: Tensor) -> None:
        """Add one batch's scores of one kind of unit."""
        self.values[name] = self.values.get(name, np.float64(0)) + scores.detach().double().cpu().numpy()

    def importance(self) -> Importance:
        """Return the sums."""
        return Importance.from_arrays(self.values)


def _first_order(model: TextEncoder, batches: Iterable[Sample]) -> Importance:
    """Score by ``|sum w * dL/dw|``; for a head that is ``|dL/dgate|`` of a gate on its output (E1 of DynaBERT)."""
    sums = _Sums()
    # detached views of the weights: gradients of the model itself stay as they are, and tables need none
    weights = {name: p.detach().requires_grad_() for name, p in model.named_parameters() if _is_scored(name)}
    for (ids, mask, types), labels in given(batches):
        logits, states = functional_call(model, weights, (ids, mask, types, True))
        gradients = torch.autograd.grad(F.cross_entropy(logits, labels), list(weights.values()))
        products = {name: (w * g).detach() for (name, w), g in zip(weights.items(), gradients, strict=True)}
        for index, layer in enumerate(model.layers):
            own = {name: products[f"layers.{index}.{name}"] for name, _ in layer.named_parameters()}
            sums.add(f"heads.{index}", head_saliency(own["out.weight"], model.config.head_size))
            sums.add(f"ffn.{index}", neuron_saliency(own["up.weight"], own["up.bias"], own["down.weight"]))
        for name, _ in _stream_norms(model):
            sums.add("hidden", (products[f"{name}.weight"] + products[f"{name}.bias"]).abs())
        sums.add("layers", _changes(states, mask))
    return sums.importance()


def _activation(model: TextEncoder, batches: Iterable[Sample]) -> Importance:
    """Score by the mean answer over a text's tokens, squared and summed over texts (root left out: same order)."""
    sums = _Sums()
    for (ids, mask, types), _ in given(batches):
        with torch.inference_mode(), _watched(model) as seen:
            _, states = model(ids, mask, types, hidden_states=True)

        def strength(answers: Tensor, mask: Tensor = mask) -> Tensor:
            """Return the squared mean magnitude of each unit over the real tokens, summed over the rows."""
            real = mask[..., None]
            return ((answers.abs() * real).sum(1) / real.sum(1)).square().sum(0)

        for index in range(model.config.depth):
            context = seen[f"layers.{index}.out"]
            heads = context.view(*context.shape[:2], -1, model.config.head_size)
            sums.add(f"heads.{index}", strength(heads.norm(dim=-1)))
            sums.add(f"ffn.{index}", strength(seen[f"layers.{index}.down"]))
        for name, _ in _stream_norms(model):
            sums.add("hidden", strength(seen[name]))
        sums.add("layers", _changes(states, mask))
    return sums.importance()


def _magnitude(model: TextEncoder, batches: Iterable[Sample]) -> Importance:
    """Score by the L2 norm of all weights of a unit; no data is read."""
    sums = _Sums()
    for index, layer in enumerate(model.layers):
        squares = {name: p.detach().square() for name, p in layer.named_parameters() if "norm" not in name}
        inner = squares["out.weight"].sum(0)
        for name in ("query", "key", "value"):
            inner = inner + squares[f"{name}.weight"].sum(1) + squares[f"{name}.bias"]
            sums.add("hidden", squares[f"{name}.weight"].sum(0))
        ffn = squares["up.weight"].sum(1) + squares["up.bias"] + squares["down.weight"].sum(0)
        sums.add(f"heads.{index}", inner.view(-1, model.config.head_size).sum(1).sqrt())
        sums.add(f"ffn.{index}", ffn.sqrt())
        sums.add("hidden", squares["up.weight"].sum(0) + squares["out.weight"].sum(1) + squares["down.weight"].sum(1))
    totals = [sum(float(p.detach().square().sum()) for p in layer.parameters()) for layer in model.layers]
    sums.add("layers", torch.tensor(totals).sqrt())
    return sums.importance()


def _changes(states: tuple[Tensor, ...], mask: Tensor) -> Tensor:
    """Return ``(depth,)``: how far each layer turns the stream, ``1 - E[cos(x_l, x_l+1)]`` over real tokens."""
    real = mask.bool()
    turned = [F.cosine_similarity(x[real], y[real], dim=-1).mean() for x, y in pairwise(states)]
    return 1 - torch.stack(turned)


def _is_scored(name: str) -> bool:
    """Return whether a weight's gradient is read; those of the tables would be large and useless."""
    return name.startswith(("layers.", "embeddings.norm."))


def _stream_norms(model: TextEncoder) -> Iterator[tuple[str, nn.Module]]:
    """Yield the LayerNorms whose output is the residual stream, by name."""
    for name, module in model.named_modules():
        separate = name == "embeddings.norm" and model.config.embedding != model.config.hidden
        if isinstance(module, nn.LayerNorm) and not separate:
            yield name, module


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off for a while."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def _watched(model: TextEncoder) -> Iterator[dict[str, Tensor]]:
    """Collect what enters ``out`` and ``down`` and what leaves the norms during one forward pass, by module name."""
    seen: dict[str, Tensor] = {}
    handles = []
    for name, module in model.named_modules():
        if name.endswith((".out", ".down")) and name.startswith("layers."):
            handles.append(module.register_forward_pre_hook(lambda _, given, name=name: seen.update({name: given[0]})))
    for name, module in _stream_norms(model):
        handles.append(module.register_forward_hook(lambda _, __, result, name=name: seen.update({name: result})))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
