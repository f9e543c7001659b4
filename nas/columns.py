"""What a cost is a sum of: columns made of features, for a regression to find their prices.

Latency is a sum of physical terms, with two exceptions. Weights that do not fit into the cache come from memory in
every call (on our machine a product is half as fast then), so a feature whose name ends in ``_mb`` is memory read once
a call, and what misses the cache is a column of its own. And a price may change with the size of the block, so a table
has columns that begin at some values of a feature: between its entries it is interpolated.

Knows arrays and the names of features; no measurements.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

MEMORY = "_mb"  # how the names of memory features end
OLD = "on "  # how the names of features begin that are predictions for another device
CACHES = 8  # cache sizes tried
ENTRIES = 5  # of a table for one feature, at most


@dataclass(frozen=True)
class Columns:
    """How a row of features becomes a row of columns; the last is the constant.

    Attributes:
        used: Places of the features that count.
        memory: Places of those that are memory.
        cache_mb: How much of the memory features the device keeps close; None = no limit was seen.
        entries: For each feature that counts, where its price may change.
    """

    used: tuple[int, ...]
    memory: tuple[int, ...] = ()
    cache_mb: float | None = None
    entries: tuple[tuple[float, ...], ...] = ()

    def of(self, table: np.ndarray) -> np.ndarray:
        """Return ``(n, m)`` columns of ``(n, features)`` rows.

        Memory is read in the same order in every call, so a cache that is too small by half keeps nothing of it.
        """
        parts = [table[:, self._used]]
        if self.cache_mb is not None:
            memory = table[:, list(self.memory)]
            parts.append(memory * np.clip(2 * (memory.sum(axis=1, keepdims=True) / self.cache_mb - 1), 0, 1))
        for place, entries in zip(self.used, self.entries, strict=False):
            parts.append(np.maximum(table[:, [place]] - np.array(entries)[None, :], 0))
        return np.hstack([*parts, np.ones((len(table), 1))])

    def in_words(self, names: Sequence[str]) -> str:
        """Return what kind of sum it is, e.g. ``9 prices, a cache of 3.1 MB``; ``names`` are those of the features."""
        old = [names[place].removeprefix(OLD) for place in self.used if names[place].startswith(OLD)]
        n_entries = sum(map(len, self.entries))
        words = [f"a table of {n_entries} entries" if n_entries else f"{len(self.used) - len(old)} prices"]
        words += [f"what is known of {name}" for name in old]
        words += [] if self.cache_mb is None else [f"a cache of {self.cache_mb:.3g} MB"]
        return ", ".join(words)

    @cached_property
    def _used(self) -> list[int]:
        """Return the places as numpy wants them."""
        return list(self.used)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Columns":
        """Return the columns of their fields as JSON has them."""
        entries = tuple(tuple(each) for each in fields["entries"])
        return cls(tuple(fields["used"]), tuple(fields["memory"]), fields["cache_mb"], entries)


def own_places(names: Sequence[str]) -> list[int]:
    """Return the places of the features that are not predictions for another device."""
    return [place for place, name in enumerate(names) if not name.startswith(OLD)]


def sums(table: np.ndarray, names: Sequence[str]) -> list[Columns]:
    """Return sums of the features to try: one for every size of the cache that the rows may tell.

    Args:
        table: ``(n, features)`` rows.
        names: Of the features.
    """
    own = tuple(own_places(names))
    memory = tuple(place for place in own if names[place].endswith(MEMORY))
    return [Columns(own, memory, cache) for cache in _caches(table[:, list(memory)].sum(axis=1))]


def block_table(table: np.ndarray, names: Sequence[str]) -> Columns:
    """Return an additive table: a price for each feature that changes at the quantiles of the values seen."""
    own = tuple(own_places(names))
    return Columns(own, entries=tuple(_entries(table[:, place]) for place in own))


def transfers(names: Sequence[str]) -> list[Columns]:
    """Return sums of the predictions for other devices, alone and with the features; none without another device."""
    old = tuple(place for place, name in enumerate(names) if name.startswith(OLD))
    return [Columns(old), Columns((*old, *own_places(names)))] if old else []


def _caches(memory: np.ndarray) -> list[float | None]:
    """Return the cache sizes to try: none, and some between the smallest and the largest memory of a student."""
    if memory.max(initial=0.0) <= memory.min(initial=np.inf) or memory.min() <= 0:
        return [None]
    return [None, *np.geomspace(memory.min(), memory.max(), CACHES + 2)[1:-1].tolist()]


def _entries(values: np.ndarray) -> tuple[float, ...]:
    """Return the inner entries of a feature's table; a feature of two values has none."""
    distinct = np.unique(values)
    if len(distinct) > ENTRIES:
        distinct = np.unique(np.quantile(values, np.linspace(0, 1, ENTRIES)))
    return tuple(distinct[1:-1].tolist())
