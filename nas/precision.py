"""In which number type to train: bfloat16 where the machine is faster with it, with float32 master weights.

Knows modules and clocks; not losses, not data.
"""

import copy
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn

Precision = Literal["auto", "fp32", "bf16"]


def choose(precision: Precision, rows: int, width: int, device: torch.device) -> torch.dtype:
    """Return the type to train in; ``auto`` measures a matrix product of the model's own size once per process.

    Args:
        precision: What the recipe says.
        rows: Tokens of a typical batch.
        width: Hidden width of the model.
        device: Where the model is; a GPU uses bfloat16 when it has it.
    """
    if precision != "auto":
        return torch.bfloat16 if precision == "bf16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    gain = _bf16_gain(_rounded(rows), _rounded(width), torch.get_num_threads())
    return torch.bfloat16 if gain > 1.5 else torch.float32


def _rounded(n: int) -> int:
    """Return the power of two at or above ``n``, 1024 at most: shapes of like size share a measurement."""
    return int(min(1024, 1 << (n - 1).bit_length()))


@cache
def _bf16_gain(rows: int, width: int, threads: int) -> float:
    """Return how many times faster than float32 a product is in bfloat16; ``threads`` is part of the cache's key."""
    return _product_seconds(rows, width, torch.float32) / _product_seconds(rows, width, torch.bfloat16)


def _product_seconds(rows: int, width: int, dtype: torch.dtype) -> float:
    """Return the shortest of a few times: interference only ever adds to a time."""
    a, b = torch.ones(rows, width, dtype=dtype), torch.ones(width, width, dtype=dtype)
    seconds = []
    for _ in range(12):
        start = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


class Copy:
    """The model that computes: the student itself in float32, else a twin of it in a smaller type.

    A twin's weights follow the student's (`push_weights`), the student's gradients follow the twin's
    (`pull_gradients`): every update is made in float32, so that small steps are not lost to rounding. A plain cast of
    the weights once a step is cheaper than autocast, which also keeps all activations between products in float32.

    Source: Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740, sec. 3.1 (master weights).
    """

    def __init__(
        self, student: nn.Module, dtype: torch.dtype, rewrites: Sequence[Callable[[nn.Module], None]] = ()
    ) -> None:
        """Make the copy; it trains exactly the parameters of the student that require a gradient.

        Args:
            student: Keeps the float32 weights.
            dtype: What the copy computes in.
            rewrites: Called with the copy after it got new weights, in this order; any makes it a twin.
        """
        self._student, self._rewrites = student, rewrites
        self._is_twin = dtype != torch.float32 or bool(rewrites)
        self.model = copy.deepcopy(student).to(dtype) if self._is_twin else student
        self._masters: list[Tensor] = [p for p in student.parameters() if p.requires_grad]
        self._twins: list[Tensor] = [p for p in self.model.parameters() if p.requires_grad]
        if self._is_twin:
            for master in self._masters:
                master.grad = torch.zeros_like(master)
        self._rewrite()

    def pull_gradients(self) -> None:
        """Give the student the gradients that the copy has, and clear the copy's."""
        if not self._is_twin:
            return
        pairs = [(m, t) for m, t in zip(self._masters, self._twins, strict=True) if t.grad is not None]
        with torch.no_grad():
            torch._foreach_copy_([_gradient(m) for m, _ in pairs], [_gradient(t) for _, t in pairs])
        for twin in self._twins:
            twin.grad = None

    def push_weights(self) -> None:
        """Give the copy the student's weights after an update."""
        if self._is_twin:
            with torch.no_grad():
                torch._foreach_copy_(self._twins, self._masters)
            self._rewrite()
        else:
            self.model.zero_grad(set_to_none=True)

    def _rewrite(self) -> None:
        """Let others change the weights that compute."""
        for rewrite in self._rewrites:
            rewrite(self.model)


def _gradient(parameter: Tensor) -> Tensor:
    """Return the gradient of a parameter that has one."""
    assert parameter.grad is not None
    return parameter.grad
