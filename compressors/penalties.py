"""Penalties on weights, as what they add to gradients. Knows tensors; not which parameters learn, not losses."""

import math
from dataclasses import dataclass

from torch import Tensor

from search_spaces.errors import ConfigError, StateError


@dataclass(frozen=True)
class Penalties:
    """``l2/2 |w|^2 + l1 |w| + l2_sp/2 |w - start|^2``; the first two of matrices only, as weight decay.

    Source: Li et al. 2018 (L2-SP), https://arxiv.org/abs/1802.01483, sec. 3.

    Raises:
        ConfigError: A weight is negative or not finite.
    """

    l2: float
    l1: float
    l2_sp: float

    def __post_init__(self) -> None:
        """Refuse weights that are none."""
        for knob in ("l2", "l1", "l2_sp"):
            weight = getattr(self, knob)
            if not (weight >= 0 and math.isfinite(weight)):
                raise ConfigError(f"tuning.{knob}: {weight} is out of range; 0 or more.")

    def add(self, weight: Tensor, start: Tensor | None, gradient: Tensor) -> None:
        """Add the penalties' gradients of one parameter to its gradient, in place.

        Args:
            weight: Of any shape, detached.
            start: What it was when training began, the same shape; None: no ``l2_sp``.
            gradient: The same shape.
        """
        if weight.ndim > 1:
            if self.l2:
                gradient.add_(weight, alpha=self.l2)
            if self.l1:
                gradient.add_(weight.sign(), alpha=self.l1)
        if start is not None:
            gradient.add_(weight - start, alpha=self.l2_sp)


def check_shape(name: str, weight: Tensor, start: Tensor) -> None:
    """Refuse a parameter that another compressor cut since training began.

    Raises:
        StateError: The shapes differ.
    """
    if weight.shape != start.shape:
        raise StateError(
            f"tuning: {name} was {tuple(start.shape)} when training began and is {tuple(weight.shape)} now; adapters "
            "and l2_sp need shapes that stay. Prune before training (structured_pruning.schedule: oneshot)."
        )
