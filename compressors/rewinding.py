"""Going back to where a training run started, with what was learnt of which weights matter."""

import torch
from torch import Tensor, nn

from search_spaces.errors import StateError


class Start:
    """The values of a model's trained parameters at one moment.

    Source: Frankle and Carbin 2019, https://arxiv.org/abs/1803.03635 (lottery tickets); Renda et al. 2020,
    https://arxiv.org/abs/2003.02389 (rewinding).
    """

    def __init__(self, model: nn.Module) -> None:
        """Copy the values."""
        self._values: dict[str, Tensor] = {
            name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad
        }

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer, where: str) -> None:
        """Set the parameters back; what the optimiser remembers of them belongs to other values and is dropped.

        Args:
            model: The one that was copied, trained since; parameters that were added stay as they are.
            optimizer: Of the training run.
            where: Who asks, for the error.

        Raises:
            StateError: A parameter was cut since; nothing is changed then.
        """
        pairs = [(name, p, self._values[name]) for name, p in model.named_parameters() if name in self._values]
        for name, parameter, start in pairs:
            if parameter.shape != start.shape:
                before, now = tuple(start.shape), tuple(parameter.shape)
                raise StateError(
                    f"{where}: {name} had shape {before} at the start and has {now} now; only a student that is not "
                    "cut meanwhile can go back. Set structured_pruning.schedule to oneshot."
                )
        with torch.no_grad():
            for _, parameter, start in pairs:
                parameter.copy_(start)
                optimizer.state.pop(parameter, None)
