"""Texts to token rows, with the teacher's own tokenizer."""

from itertools import chain
from typing import Any

import numpy as np

from nas.data.splits import Split
from nas.data.tokens import Tokens

CHUNK = 4096  # rows at once: the lists in between take fifty times the memory of the arrays


def tokenize(tokenizer: Any, split: Split, max_length: int) -> Tokens:
    """Return the rows of a split as token ids with special tokens, cut but never padded.

    Args:
        tokenizer: A fast tokenizer of `transformers`.
        split: Rows of one or two texts.
        max_length: Tokens kept of a row, special ones included; of two texts the longer is cut first.
    """
    options = {
        "truncation": True,
        "max_length": min(max_length, tokenizer.model_max_length),
        "padding": False,
        "return_attention_mask": False,
        "return_token_type_ids": True,
    }
    ids, types, lengths = [], [], [0]
    for start in range(0, len(split), CHUNK):
        rows = tokenizer(*map(list, zip(*split.texts[start : start + CHUNK], strict=True)), **options)
        lengths += map(len, rows["input_ids"])
        ids.append(np.fromiter(chain.from_iterable(rows["input_ids"]), np.int32))
        types.append(np.fromiter(chain.from_iterable(rows["token_type_ids"]), np.uint8))
    return Tokens(np.concatenate(ids), np.concatenate(types), np.cumsum(lengths, dtype=np.int64), split.labels)
