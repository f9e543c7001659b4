"""Low rank: a matrix becomes the product of two thin ones, the closest there is.

Closest either in its weights or, ``aware``, in what it answers to the inputs it really gets. Linears of any module,
convolutions, and the word table of a text encoder. Knows modules; not losses, not exporters.
"""

import copy
import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from compressors.base import Material, Phase, Report, Skip
from compressors.factoring import WORDS, Factoring, rank_of
from compressors.factors import input_moments
from search_spaces.dimensions import Choice
from search_spaces.errors import ConfigError, DataError
from search_spaces.families.encoder_costs import matrices
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder
from search_spaces.space import Condition, Space

GROUPS: Mapping[str, tuple[str, ...]] = {
    "ffn": ("layers.*.up", "layers.*.down"),
    "attention": ("layers.*.query", "layers.*.key", "layers.*.value", "layers.*.out"),
    "embeddings": ("embeddings.word",),
    "all": ("*",),
}
"""Names for patterns of module names."""


class LowRank:
    """Replace matrices by their truncated singular value decomposition, or that of what they answer.

    With inputs x the error E||W x - W' x||^2 is least for W' = U U^T W, where U holds the first left singular vectors
    of W E[x x^T]^(1/2); without inputs E[x x^T] is the identity.

    Source: Eckart and Young 1936, https://doi.org/10.1007/BF02288367; aware: Wang et al. 2024 (SVD-LLM),
    https://arxiv.org/abs/2403.07378, sec. 3.1 (the same optimum from a Cholesky factor of E[x x^T]), after Yuan et al.
    2023 (ASVD), https://arxiv.org/abs/2312.05821. Word tables weighted by how often a word occurs: Chen et al. 2018
    (GroupReduce), https://arxiv.org/abs/1806.06950. Convolutions: Zhang et al. 2016,
    https://arxiv.org/abs/1505.06798.
    """

    name: ClassVar[str] = "low_rank"
    suits: ClassVar[str] = "splits matrices into two thin ones: smaller, and faster where much is left out"
    stage: ClassVar[Literal["model"]] = "model"
    phase: ClassVar[Phase] = "structure"

    def __init__(self, share: float = 0.5, which: str = "all", aware: bool = True) -> None:
        """Bind the knobs.

        Args:
            share: Of the weights of each matrix that stay, above 0; 1 leaves the model as it is. The rank follows:
                ``share * in * out / (in + out)``, rounded down.
            which: ``ffn``, ``attention``, ``embeddings`` (the word table), ``all``, or patterns of module names such
                as ``features.*``; several are joined by ``+``.
            aware: Keep what matters for the calibration rows' activations; False: the weights alone.

        Raises:
            ConfigError: A knob is out of its range.
        """
        if not 0 < share <= 1:
            raise ConfigError(f"low_rank.share: {share} is out of range; above 0, at most 1.")
        if not all(which.split("+")):
            raise ConfigError(f"low_rank.which: {which!r} has an empty part; {', '.join(GROUPS)} or module names.")
        self.share, self.which, self.aware = share, which, aware
        self._report = Report(self.name, skipped=(Skip("model", "nothing was compressed yet"),))

    @classmethod
    def space(cls) -> Space:
        """Return the knobs; the others mean something only when anything is factored."""
        shares = (0.2, 0.35, 0.5, 0.7)
        return Space(
            {
                "share": Choice((*shares, 1.0), ordered=True),
                "which": Choice(("ffn", "attention", "ffn+attention", "embeddings", "all")),
                "aware": Choice((True, False)),
            },
            {"which": Condition("share", shares), "aware": Condition("share", shares)},
        )

    @property
    def leaves_plain(self) -> bool:
        """Return False if matrices of layers may be factored."""
        return self.share == 1 or not any(p.startswith(("layers", "*", "?", "[")) for p in self._patterns())

    def shape(self, config: EncoderConfig) -> EncoderConfig:
        """Return the config of what `apply` makes of an encoder.

        Raises:
            ConfigError: As `apply`.
        """
        if self.share == 1:
            return config
        sizes = matrices(config)
        ranks = {name: rank_of(self.share, *sizes[name]) for name in self._named(sizes)}
        ranks = {name: rank for name, rank in ranks.items() if rank}
        if not ranks:
            raise ConfigError(
                f"low_rank.which: {self.which!r} matches nothing that can be factored in an encoder of "
                f"{config.depth} layers at share {self.share:g}. Name other layers, or raise low_rank.share."
            )
        words = ranks.pop(WORDS, config.embedding_rank)
        return replace(config, embedding_rank=words, ranks=(*config.ranks, *ranks.items()))

    def apply(self, model: nn.Module, material: Material) -> nn.Module:
        """Return a copy with factored matrices; a text encoder's config tells which.

        Args:
            model: With Linears, convolutions or a word table.
            material: Its rows are read if ``aware``; its corpus, if there, weighs the words.

        Raises:
            ConfigError: No matrix matches ``which``, or every one that does is skipped, as when the method is used
                twice.
            DataError: ``aware`` and no rows.
        """
        small = copy.deepcopy(model).eval()
        if self.share == 1:
            self._report = Report(self.name, skipped=(Skip("model", "share is 1"),))
            return small
        if self.aware and not material.batches:
            raise DataError(f"low_rank.aware: {self.aware} needs rows and there are 0; give some or set it to false.")
        names, work = self._matched(small), Factoring(small, self.share)
        moments = input_moments(small, names, material.batches) if self.aware else {}
        for name in names:
            if name == WORDS and isinstance(small, TextEncoder):
                work.factor_words(small, _counts(small, material) if self.aware else None)
            else:
                work.factor(name, moments.get(name))
        if not work.changed:
            reasons = "; ".join(f"{skip.where}: {skip.why}" for skip in work.skipped[:3])
            raise ConfigError(
                f"low_rank.which: {self.which!r} matched nothing that can be factored ({reasons}). Name other layers, "
                "raise low_rank.share, or leave it out."
            )
        self._report = Report(self.name, tuple(work.changed), tuple(work.skipped), work.figures())
        return small

    def report(self) -> Report:
        """Return the weights of every matrix before and after.

        Figures: all weights of the matched matrices before and after, and ``error``, the relative distance of the new
        weights from the old ones in the Frobenius norm.
        """
        return self._report

    def _matched(self, model: nn.Module) -> list[str]:
        """Return the modules with a matrix that the patterns name."""
        known = [name for name, part in model.named_modules() if name and getattr(part, "weight", None) is not None]
        names = self._named(known)
        if not names:
            raise ConfigError(
                f"low_rank.which: no layer matched {self.which!r}; the model has {len(known)} layers with weights, "
                f"first: {', '.join(known[:3])}. Use {', '.join(GROUPS)} or patterns of these names."
            )
        return names

    def _patterns(self) -> list[str]:
        """Return the patterns of module names that ``which`` means."""
        return [pattern for part in self.which.split("+") for pattern in GROUPS.get(part, (part,))]

    def _named(self, names: Iterable[str]) -> list[str]:
        """Return the names that a pattern matches."""
        patterns = self._patterns()
        return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def _counts(model: TextEncoder, material: Material) -> Tensor:
    """Return how often each word occurs, in the corpus if it is known, else in the calibration rows."""
    n_words = model.config.vocab_size
    counts = material.corpus
    if counts is None:
        ids = [inputs[0][inputs[1].bool()].flatten().cpu().numpy() for inputs, _ in material.batches]
        counts = np.bincount(np.concatenate(ids), minlength=n_words)
    if counts.shape != (n_words,):
        raise DataError(
            f"low_rank: counts of {counts.shape} tokens, the word table has {n_words} rows; both must be of one "
            "tokenizer."
        )
    return torch.from_numpy(counts).to(model.embeddings.word.weight)
