"""What an optimiser remembers of the gradients it has seen, as tensors by name: what a training needs to be continued.

Knows AdamW-like optimisers, which keep tensors for every parameter; not schedules, not where tensors are kept.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from search_spaces.errors import ShapeError


def moments_of(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return what is remembered of each parameter, ``name/what`` (``what``: step, exp_avg, exp_avg_sq).

    Args:
        optimizer: Left as it is; the tensors are its own.
        parameters: By names that are still right when the training is continued.
    """
    return {
        f"{name}/{what}": value
        for name, parameter in parameters.items()
        for what, value in optimizer.state.get(parameter, {}).items()
    }


def restore_moments(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], moments: Mapping[str, Tensor]
) -> None:
    """Let an optimiser remember what another one did of the parameters of the same names; the others begin anew.

    Raises:
        ShapeError: A moment does not have the shape of its parameter.
    """
    known = {key: value for key, value in moments.items() if key.rpartition("/")[0] in parameters}
    for key, value in known.items():
        name, _, what = key.rpartition("/")
        shapes = tuple(value.shape), tuple(parameters[name].shape)
        if value.ndim and shapes[0] != shapes[1]:
            raise ShapeError(
                f"checkpoint: {what} of {name} has shape {shapes[0]}; the parameter has {shapes[1]}. "
                "Continue the student that it was written with."
            )
    for key, value in known.items():
        name, _, what = key.rpartition("/")
        optimizer.state[parameters[name]][what] = value.to(parameters[name].device, copy=True)
