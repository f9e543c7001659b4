"""Vocabulary pruning: rows of the word table that no text of the corpus reads are dropped.

The logits of a covered text stay the same to the bit, and so does the time: a table is looked up, not multiplied. The
ids change, so whoever delivers the model delivers the new tokenizer with it. Knows text encoders and tokenizers.
"""

import copy
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn

from compressors.base import Change, Material, Phase, Report, Skip
from compressors.tokenizer import required_ids, shrink_tokenizer
from search_spaces.dimensions import Choice
from search_spaces.errors import ConfigError
from search_spaces.families.encoder_model import TextEncoder
from search_spaces.space import Space

FLOAT_BYTES = 4


class Vocabulary:
    """Drop tokens that occur too rarely in the training split; special tokens and single letters stay.

    Attributes:
        kept: ``(n,)`` int64, ascending, after `apply`: the old id of each new one; see `compressors.tokenizer.remap`.
        tokenizer: After `apply`: the tokenizer of the new model.

    Source: Abdaoui et al. 2020, https://arxiv.org/abs/2010.05609 (the words of a language); here those of a
    corpus.
    """

    name: ClassVar[str] = "vocabulary"
    suits: ClassVar[str] = "drops words the corpus never uses: a much smaller file, same logits there, same speed"
    stage: ClassVar[Literal["model"]] = "model"
    phase: ClassVar[Phase] = "structure"

    def __init__(self, min_count: int = 1) -> None:
        """Bind the knobs.

        Args:
            min_count: Tokens that occur fewer times go. 0 keeps all; above 1, rare words of the corpus are spelled
                with shorter pieces, and logits of their texts change.

        Raises:
            ConfigError: ``min_count`` is negative.
        """
        if min_count < 0:
            raise ConfigError(f"vocabulary.min_count: {min_count} is out of range; 0 or more.")
        self.min_count = min_count
        self.kept: np.ndarray | None = None
        self.tokenizer: Any = None
        self._report = Report(self.name, skipped=(Skip("embeddings.word", "nothing was compressed yet"),))

    @classmethod
    def space(cls) -> Space:
        """Return the knobs."""
        return Space({"min_count": Choice((0, 1, 2, 5), ordered=True)})

    def apply(self, model: nn.Module, material: Material) -> TextEncoder:
        """Return a copy with fewer rows in its word table; `kept` and `tokenizer` tell the new ids.

        Args:
            model: A text encoder.
            material: With the corpus' counts and the tokenizer.

        Raises:
            ConfigError: The model is no text encoder, counts or tokenizer are missing or do not fit, or no token
                can go, as when the method is used twice.
        """
        encoder, corpus = _checked(model, material)
        seen = np.flatnonzero(corpus >= self.min_count)
        kept = required_ids(material.tokenizer, [*seen, encoder.config.pad_token_id]) if self.min_count else seen
        if self.min_count and len(kept) == len(corpus):
            raise ConfigError(
                f"vocabulary.min_count: all {len(corpus)} tokens occur {self.min_count} times or more, or are needed "
                "to spell others; none can go. Leave vocabulary out."
            )
        small = with_words(encoder, kept)
        self.tokenizer = shrink_tokenizer(material.tokenizer, kept) if self.min_count else material.tokenizer
        self.kept = kept
        self._report = self._written(encoder, corpus)
        return small

    def report(self) -> Report:
        """Return the tokens and bytes of the word table (float32) before and after.

        ``covered`` is the share of the corpus' tokens that are still there.
        """
        return self._report

    def _written(self, before: TextEncoder, corpus: np.ndarray) -> Report:
        """Return the report of an `apply`."""
        assert self.kept is not None
        row = before.embeddings.word.embedding_dim * FLOAT_BYTES
        figures = {
            "tokens_before": float(len(corpus)),
            "tokens_after": float(len(self.kept)),
            "bytes_before": float(len(corpus) * row),
            "bytes_after": float(len(self.kept) * row),
            "covered": float(corpus[self.kept].sum() / max(1, corpus.sum())),
        }
        if not self.min_count:
            return Report(self.name, skipped=(Skip("embeddings.word", "min_count is 0"),), figures=figures)
        return Report(self.name, (Change("embeddings.word", len(corpus), len(self.kept)),), (), figures)


def _checked(model: nn.Module, material: Material) -> tuple[TextEncoder, np.ndarray]:
    """Return the encoder and the counts, if all that is needed is there and fits."""
    if not isinstance(model, TextEncoder):
        raise ConfigError(f"vocabulary: a {type(model).__name__} has no word table; a text encoder has.")
    if material.corpus is None or material.tokenizer is None:
        missing = "counts of the corpus" if material.corpus is None else "tokenizer"
        raise ConfigError(f"vocabulary: the {missing} is {None}; counts and tokenizer are needed. Pass them along.")
    if material.corpus.shape != (model.config.vocab_size,):
        raise ConfigError(
            f"vocabulary: counts of {material.corpus.shape} tokens, the word table has {model.config.vocab_size} rows; "
            "both must be of one tokenizer. Count the corpus again after a change of the tokenizer."
        )
    return model, material.corpus


def with_words(encoder: TextEncoder, kept: np.ndarray) -> TextEncoder:
    """Return a copy in evaluation mode that has some rows of the word table.

    Args:
        encoder: Not changed.
        kept: ``(n,)`` int64, ascending: the rows, the padding token's among them.
    """
    small = copy.deepcopy(encoder).eval()
    rows = torch.from_numpy(kept).to(encoder.embeddings.word.weight.device)
    table = encoder.embeddings.word.weight.detach()[rows]
    small.embeddings.word = nn.Embedding(len(table), table.shape[1], _weight=table)
    padding = int(np.searchsorted(kept, encoder.config.pad_token_id))
    # Hugging Face counts RoBERTa's positions from the padding id
    offset = padding + 1 if encoder.config.position_offset else 0
    small.config = replace(encoder.config, vocab_size=len(kept), pad_token_id=padding, position_offset=offset)
    return small
