"""LoRA: a matrix that stays what it was plus a product of two narrow ones, which alone learn.

The student's weight always holds the sum, so that everything that computes, prunes or saves it sees what was learned
and nothing is left to merge. Knows parameters and gradients; not which of them learn, not losses.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from search_spaces.seeding import rng_for

ALPHA = 16.0  # of the scale alpha / rank; changing it is like changing the learning rate (sec. 4.1)


@dataclass(frozen=True)
class Adapter:
    """W = frozen + scale * up @ down.

    Attributes:
        frozen: ``(out, in)`` float32, the weight before training.
        up: ``(out, rank)`` parameter, 0 in the beginning.
        down: ``(rank, in)`` parameter.
        scale: alpha / rank.

    Source: Hu et al. 2022 (LoRA), https://arxiv.org/abs/2106.09685, eq. 3 and sec. 4.1.
    """

    frozen: Tensor
    up: nn.Parameter
    down: nn.Parameter
    scale: float

    @classmethod
    def of(cls, name: str, weight: Tensor, rank: int) -> "Adapter":
        """Return an adapter that changes nothing yet; its random numbers depend on ``name`` and the shape alone."""
        n_out, n_in = weight.shape
        drawn = rng_for(0, "adapter", name).normal(scale=n_in**-0.5, size=(rank, n_in))
        down = torch.from_numpy(drawn).to(weight)
        return cls(
            weight.detach().clone(), nn.Parameter(weight.new_zeros(n_out, rank)), nn.Parameter(down), ALPHA / rank
        )

    def pull_gradient(self, gradient: Tensor) -> None:
        """Turn the gradient of W into those of the two factors, by the chain rule.

        Args:
            gradient: dL/dW, ``(out, in)``.
        """
        self.up.grad = self.scale * gradient @ self.down.detach().T
        self.down.grad = self.scale * self.up.detach().T @ gradient

    def merged(self) -> Tensor:
        """Return W, ``(out, in)``."""
        return self.frozen + self.scale * self.up.detach() @ self.down.detach()

    @property
    def n_learned(self) -> int:
        """Return how many numbers learn."""
        return self.up.numel() + self.down.numel()
