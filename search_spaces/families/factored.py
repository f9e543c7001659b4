"""A Linear whose matrix is the product of two thin ones; knows nothing of how the two are found."""

from collections.abc import Iterable
from typing import cast

from torch import Tensor, nn

from search_spaces.errors import ConfigError


class FactoredLinear(nn.Module):
    """``x`` times ``inner`` ``(rank, in)``, times ``outer`` ``(out, rank)``, plus the bias, where there is one."""

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool = True) -> None:
        """Make both factors, with PyTorch's own initialisation."""
        super().__init__()
        self.inner = nn.Linear(in_features, rank, bias=False)
        self.outer = nn.Linear(rank, out_features, bias=bias)

    @property
    def in_features(self) -> int:
        """Return the width of the input."""
        return self.inner.in_features

    @property
    def out_features(self) -> int:
        """Return the width of the output."""
        return self.outer.out_features

    @property
    def bias(self) -> Tensor:
        """Return the bias of the product; None without one, as a Linear has it."""
        return self.outer.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(..., out)`` of ``(..., in)``."""
        return self.outer(self.inner(x))  # type: ignore[no-any-return]


def factor_linears(model: nn.Module, ranks: Iterable[tuple[str, int]]) -> None:
    """Replace Linears by fresh factored ones, in place.

    Args:
        model: Holds the Linears.
        ranks: Name of a module and its rank.

    Raises:
        ConfigError: A name is no Linear of the model.
    """
    for name, rank in ranks:
        linear = dict(model.named_modules()).get(name)
        if type(linear) is not nn.Linear:
            kind = "missing" if linear is None else f"a {type(linear).__name__}"
            raise ConfigError(f"encoder.ranks: {name} is {kind}; only a Linear has a rank. Build the model again.")
        has_bias = cast(Tensor | None, linear.bias) is not None
        model.set_submodule(name, FactoredLinear(linear.in_features, linear.out_features, rank, has_bias))
