"""How much each unit of a text encoder matters; scored by `compressors.importance`, used to inherit weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Importance:
    """Scores of all units of one model; larger = keep. Scores of different kinds are not comparable.

    Attributes:
        heads: For each layer ``(n_heads,)`` float64.
        ffn: For each layer ``(ffn width,)`` float64.
        hidden: ``(hidden,)`` float64, dimensions of the residual stream.
        layers: ``(depth,)`` float64.
    """

    heads: tuple[np.ndarray, ...]
    ffn: tuple[np.ndarray, ...]
    hidden: np.ndarray
    layers: np.ndarray

    @classmethod
    def alike(cls, heads: Sequence[int], ffn: Sequence[int], hidden: int) -> "Importance":
        """Return equal scores for all units of a model with these widths: enough where only shapes count."""
        return cls(tuple(map(np.ones, heads)), tuple(map(np.ones, ffn)), np.ones(hidden), np.ones(len(heads)))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return flat names, e.g. ``heads.0``, to arrays."""
        named = {"hidden": self.hidden, "layers": self.layers}
        named |= {f"heads.{index}": scores for index, scores in enumerate(self.heads)}
        return named | {f"ffn.{index}": scores for index, scores in enumerate(self.ffn)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Importance":
        """Return what `to_arrays` wrote."""
        depth = len(arrays["layers"])
        heads = tuple(arrays[f"heads.{index}"] for index in range(depth))
        ffn = tuple(arrays[f"ffn.{index}"] for index in range(depth))
        return cls(heads, ffn, arrays["hidden"], arrays["layers"])


def most_important(scores: np.ndarray, n: int) -> np.ndarray:
    """Return the ``n`` best indices in their original order; of equal scores the first wins.

    Args:
        scores: ``(m,)`` float, larger = keep, ``m >= n``.
        n: How many to keep.

    Returns:
        ``(n,)`` int64, ascending.
    """
    return np.sort(np.argsort(-scores, kind="stable")[:n])
