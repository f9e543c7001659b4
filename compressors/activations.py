"""What enters the layers of a model: seen for calibration, or rounded on its way in.

Hooks compute in torch only: nothing of them is in the weights, in a saved model or in an exported one.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from compressors.base import Sample
from compressors.calibration import Histogram, Range
from compressors.schemes import Grid, Uniform, span
from search_spaces.errors import DataError

R = TypeVar("R", bound=Callable[[nn.Module, tuple[Any, ...]], Any])


def collect(where: str, model: nn.Module, names: Sequence[str], batches: Sequence[Sample]) -> dict[str, Histogram]:
    """Return the histogram of everything that enters some layers, in one pass; the model is not changed.

    A layer that is never called, as inside fused kernels, is left out. Padding counts, as it does in a runtime.

    Args:
        where: The compressor, for errors.
        model: In evaluation mode.
        names: Of its layers.
        batches: Rows of the training split.

    Raises:
        DataError: There are no rows.
    """
    if not batches:
        raise DataError(f"{where}.calibration: {len(batches)} batches to calibrate on; give at least one.")
    seen: dict[str, Histogram] = {}

    def watch(name: str, given: Tensor) -> None:
        """Add one batch."""
        more = Histogram.of(given.detach().float().cpu().numpy())
        seen[name] = seen[name] + more if name in seen else more

    modules = [(name, model.get_submodule(name)) for name in names]
    hooks = [
        module.register_forward_pre_hook(lambda _, given, name=name: watch(name, given[0])) for name, module in modules
    ]
    try:
        with torch.inference_mode():
            for inputs, _ in batches:
                model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


class RoundedInput:
    """A forward pre-hook that rounds the first input; the gradient passes where nothing is cut off, and only there.

    Source: Bengio et al. 2013, https://arxiv.org/abs/1308.3432 (straight through); Jacob et al. 2018,
    https://arxiv.org/abs/1712.05877, sec. 3.1 (ranges as moving averages).
    """

    def __init__(self, scheme: Uniform, bits: int, ends: Range | None = None, memory: float | None = None) -> None:
        """Round to ``bits``.

        Args:
            scheme: Gives the levels; one scale for the whole tensor.
            bits: Of the scheme.
            ends: Range to represent; None = that of every batch.
            memory: Of the moving average of the ranges of batches with gradients, below 1; None = no average.
        """
        self.scheme, self.bits, self.ends, self.memory = scheme, bits, ends, memory

    def __call__(self, module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the inputs with the first one rounded, in its own type."""
        x = given[0]
        if self.memory is not None and torch.is_grad_enabled():
            self._follow(x, self.memory)
        rounded: Tensor = _StraightThrough.apply(x, self._grid(x))  # type: ignore[no-untyped-call]
        return (rounded, *given[1:])

    def _grid(self, x: Tensor) -> Grid:
        """Return the levels for a batch."""
        if self.ends is None:
            low, high = span(x.detach().float(), per_channel=False)
        else:
            low, high = (torch.tensor(end, device=x.device) for end in self.ends)
        return self.scheme.grid(low, high, self.bits)

    def _follow(self, x: Tensor, memory: float) -> None:
        """Move the range towards that of a batch."""
        low, high = (float(end) for end in span(x.detach().float(), per_channel=False))
        old_low, old_high = self.ends or (low, high)
        self.ends = memory * old_low + (1 - memory) * low, memory * old_high + (1 - memory) * high


class RoundedInputs(Generic[R]):
    """What rounds the inputs of some layers: those that are given the very same tensor share a rounding.

    A runtime rounds such a tensor once, e.g. what query, key and value of a layer read, so it has one range.

    Attributes:
        by_layer: Name of a layer -> what rounds its input; of those that were called.
    """

    def __init__(self, make: Callable[[torch.device], R]) -> None:
        """Begin without any; ``make`` returns a forward pre-hook for inputs on a device."""
        self.by_layer: dict[str, R] = {}
        self._make = make
        self._latest: tuple[weakref.ref[Tensor], R] | None = None

    def hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], Any]:
        """Return the forward pre-hook of one layer; another module in its place goes on with its rounding."""

        def round_input(module: nn.Module, given: tuple[Any, ...]) -> Any:
            """Return the inputs with the first one rounded."""
            x, latest = given[0], self._latest
            if name not in self.by_layer:
                self.by_layer[name] = latest[1] if latest and latest[0]() is x else self._make(x.device)
            self._latest = weakref.ref(x), self.by_layer[name]
            return self.by_layer[name](module, given)

        return round_input

    @property
    def all(self) -> list[R]:
        """Return every rounding once."""
        return list(dict.fromkeys(self.by_layer.values()))


class _StraightThrough(torch.autograd.Function):
    """Rounds forwards in float32; backwards the identity inside the range, zero outside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Grid) -> Tensor:
        """Return the rounded values in the type of ``x``."""
        values = x.float()
        low, high = grid.ends
        half = grid.step / 2  # what rounds to an end without being cut off
        ctx.save_for_backward((values >= low - half) & (values <= high + half))
        return grid.round(values).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of ``x``; a grid has none."""
        (is_inside,) = ctx.saved_tensors
        return gradients[0] * is_inside, None
