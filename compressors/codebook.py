"""Codebook: the weights of each layer take only a few values, which k-means finds.

Simulated: what a packed file would hold is counted, but the weights stay float32 in memory and in the exported model,
and no runtime here computes with codebooks, so nothing gets faster. Knows modules and matrices.
"""

import copy
from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import nn

from compressors.base import Change, Material, Phase, Report, Skip
from compressors.clusters import Codes, cluster
from compressors.huffman import code_lengths, entropy_bits
from search_spaces.dimensions import Choice
from search_spaces.errors import ConfigError
from search_spaces.space import Space

FULL = 32  # bits of a float
MATRICES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding)


class Codebook:
    """Replace the weights of every Linear, convolution and table by the nearest of 2^bits values of that layer.

    A layer with many zeros (a share of at least 1 / 2^bits) keeps them: one of its values is zero, so that pruning
    before this step stays pruning.

    Source: Han et al. 2016 (Deep Compression), https://arxiv.org/abs/1510.00149, sec. 3 (clusters, linear
    initialisation) and 4 (Huffman coding).
    """

    name: ClassVar[str] = "codebook"
    suits: ClassVar[str] = "few values a layer, found by k-means, Huffman-coded: tiny when packed, not faster here"
    stage: ClassVar[Literal["model"]] = "model"
    phase: ClassVar[Phase] = "bits"

    def __init__(self, bits: int = 4) -> None:
        """Bind the knobs.

        Args:
            bits: Of a weight's number in the codebook, 1 to 8; 32 leaves the model as it is.

        Raises:
            ConfigError: ``bits`` is out of range.
        """
        if bits != FULL and not 1 <= bits <= 8:
            raise ConfigError(f"codebook.bits: {bits} is out of range; 1 to 8, or {FULL} for no codebook.")
        self.bits = bits
        self._report = Report(self.name, skipped=(Skip("model", "nothing was compressed yet"),))

    @classmethod
    def space(cls) -> Space:
        """Return the knobs."""
        return Space({"bits": Choice((2, 3, 4, 5, 6, 8, FULL), ordered=True)})

    def apply(self, model: nn.Module, material: Material) -> nn.Module:
        """Return a copy whose matrices have few values each.

        Args:
            model: Any module.
            material: Not read.

        Raises:
            ConfigError: No matrix is there, or each has few values already, as when the method is used twice.
        """
        small = copy.deepcopy(model).eval()
        if self.bits == FULL:
            self._report = Report(self.name, skipped=(Skip("model", f"bits is {FULL}"),))
            return small
        sizes = _Sizes(self.bits)
        skipped = [Skip("runtime", "simulated: no runtime here computes with codebooks, so it is not faster")]
        changed = []
        for name, module in _matrices(small):
            values = module.weight.detach().cpu().numpy()
            codes = cluster(values.ravel(), 2**self.bits)
            if codes is None:
                skipped.append(Skip(name, f"has at most {2**self.bits} values already"))
                continue
            rounded = torch.from_numpy(codes.centroids[codes.numbers].reshape(values.shape))
            module.weight.data.copy_(rounded)
            changed.append(Change(name, values.size * FULL // 8, sizes.add(codes)))
        if not changed:
            raise ConfigError(
                f"codebook.bits: 0 of {len(skipped) - 1} matrices have more than {2**self.bits} values; Linears, "
                "convolutions and tables of more can be clustered. Use fewer bits or leave it out."
            )
        skipped += [Skip(name, "not a matrix") for name, p in small.named_parameters() if p.ndim < 2]
        self._report = Report(self.name, tuple(changed), tuple(skipped), sizes.figures())
        return small

    def report(self) -> Report:
        """Return the bytes of every matrix before (float32) and packed with ``bits`` a weight, codebook included.

        Figures, of all matrices together: ``bytes_packed``; ``bytes_huffman``, with the numbers Huffman-coded and the
        table of code lengths; ``entropy_bits`` of a weight, the least that any code of single numbers needs.
        """
        return self._report


class _Sizes:
    """Bytes that a packed file would have."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.n = self.before = self.packed = self.huffman = 0
        self.entropy = 0.0

    def add(self, codes: Codes) -> int:
        """Count one matrix and return its packed bytes."""
        n, table = len(codes.numbers), FULL // 8 * len(codes.centroids)
        counts = np.bincount(codes.numbers, minlength=len(codes.centroids))
        packed = _bytes(n * self.bits) + table
        self.n += n
        self.before += n * FULL // 8
        self.packed += packed
        # a canonical code is known from its lengths, a byte each
        self.huffman += _bytes(int(counts @ code_lengths(counts))) + table + len(counts)
        self.entropy += n * entropy_bits(counts)
        return packed

    def figures(self) -> dict[str, float]:
        """Return the sums."""
        return {
            "bits": float(self.bits),
            "bytes_before": float(self.before),
            "bytes_packed": float(self.packed),
            "bytes_huffman": float(self.huffman),
            "entropy_bits": self.entropy / self.n,
        }


def _bytes(n_bits: int) -> int:
    """Return whole bytes."""
    return -(-n_bits // 8)


def _matrices(model: nn.Module) -> Iterator[tuple[str, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Embedding]]:
    """Yield what has a matrix; a module that stands in several places comes once."""
    for name, module in model.named_modules():
        if isinstance(module, MATRICES):
            yield name, module
