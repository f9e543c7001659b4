"""Labelled texts in splits, the checks every data set must pass, and holding out a part of one.

Knows rows and labels; not files, not tokens.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from search_spaces.errors import DataError
from search_spaces.seeding import rng_for

Row = tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """Rows of one or two texts with their labels.

    Attributes:
        texts: n rows, all of 1 or all of 2 texts.
        labels: ``(n,)`` int64, positions in the names of the labels.
    """

    texts: tuple[Row, ...]
    labels: np.ndarray

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.labels)

    def take(self, rows: np.ndarray) -> "Split":
        """Return a copy with these rows, in this order."""
        return Split(tuple(self.texts[row] for row in rows), self.labels[rows])


@dataclass(frozen=True)
class TextData:
    """A data set ready to search with: no text of one split occurs in another.

    Attributes:
        train: What students learn from.
        validation: What the search scores on.
        test: Scored once, for the finalists; may be absent.
        labels: Names of the labels; a label is a position in it.
        notes: What was done to the rows on the way, one line each, for people.
    """

    train: Split
    validation: Split
    test: Split | None
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Return the sha256 of all rows, labels and names, as 64 hex digits."""
        digest = hashlib.sha256(json.dumps(self.labels).encode())
        for split in (self.train, self.validation, self.test):
            digest.update(json.dumps(split.texts if split else None).encode())
            digest.update(split.labels.astype("<i8").tobytes() if split else b"")
        return digest.hexdigest()


def check_split(split: Split, name: str, labels: Sequence[str], several: bool = True) -> None:
    """Check what training and scoring rely on.

    Args:
        split: Any split.
        name: ``train``, ``validation`` or ``test``.
        labels: Names of all labels.
        several: Whether rows of at least two labels must be there.

    Raises:
        DataError: No rows, a label out of range, or one class only.
    """
    if not len(split):
        raise DataError(f"data.{name}: has no rows; at least one is needed. Check the file or the name of the split.")
    outside = np.flatnonzero((split.labels < 0) | (split.labels >= len(labels)))
    if len(outside):
        row = int(outside[0])
        raise DataError(
            f"data.{name}: label {split.labels[row]} in row {row} is out of range; allowed are 0 to "
            f"{len(labels) - 1}. Number the labels from 0, or leave out rows without a known label."
        )
    if several and (split.labels == split.labels[0]).all():
        only = labels[int(split.labels[0])]
        raise DataError(f"data.{name}: all {len(split)} rows have label {only!r}; a classifier needs at least two.")


def without_texts(split: Split, others: Sequence[Split]) -> Split:
    """Return the rows of ``split`` whose texts occur in none of the others, in their order."""
    known = {row for other in others for row in other.texts}
    keep = np.array([row not in known for row in split.texts], dtype=bool)
    return split if keep.all() else split.take(np.flatnonzero(keep))


def hold_out(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Cut a share off a split, with the same shares of labels and no text in both parts.

    Args:
        split: What to cut; left as it is.
        share: Of the rows to hold out, 0 to 1.
        seed: Equal seeds give equal parts.

    Returns:
        The rest and the held-out part, rows in their old order.

    Raises:
        DataError: A label has too few different texts to be in both parts.
    """
    group_of: dict[Row, int] = {}
    groups = np.array([group_of.setdefault(row, len(group_of)) for row in split.texts], dtype=np.int64)
    _, first = np.unique(groups, return_index=True)
    group_label = split.labels[first]
    held = np.zeros(len(first), dtype=bool)
    for label in np.unique(group_label):
        members = np.flatnonzero(group_label == label)
        if len(members) < 2:
            raise DataError(
                f"data.validation_share: label {label} has {len(members)} different text; it takes at least 2 to hold "
                "one out. Add rows, or name a validation file with data.validation."
            )
        n_held = min(max(1, round(share * len(members))), len(members) - 1)
        held[rng_for(seed, "hold out", int(label)).permutation(members)[:n_held]] = True
    return split.take(np.flatnonzero(~held[groups])), split.take(np.flatnonzero(held[groups]))


def at_most(split: Split, n_rows: int | None, seed: int) -> Split:
    """Return a random part of ``n_rows`` rows with about the same shares of labels; all rows when there are fewer."""
    if n_rows is None or n_rows >= len(split):
        return split
    order = rng_for(seed, "at most").permutation(len(split))
    order = order[np.argsort(split.labels[order], kind="stable")]  # by label, random within a label
    evenly = np.floor(np.arange(n_rows) * (len(split) / n_rows)).astype(np.int64)
    return split.take(np.sort(order[evenly]))
