"""Texts to token rows, with the teacher's own tokenizer."""

from itertools import chain
from typing import Any

import numpy as np

from nas.data.splits import Split
from nas.data.tokens import Tokens


def tokenize(tokenizer: Any, split: Split, max_length: int) -> Tokens:
    """Return the rows of a split as token ids with special tokens, cut but never padded.

    Args:
        tokenizer: A fast tokenizer of `transformers`.
        split: Rows of one or two texts.
        max_length: Tokens kept of a row, special ones included; of two texts the longer is cut first.
    """
    columns = [list(column) for column in zip(*split.texts, strict=True)]
    rows = tokenizer(
        *columns,
        truncation=True,
        max_length=min(max_length, tokenizer.model_max_length),
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=True,
    )
    offsets = np.cumsum([0, *map(len, rows["input_ids"])], dtype=np.int64)
    ids = np.fromiter(chain.from_iterable(rows["input_ids"]), np.int32, offsets[-1])
    types = np.fromiter(chain.from_iterable(rows["token_type_ids"]), np.uint8, offsets[-1])
    return Tokens(ids, types, offsets, split.labels)
