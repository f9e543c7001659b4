"""Learned ranges of rounded inputs; knows tensors and gradients, not modules' names or training runs."""

from typing import Any

import torch
from torch import Tensor, nn

from compressors.calibration import Histogram, least_error

LEAST_WIDTH = 0.01  # of a range, as a share of its first width


class LearnedRange:
    """A forward pre-hook that rounds the first input to evenly spaced levels between two ends, which learn.

    The range begins as the one that rounds the first batch with the least error. Then each end follows its gradient: a
    value that is cut off pulls the end it is cut to, and one inside pushes the step to where it would be rounded less
    far. The gradient of the input itself passes inside the range and ends outside of it.

    What learns is how far the ends have moved, in widths of the first range, so that one learning rate fits layers of
    all magnitudes. With Adam, whose steps do not depend on the size of a gradient, the paper's scale of it would have
    no effect.

    Source: Esser et al. 2020 (LSQ), https://arxiv.org/abs/1902.08153, eq. 3 and 5 (the step); Bhalgat et al. 2020
    (LSQ+), https://arxiv.org/abs/2004.09576, sec. 3.1 (an offset besides, for inputs that are mostly of one sign: step
    and offset are a range); Choi et al. 2018 (PACT), https://arxiv.org/abs/1805.06085, eq. 3 (values that are cut off).

    Attributes:
        moved: ``(2,)`` float32, what learns.
    """

    def __init__(self, bits: int, device: torch.device) -> None:
        """Round to ``2**bits`` levels.

        Args:
            bits: 1 or more.
            device: Where the inputs will be.
        """
        self._most = 2**bits - 1
        self._first: Tensor | None = None
        self.moved = torch.zeros(2, device=device, requires_grad=True)

    @property
    def ends(self) -> Tensor:
        """Return ``(2,)`` float32, the least and the largest value; not before the first batch."""
        assert self._first is not None
        return self._first + self.moved * (self._first[1] - self._first[0])

    def __call__(self, module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the inputs with the first one rounded, in its own type."""
        x = given[0]
        if self._first is None:
            low, high = least_error(Histogram.of(x.detach().float().cpu().numpy()), self._most + 1)
            self._first = torch.tensor([low, high if high > low else low + 1.0], device=x.device)
        rounded: Tensor = _Rounded.apply(x, self.ends, self._most)  # type: ignore[no-untyped-call]
        return (rounded, *given[1:])

    def stay_open(self) -> None:
        """Undo what an update did beyond a range of next to no width."""
        with torch.no_grad():
            missing = (LEAST_WIDTH - (1 + self.moved[1] - self.moved[0])).clamp_(min=0)
            self.moved += torch.stack([-missing / 2, missing / 2])


class _Rounded(torch.autograd.Function):
    """Rounds forwards in float32; backwards rounding itself is passed straight through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ends: Tensor, most: int) -> Tensor:
        """Return the rounded values in the type of ``x``."""
        step = (ends[1] - ends[0]) / most
        codes = (x.float() - ends[0]) / step
        ctx.save_for_backward(codes)
        ctx.most = most
        return (codes.round().clamp_(0, most) * step + ends[0]).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of ``x`` and of the ends."""
        (codes,), most = ctx.saved_tensors, ctx.most
        is_below, is_above = codes < 0, codes > most
        upper = torch.where(is_above, 1.0, (codes.round() - codes) / most).masked_fill_(is_below, 0)
        lower = torch.where(is_below, 1.0, (codes - codes.round()) / most).masked_fill_(is_above, 0)
        gradient = gradients[0].float()
        of_ends = torch.stack([(gradient * lower).sum(), (gradient * upper).sum()])
        return gradients[0] * ~(is_below | is_above), of_ends, None
