"""Quantization schemes: how a tensor is rounded to what few bits can say, and how large it is then.

Every scheme returns floats, the values that its codes stand for: accuracy is that of the real thing, speed is not.
Scales are float32. Knows tensors; not modules, not which range is worth representing (`compressors.calibration`).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from search_spaces.errors import ConfigError
from search_spaces.registry import unknown_name

SCALE_BITS = 32


class Grid(NamedTuple):
    """Evenly spaced values ``(code - zero) * step`` of the codes ``least`` to ``most``.

    ``step`` and ``zero`` are float32 of any shape that broadcasts to the values; ``zero`` holds whole numbers.
    """

    step: Tensor
    zero: Tensor
    least: int
    most: int

    def round(self, values: Tensor) -> Tensor:
        """Return the nearest values of the grid, ties to the even code; values outside get its end."""
        codes = (values / self.step).round_().add_(self.zero).clamp_(self.least, self.most)
        return codes.sub_(self.zero).mul_(self.step)

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Return the least and the largest value."""
        return (self.least - self.zero) * self.step, (self.most - self.zero) * self.step


class Scheme(ABC):
    """One way to round.

    Attributes:
        name: Its row of `SCHEMES`.
        bits: What a packed value may take; the last is the usual.
        has_channels: Whether a scale for every output channel is possible.
    """

    name: ClassVar[str]
    bits: ClassVar[tuple[int, ...]] = tuple(range(2, 9))
    has_channels: ClassVar[bool] = True

    @abstractmethod
    def quantize(self, values: Tensor, bits: int, per_channel: bool) -> Tensor:
        """Return the rounded values in a new tensor.

        Args:
            values: ``(channels, ...)`` float32.
            bits: One of ``self.bits``.
            per_channel: A scale for each channel instead of one, where the scheme has it.
        """

    def packed_bits(self, values: Tensor, bits: int, per_channel: bool) -> int:
        """Return the bits of all codes, densely packed, and of their scales."""
        n_scales = values.shape[0] if per_channel and self.has_channels else 1
        return values.numel() * bits + n_scales * self._scale_bits(bits)

    def has_runtime(self, bits: int) -> bool:
        """Return whether a runtime here computes with such weights as they are."""
        return False

    def _scale_bits(self, bits: int) -> int:
        """Return the bits of one scale and what belongs to it."""
        return SCALE_BITS


class Uniform(Scheme):
    """Evenly spaced levels over a range; may round activations too.

    Attributes:
        is_symmetric: Whether the range should be as long on both sides of zero.
    """

    is_symmetric: ClassVar[bool] = True

    @abstractmethod
    def grid(self, low: Tensor, high: Tensor, bits: int) -> Grid:
        """Return the levels for a range.

        Args:
            low: Least value, at most 0; any shape that broadcasts to the values.
            high: Largest value, at least 0; the same shape.
            bits: One of ``self.bits``.
        """

    def quantize(self, values: Tensor, bits: int, per_channel: bool) -> Tensor:
        """Return the values rounded to the levels over their own range, channel by channel or all together."""
        return self.grid(*span(values, per_channel and self.has_channels), bits).round(values)

    def has_runtime(self, bits: int) -> bool:
        """Return whether these are the 8 bits that ONNX Runtime's integer kernels take."""
        return bits == 8


class Affine(Uniform):
    """Levels 0 to 2^b - 1 from the least to the largest value: x = S (q - Z), zero among them.

    Source: Jacob et al. 2018, https://arxiv.org/abs/1712.05877, eq. 1 and 12.
    """

    name = "affine"
    is_symmetric = False

    def grid(self, low: Tensor, high: Tensor, bits: int) -> Grid:
        """Return ``S = (high - low) / (2^b - 1)``, ``Z = round(-low / S)``; see `Uniform.grid`."""
        most = 2**bits - 1
        step = _step((high - low) / most)
        return Grid(step, (-low / step).round().clamp(0, most), 0, most)

    def _scale_bits(self, bits: int) -> int:
        """Return the bits of a scale and its zero point."""
        return SCALE_BITS + bits


class Symmetric(Uniform):
    """Levels -(2^(b-1) - 1) to 2^(b-1) - 1 around zero; at 8 bits what `compressors.int8.quantize` stores.

    Source: Wu et al. 2020, https://arxiv.org/abs/2004.09602, sec. 3.1.2 (scale quantization).
    """

    name = "symmetric"

    def grid(self, low: Tensor, high: Tensor, bits: int) -> Grid:
        """Return ``S = max |x| / (2^(b-1) - 1)``, ``Z = 0``; see `Uniform.grid`."""
        most = 2 ** (bits - 1) - 1
        step = _step(torch.maximum(high, -low) / most)
        return Grid(step, torch.zeros_like(step), -most, most)


class Integer(Uniform):
    """All 2^b integers of two's complement with one scale for the whole tensor, the least that cuts nothing off.

    Source: Krishnamoorthi 2018, https://arxiv.org/abs/1806.08342, sec. 2.2 (signed codes, zero point 0).
    """

    name = "integer"
    has_channels = False

    def grid(self, low: Tensor, high: Tensor, bits: int) -> Grid:
        """Return ``S = max(high / (2^(b-1) - 1), -low / 2^(b-1))``, ``Z = 0``; see `Uniform.grid`."""
        half = 2 ** (bits - 1)
        step = _step(torch.maximum(high / (half - 1), -low / half))
        return Grid(step, torch.zeros_like(step), -half, half - 1)


class FixedPoint(Integer):
    """As `Integer`, with a step that is a power of two: multiplying by it is a shift. Scales may differ by channel.

    Source: Lin et al. 2016, https://arxiv.org/abs/1511.06393, sec. 3.
    """

    name = "fixed_point"
    has_channels = True

    def grid(self, low: Tensor, high: Tensor, bits: int) -> Grid:
        """Return the least power of two that cuts nothing off as ``S``; see `Uniform.grid`."""
        exact = super().grid(low, high, bits)
        mantissa, exponent = torch.frexp(exact.step)  # mantissa in [0.5, 1): 0.5 is a power of two itself
        step = torch.ldexp(torch.ones_like(mantissa), exponent - (mantissa == 0.5).int())
        return exact._replace(step=step)

    def has_runtime(self, bits: int) -> bool:
        """Return False: such kernels are of signal processors."""
        return False

    def _scale_bits(self, bits: int) -> int:
        """Return the bits of an exponent."""
        return 8


class Binary(Scheme):
    """``mean |w| * sign(w)`` with the mean of each channel; the sign of 0 is +1, since one bit has no zero.

    Source: Rastegari et al. 2016 (XNOR-Net), https://arxiv.org/abs/1603.05279, eq. 6.
    """

    name = "binary"
    bits = (1,)

    def quantize(self, values: Tensor, bits: int, per_channel: bool) -> Tensor:
        """Return the rounded values; see `Scheme.quantize`."""
        mean = values.abs().mean(_others(values, per_channel), keepdim=True)
        return torch.where(values < 0, -mean, mean)


class Ternary(Scheme):
    """``alpha * {-1, 0, 1}``: zero up to ``delta = 0.7 mean |w|``, alpha the mean of the magnitudes above.

    Source: Li et al. 2016 (Ternary Weight Networks), https://arxiv.org/abs/1605.04711, eq. 3 to 6.
    """

    name = "ternary"
    bits = (2,)

    def quantize(self, values: Tensor, bits: int, per_channel: bool) -> Tensor:
        """Return the rounded values; see `Scheme.quantize`."""
        others, magnitudes = _others(values, per_channel), values.abs()
        is_large = magnitudes > 0.7 * magnitudes.mean(others, keepdim=True)
        alpha = (magnitudes * is_large).sum(others, keepdim=True) / is_large.sum(others, keepdim=True).clamp(min=1)
        return alpha * values.sign() * is_large


SCHEMES: Mapping[str, Scheme] = {
    scheme.name: scheme for scheme in (Symmetric(), Affine(), Integer(), FixedPoint(), Binary(), Ternary())
}


def scheme_for(where: str, name: str, bits: int | None) -> tuple[Scheme, int]:
    """Return a scheme and the bits to use it with.

    Args:
        where: The compressor, for errors.
        name: A row of `SCHEMES`.
        bits: None = the most it has.

    Raises:
        ConfigError: The scheme is unknown or has no such bits.
    """
    if name not in SCHEMES:
        raise unknown_name(f"{where}.scheme", name, list(SCHEMES))
    scheme = SCHEMES[name]
    bits = scheme.bits[-1] if bits is None else bits
    if bits not in scheme.bits:
        allowed = f"{scheme.bits[0]} to {scheme.bits[-1]}" if len(scheme.bits) > 1 else f"only {scheme.bits[0]}"
        raise ConfigError(f"{where}.bits: {bits} is outside the scheme {name!r}; {allowed}.")
    return scheme, bits


def uniform_for(where: str, name: str, bits: int) -> Uniform:
    """Return a scheme for activations.

    Raises:
        ConfigError: It is unknown, is not evenly spaced, or has no such bits.
    """
    known = [key for key, scheme in SCHEMES.items() if isinstance(scheme, Uniform)]
    if name not in known:
        raise unknown_name(f"{where}.activation_scheme", name, known)
    scheme = SCHEMES[name]
    if bits not in scheme.bits:
        allowed = f"{scheme.bits[0]} to {scheme.bits[-1]}"
        raise ConfigError(f"{where}.activation_bits: {bits} is out of range; {allowed}.")
    assert isinstance(scheme, Uniform)
    return scheme


def span(values: Tensor, per_channel: bool) -> tuple[Tensor, Tensor]:
    """Return the least and largest value, of each channel (the first axis) or of all, zero included."""
    others = _others(values, per_channel)
    return values.amin(others, keepdim=True).clamp(max=0), values.amax(others, keepdim=True).clamp(min=0)


def _others(values: Tensor, per_channel: bool) -> list[int]:
    """Return the axes that share a scale."""
    return list(range(1 if per_channel else 0, values.ndim))


def _step(step: Tensor) -> Tensor:
    """Return 1 instead of a step of 0, which values that are all zero have."""
    return torch.where(step > 0, step, 1.0)
