"""The mean squared gradient of single rows, for the weights of Linear and Conv2d modules.

One pass backwards for a batch gives the gradients of the modules' outputs; a row's gradient of a weight follows from
them and the module's inputs, far faster than a pass for every row. Knows modules and batches; not what it is used for.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from compressors.base import Sample
from compressors.prunable import module_of

Uses = dict[str, list[tuple[Tensor, Tensor]]]
"""Weight -> (input, output) of its module, once for each time that the module is used."""


def squared_gradients(model: nn.Module, names: Sequence[str], batches: Iterable[Sample]) -> dict[str, Tensor]:
    """Return E[(dL/dw)^2] over rows, L the cross-entropy of one row: the diagonal of the empirical Fisher matrix.

    Args:
        model: In evaluation mode, so that rows do not depend on each other; not changed.
        names: Of weights of Linear and Conv2d modules.
        batches: At least one row.

    Source: Theis et al. 2018, https://arxiv.org/abs/1801.05787 (its use for pruning); Goodfellow 2015,
    https://arxiv.org/abs/1510.01799 (gradients of rows from inputs and outputs).
    """
    sums = {name: torch.zeros_like(model.get_parameter(name)) for name in names}
    weights = {name: model.get_parameter(name).detach().requires_grad_() for name in names}
    n_rows = 0
    for inputs, labels in batches:
        n_rows += len(labels)
        with torch.enable_grad(), _watched(model, names) as uses:
            loss = F.cross_entropy(functional_call(model, weights, inputs), labels, reduction="sum")
        outputs = [output for of_weight in uses.values() for _, output in of_weight]
        slopes = iter(torch.autograd.grad(loss, outputs, materialize_grads=True))
        for name, of_weight in uses.items():
            module = module_of(model, name)
            pairs = [(given.detach(), next(slopes)) for given, _ in of_weight]
            for row in range(len(labels)):
                parts = [_gradient(module, given[row : row + 1], slope[row : row + 1]) for given, slope in pairs]
                gradient = sum(parts[1:], parts[0])
                sums[name].addcmul_(gradient, gradient)
    return {name: total / n_rows for name, total in sums.items()}


def _gradient(module: nn.Module, given: Tensor, slope: Tensor) -> Tensor:
    """Return the gradient of a module's weight from its input and the gradient of its output."""
    if isinstance(module, nn.Linear):
        return slope.flatten(0, -2).T @ given.flatten(0, -2)
    weight = module.get_parameter("weight").detach().requires_grad_()
    with torch.enable_grad():
        output = functional_call(module, {"weight": weight}, (given,))
    return torch.autograd.grad(output, weight, slope)[0]


@contextmanager
def _watched(model: nn.Module, names: Sequence[str]) -> Iterator[Uses]:
    """Collect what enters and leaves the modules of some weights."""
    uses: Uses = {name: [] for name in names}
    handles = []
    for name in names:

        def note(_: nn.Module, given: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
            uses[name].append((given[0], output))

        handles.append(module_of(model, name).register_forward_hook(note))
    try:
        yield uses
    finally:
        for handle in handles:
            handle.remove()
