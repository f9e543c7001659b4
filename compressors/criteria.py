"""How much every single weight matters: one score a weight, larger = keep, and one function a criterion.

The loss of a batch is the cross-entropy of its labels. Knows modules and batches; not what is done with the scores.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from compressors.base import Material, Sample
from compressors.fisher import squared_gradients
from compressors.prunable import module_of
from search_spaces.errors import DataError
from search_spaces.families.encoder_model import TextEncoder
from search_spaces.registry import unknown_name
from search_spaces.seeding import rng_for

Scores = dict[str, Tensor]
Criterion = Callable[[nn.Module, Sequence[str], Material], Scores]
Term = Callable[[Tensor, Tensor], Tensor]
"""What one batch adds to the scores of a weight: (weight, gradient of the mean loss) -> same shape."""


def score_weights(criterion: str, model: nn.Module, names: Sequence[str], material: Material) -> Scores:
    """Return the scores of some weights by name, each of the weight's shape.

    Args:
        criterion: A row of `CRITERIA`.
        model: In evaluation mode; neither its weights nor its gradients are changed.
        names: Of weights of Linear and Conv2d modules.
        material: Rows to score on, unread by ``magnitude`` and ``random``.

    Raises:
        ConfigError: The criterion is unknown.
        DataError: There are no rows, and the criterion needs them.
    """
    if criterion not in CRITERIA:
        raise unknown_name("criterion", criterion, list(CRITERIA))
    return CRITERIA[criterion](model, names, material)


def gradients(model: nn.Module, names: Iterable[str], sample: Sample) -> dict[str, Tensor]:
    """Return dL/dw of the mean loss of one batch; gradients that the model holds stay as they are.

    Args:
        model: In evaluation mode, not changed.
        names: Of parameters; each gradient has its parameter's shape.
        sample: Inputs and labels.
    """
    weights = {name: model.get_parameter(name).detach().requires_grad_() for name in names}
    inputs, labels = sample
    with torch.enable_grad():
        loss = F.cross_entropy(functional_call(model, weights, inputs), labels)
    found = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
    return dict(zip(weights, found, strict=True))


def saliency(weight: Tensor, gradient: Tensor) -> Tensor:
    """Return |w dL/dw|, to first order how far the loss moves without the weight, up or down.

    Source: Molchanov et al. 2019, https://arxiv.org/abs/1906.10771, sec. 3.1 (there squared).
    """
    return (weight * gradient).abs()


def movement(weight: Tensor, gradient: Tensor) -> Tensor:
    """Return -w dL/dw: how the loss rises without the weight to first order, and how far a step moves it from zero.

    Source: Sanh et al. 2020, https://arxiv.org/abs/2005.07683, sec. 4 (there summed over the steps of a training).
    """
    return -weight * gradient


def _magnitude(model: nn.Module, names: Sequence[str], material: Material) -> Scores:
    """Return |w|; Han et al. 2015, https://arxiv.org/abs/1506.02626."""
    return {name: model.get_parameter(name).detach().abs() for name in names}


def _first_order(model: nn.Module, names: Sequence[str], material: Material) -> Scores:
    """Return the mean of |w dL/dw|, absolute per batch: after a sum over batches signs would cancel."""
    return _averaged(model, names, material.batches, saliency)


def _first_order_signed(model: nn.Module, names: Sequence[str], material: Material) -> Scores:
    """Return the mean of -w dL/dw: weights whose removal lowers the loss go first."""
    return _averaged(model, names, material.batches, movement)


def _obd(model: nn.Module, names: Sequence[str], material: Material) -> Scores:
    """Return w^2 E[(dL/dw)^2] / 2, gradients of single rows: the Hessian's diagonal as the empirical Fisher.

    Source: LeCun et al. 1989, Optimal Brain Damage (saliency h w^2 / 2); the Fisher in place of the Hessian: Theis et
    al. 2018, https://arxiv.org/abs/1801.05787.
    """
    squares = squared_gradients(model, names, given(material.batches))
    return {name: model.get_parameter(name).detach().square() * squares[name] / 2 for name in names}


def _wanda(model: nn.Module, names: Sequence[str], material: Material) -> Scores:
    """Return |w| times the norm of what it multiplies, over all rows; comparable only within an output row.

    A channel of a convolution counts as one input. Source: Sun et al. 2023, https://arxiv.org/abs/2306.11695, eq. 1.
    """
    with torch.no_grad(), _input_squares(model, names) as squares:
        for inputs, _ in given(material.batches):
            model(*inputs)
    scores = {}
    for name in names:
        module, weight = module_of(model, name), model.get_parameter(name).detach()
        norms = squares[name].sqrt()
        if isinstance(module, nn.Conv2d):  # an output channel sees the inputs of its group only
            each = norms.view(module.groups, -1).repeat_interleave(module.out_channels // module.groups, dim=0)
            norms = each[:, :, None, None]
        scores[name] = weight.abs() * norms
    return scores


def _random(model: nn.Module, names: Sequence[str], material: Material) -> Scores:
    """Return uniform noise: the baseline that every criterion has to beat."""
    scores = {}
    for name in names:
        weight = model.get_parameter(name)
        noise = rng_for(material.seed, "pruning", name).random(tuple(weight.shape), dtype="float32")
        scores[name] = torch.from_numpy(noise).to(weight.device)
    return scores


CRITERIA: Mapping[str, Criterion] = {
    "magnitude": _magnitude,
    "first_order": _first_order,
    "first_order_signed": _first_order_signed,
    "obd": _obd,
    "wanda": _wanda,
    "random": _random,
}


def _averaged(model: nn.Module, names: Sequence[str], batches: Iterable[Sample], term: Term) -> Scores:
    """Return the mean of a term over all rows."""
    scores = {name: torch.zeros_like(model.get_parameter(name)) for name in names}
    n_rows = 0
    for sample in given(batches):
        n_rows += len(sample[1])
        for name, gradient in gradients(model, names, sample).items():
            scores[name] += term(model.get_parameter(name).detach(), gradient) * len(sample[1])
    return {name: score / n_rows for name, score in scores.items()}


def given(batches: Iterable[Sample]) -> Iterator[Sample]:
    """Yield the batches, of which there has to be one.

    Args:
        batches: Of a `Material`.

    Raises:
        DataError: There are none.
    """
    n_batches = 0
    for sample in batches:
        n_batches += 1
        yield sample
    if not n_batches:
        raise DataError(f"criterion: {n_batches} batches to score on; give at least one batch of the training split.")


@contextmanager
def _input_squares(model: nn.Module, names: Sequence[str]) -> Iterator[Scores]:
    """Sum the squares of what enters the modules of some weights, a sum for each input; padding is left out."""
    squares: Scores = {}
    mask: list[Tensor] = []  # of the batch that is run

    def see(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        mask[:] = [inputs[1].bool()]

    def add(module: nn.Module, inputs: tuple[Tensor, ...], name: str) -> None:
        x = inputs[0]
        channel = 1 if isinstance(module, nn.Conv2d) else x.ndim - 1
        if mask and x.ndim == 3:
            x, channel = x[mask[0][:, : x.shape[1]]], 1
        squares[name] += x.square().sum([axis for axis in range(x.ndim) if axis != channel])

    handles = [model.register_forward_pre_hook(see)] if isinstance(model, TextEncoder) else []
    for name in names:
        module, weight = module_of(model, name), model.get_parameter(name)
        width = module.in_channels if isinstance(module, nn.Conv2d) else weight.shape[1]
        squares[name] = torch.zeros(width, dtype=weight.dtype, device=weight.device)
        handles.append(module.register_forward_pre_hook(partial(add, name=name)))
    try:
        yield squares
    finally:
        for handle in handles:
            handle.remove()
