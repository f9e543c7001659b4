"""Rounding in blocks that share a scale, and packing several levels into a byte. Knows arrays; not files."""

import numpy as np


def quantize_blocks(
    rows: np.ndarray, block: int, bits: int, symmetric: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows as unsigned levels, so that ``(level - zero) * scale`` is within half a step of every weight.

    Symmetric blocks have their zero in the middle; there are more levels below it than above, so the scale gets the
    sign that lets the larger end lie below. Rows are filled up with zeros to whole blocks.

    Args:
        rows: ``(n, length)`` float32.
        block: Weights of a block.
        bits: 4 or 8.
        symmetric: Whether the zero is in the middle; else the levels go from the smallest to the largest weight.

    Returns:
        Levels ``(n, blocks, block)`` uint8, scales and zeros ``(n, blocks)`` float32 and uint8.
    """
    n, length = rows.shape
    filled = np.pad(rows, ((0, 0), (0, -length % block))).reshape(n, -1, block)
    low, high = np.minimum(filled.min(axis=2), 0), np.maximum(filled.max(axis=2), 0)
    top = 2**bits - 1
    middle = (top + 1) // 2
    if symmetric:
        below, above = np.maximum(-low, high) / middle, np.minimum(-low, high) / (top - middle)
        scale = np.where(-low >= high, 1, -1) * np.maximum(below, above)
    else:
        scale = (high - low) / top
    scale = np.where(scale == 0, 1, scale).astype(np.float32)
    zero = np.full(scale.shape, middle, np.float32) if symmetric else np.rint(-low / scale)
    levels = np.rint(filled / scale[..., None] + zero[..., None]).clip(0, top)
    return levels.astype(np.uint8), scale, zero.astype(np.uint8)


def pack(levels: np.ndarray, bits: int) -> np.ndarray:
    """Return levels along the last axis as bytes; of 4 bits the first is the low half, an odd end is filled with 0."""
    if bits == 8:
        return levels
    even = np.pad(levels, [(0, 0)] * (levels.ndim - 1) + [(0, levels.shape[-1] % 2)])
    packed: np.ndarray = even[..., 0::2] | even[..., 1::2] << 4
    return packed


def unpack(packed: np.ndarray, bits: int, length: int) -> np.ndarray:
    """Return the levels that `pack` made bytes of, ``length`` of them along the last axis."""
    if bits == 8:
        return packed
    both = np.stack([packed & 15, packed >> 4], axis=-1)
    return both.reshape(*packed.shape[:-1], -1)[..., :length]
