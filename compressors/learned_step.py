"""Learned step sizes of rounded weights; knows tensors and gradients, not modules or training runs."""

import math

import torch
from torch import Tensor

from compressors.schemes import Grid

MOMENTUM, MEMORY = 0.9, 0.999  # of the step's gradient and of the weights' squared gradients, as Adam's
LEAST_STEP = 1e-8


class LearnedStep:
    """The step size of one layer's weights, or one for each output channel.

    It starts at ``2 mean |w| / sqrt(Qp)`` and follows its own gradient, scaled by ``1 / sqrt(N Qp)`` for ``N`` weights
    that share a step. That scale makes a step's relative change as large as its weights' under plain gradient descent
    (eq. 4). Adam divides the gradient of weights by its root mean square; here the step's gradient is divided by the
    same root mean square of its layer's weights, so that the balance holds.

    Source: Esser et al. 2020 (LSQ), https://arxiv.org/abs/1902.08153, sec. 2.1 and 2.2.
    """

    def __init__(self, weight: Tensor, bits: int, per_channel: bool) -> None:
        """Start from the weights; the levels are -2^(b-1) to 2^(b-1) - 1.

        Args:
            weight: ``(channels, ...)`` float32.
            bits: 2 or more.
            per_channel: A step for each channel instead of one.
        """
        self.least, self.most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        self._shared = list(range(1 if per_channel else 0, weight.ndim))
        mean = weight.detach().abs().mean(self._shared, keepdim=True)
        self.step = (2 * mean / math.sqrt(self.most)).clamp_(min=LEAST_STEP)
        self._source = weight.detach()
        self._momentum, self._square = torch.zeros_like(self.step), 0.0
        self._gradient: Tensor | None = None
        self._n_updates = 0

    def fits(self, weight: Tensor) -> bool:
        """Return False once channels were cut from the weights."""
        return self.step.numel() in (1, weight.shape[0])

    def round(self, weight: Tensor) -> Tensor:
        """Return the rounded weights, and remember what was rounded for the gradient."""
        self._source = weight.detach()
        return Grid(self.step, torch.zeros_like(self.step), self.least, self.most).round(self._source)

    def take_gradient(self, gradient: Tensor) -> None:
        """Read the gradient of the rounded weights, and make it that of the weights: zero where they are cut off.

        Args:
            gradient: Of the latest rounded weights, float32; changed in place (eq. 5).
        """
        n_shared = gradient.numel() / self.step.numel()
        per_weight = gradient * step_slope(self._source / self.step, self.least, self.most)
        scale = 1 / math.sqrt(n_shared * self.most)
        self._gradient = scale * per_weight.sum(self._shared, keepdim=True)
        self._square = MEMORY * self._square + (1 - MEMORY) * float(gradient.square().mean())
        codes = self._source / self.step
        gradient.mul_((codes > self.least) & (codes < self.most))

    def update(self, lr: float) -> None:
        """Follow the gradient that was read, if any, at the learning rate of the weights."""
        if self._gradient is None:
            return
        self._n_updates += 1
        self._momentum = MOMENTUM * self._momentum + (1 - MOMENTUM) * self._gradient
        slope = self._momentum / (1 - MOMENTUM**self._n_updates)
        size = math.sqrt(self._square / (1 - MEMORY**self._n_updates))
        if size > 0:
            self.step = (self.step - lr * slope / size).clamp_(min=LEAST_STEP)
        self._gradient = None


def step_slope(codes: Tensor, least: int, most: int) -> Tensor:
    """Return how much each rounded weight grows with the step, rounding itself passed straight through.

    Args:
        codes: Weights divided by their step, any shape.
        least: Code of the lower end, -Qn.
        most: Code of the upper end, Qp.

    Source: Esser et al. 2020 (LSQ), https://arxiv.org/abs/1902.08153, eq. 3.
    """
    inside = codes.round() - codes
    return torch.where(codes <= least, float(least), torch.where(codes >= most, float(most), inside))
