"""Tokenised texts without padding, and batches of rows of like length.

Knows arrays only: not tokenizers, not files.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch


class Batch(NamedTuple):
    """Rows padded on the right to the longest of them; all ``(rows, tokens)`` int64, mask 1 = real token."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    token_type_ids: torch.Tensor


@dataclass(frozen=True)
class Tokens:
    """Ragged rows: row i is ``ids[offsets[i]:offsets[i + 1]]``.

    Attributes:
        ids: ``(total,)`` int32 token ids, special tokens included.
        types: ``(total,)`` uint8 segment of each token (all 0 for one text column).
        offsets: ``(n + 1,)`` int64, first 0, last total.
        labels: ``(n,)`` int64.
    """

    ids: np.ndarray
    types: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """Return ``(n,)`` tokens of each row."""
        return np.diff(self.offsets)

    def subset(self, rows: np.ndarray) -> "Tokens":
        """Return a copy with these rows, in this order."""
        lengths = self._lengths_of(rows)
        picks = self._places(rows)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return Tokens(self.ids[picks], self.types[picks], offsets, self.labels[rows])

    def _lengths_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the tokens of these rows; `lengths` of all rows would cost more than the batch itself."""
        lengths: np.ndarray = self.offsets[1:][rows] - self.offsets[:-1][rows]
        return lengths

    def _places(self, rows: np.ndarray) -> np.ndarray:
        """Return where in ``ids`` the tokens of these rows lie, row after row."""
        lengths = self._lengths_of(rows)
        shift = self.offsets[:-1][rows] - (np.cumsum(lengths) - lengths)
        places: np.ndarray = np.arange(lengths.sum()) + np.repeat(shift, lengths)
        return places

    def collate(self, rows: np.ndarray) -> Batch:
        """Return rows as padded tensors; padding has id 0 and mask 0, so any pad id of the model is right."""
        lengths = self._lengths_of(rows)
        inside = np.arange(lengths.max())[None, :] < lengths[:, None]
        flat = self._places(rows)
        ids = np.zeros(inside.shape, np.int64)
        types = np.zeros(inside.shape, np.int64)
        ids[inside] = self.ids[flat]
        types[inside] = self.types[flat]
        return Batch(torch.from_numpy(ids), torch.from_numpy(inside.astype(np.int64)), torch.from_numpy(types))


def bucketed_batches(
    lengths: np.ndarray, batch_size: int, rng: np.random.Generator | None, spread: int = 50
) -> Iterator[np.ndarray]:
    """Yield row indices of batches with rows of like length, so that padding costs next to nothing.

    Rows are shuffled, sorted by length within chunks of ``spread`` batches, cut into batches, and the batches
    shuffled: random enough to train on, with a few per cent of padding.

    Args:
        lengths: ``(n,)`` tokens of each row.
        batch_size: Rows of a batch; the last may be smaller.
        rng: None sorts all rows by length and keeps that order (for evaluation).
        spread: Batches of one chunk; larger means less padding and less randomness.
    """
    if rng is None:
        order = np.argsort(lengths, kind="stable")
        yield from (order[i : i + batch_size] for i in range(0, len(order), batch_size))
        return
    order = rng.permutation(len(lengths))
    chunk = batch_size * spread
    batches = []
    for start in range(0, len(order), chunk):
        rows = order[start : start + chunk]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    for index in rng.permutation(len(batches)):
        yield batches[index]
