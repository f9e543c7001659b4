"""Many candidates at once, as rows of numbers: drawn, mutated, crossed and encoded without a loop over candidates.

A row holds one place a gene, in space order: the index of the value of a listed dimension, the position in [0, 1] of
a continuum, NaN where the gene is inactive. What `Space` does with one candidate in a tenth of a millisecond is done
here with thousands in a few.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np

from search_spaces.dimensions import STRIDE, Float, Genes, Listed, Value
from search_spaces.space import Space


class Rows:
    """The vectorised view of a space; immutable."""

    def __init__(self, space: Space) -> None:
        """Note the sizes and orders of the genes, parents before children."""
        self.space = space
        self._names = space.names
        self._dimensions = list(space.dimensions.values())
        self._column = {gene: column for column, gene in enumerate(self._names)}
        self._is_float = np.array([isinstance(d, Float) for d in self._dimensions])
        self._is_ordered = np.array([isinstance(d, Float) or cast(Listed, d).ordered for d in self._dimensions])
        self._size = np.array([d.size for d in self._dimensions], np.float64)
        self._conditions = [
            (self._column[gene], self._column[c.parent], np.array([self._place(c.parent, v) for v in c.values]))
            for gene in space.order
            if (c := space.conditions.get(gene)) is not None
        ]

    @property
    def sizes(self) -> np.ndarray:
        """Return ``(genes,)`` float64, how many values each gene has; infinite for a continuum."""
        return self._size

    @property
    def most_neighbours(self) -> int:
        """Return how many rows `neighbours` returns at most."""
        return int(np.where(self._is_ordered, np.minimum(self._size - 1, 2), self._size - 1).sum())

    def of(self, candidates: Sequence[Genes]) -> np.ndarray:
        """Return ``(n, genes)`` float64 rows of candidates; genes they do not have are inactive."""
        rows = np.full((len(candidates), len(self._names)), np.nan)
        for row, genes in zip(rows, candidates, strict=True):
            for gene, value in genes.items():
                row[self._column[gene]] = self._place(gene, value)
        return self._canonical(rows)

    def genes(self, row: np.ndarray) -> dict[str, Value]:
        """Return the canonical candidate of one row."""
        active = np.flatnonzero(~np.isnan(row))
        return {self._names[i]: self._value(int(i), float(row[i])) for i in active}

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Return ``n`` rows, every active gene drawn uniformly."""
        return self._canonical(self._drawn(n, rng))

    def mutate(self, rows: np.ndarray, rng: np.random.Generator, rate: float, max_step: int = 2) -> np.ndarray:
        """Return a child of every row: at least one active gene moves, each at a chance of ``rate``.

        Genes move as `Space.mutate` moves them: ordered ones at most ``max_step`` steps (of a continuum: tenths),
        others to any other value. Genes that become active are drawn uniformly.
        """
        active = ~np.isnan(rows) & (self._size > 1)
        moves = active & (rng.random(rows.shape) < rate)
        lots = np.where(active, rng.random(rows.shape), -1.0)
        idle = np.flatnonzero(~moves.any(axis=1) & active.any(axis=1))
        moves[idle, lots[idle].argmax(axis=1)] = True
        children = np.where(moves, self._moved(rows, rng, max_step), rows)
        return self._canonical(np.where(np.isnan(children), self._drawn(len(rows), rng), children))

    def cross(self, first: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return a child of each pair of rows, every gene from one of the two at even chances."""
        child = np.where(rng.random(first.shape) < 0.5, first, second)
        return self._canonical(np.where(np.isnan(child), np.where(np.isnan(first), second, first), child))

    def neighbours(self, row: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return ``(n, genes)`` rows one step from a row: one gene each, moved as `Space.mutate` with one step.

        Genes that become active are drawn.
        """
        found: list[np.ndarray] = []
        for column in np.flatnonzero(~np.isnan(row)):
            places = self._near(int(column), float(row[column]))
            children = np.repeat(row[None], len(places), axis=0)
            children[:, column] = places
            found.append(children)
        children = np.concatenate(found) if found else np.zeros((0, len(row)))
        return self._canonical(np.where(np.isnan(children), self._drawn(len(children), rng), children))

    def _near(self, column: int, place: float) -> list[float]:
        """Return the places one step from a place of a gene."""
        if self._is_float[column]:
            return [near for near in (place - STRIDE, place + STRIDE) if 0 <= near <= 1 and self._size[column] > 1]
        reach = 1 if self._is_ordered[column] else int(self._size[column])
        low, high = max(0, int(place) - reach), min(int(self._size[column]) - 1, int(place) + reach)
        return [float(near) for near in range(low, high + 1) if near != place]

    def encode(self, rows: np.ndarray) -> np.ndarray:
        """Return ``(n, columns)`` float64 in [0, 1], the columns of `Space.encode`."""
        parts: list[np.ndarray] = []
        for column, (gene, dimension) in enumerate(self.space.dimensions.items()):
            places = rows[:, column]
            if gene in self.space.conditions:
                parts.append(~np.isnan(places))
            if isinstance(dimension, Float):
                parts.append(np.nan_to_num(places) if dimension.size > 1 else np.zeros(len(rows)))
            else:
                seen, inverse = np.unique(places, return_inverse=True)
                width = len(dimension.columns)
                codes = [(0.0,) * width if np.isnan(s) else dimension.encode(dimension.values[int(s)]) for s in seen]
                parts += list(np.array(codes, np.float64).reshape(len(seen), width)[inverse].T)
        return np.stack(parts, axis=1).astype(np.float64) if parts else np.zeros((len(rows), 0))

    def _drawn(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Return ``n`` rows with a uniform place for every gene, active or not."""
        lots = rng.random((n, len(self._names)))
        return np.where(self._is_float, lots, np.floor(lots * np.where(self._is_float, 1.0, self._size)))

    def _moved(self, rows: np.ndarray, rng: np.random.Generator, max_step: int) -> np.ndarray:
        """Return every place moved to another one, as if all genes mutated."""
        lots = rng.random(rows.shape)
        size = np.where(self._is_float, 2.0, self._size)
        low = np.where(self._is_ordered, np.maximum(rows - max_step, 0), 0)
        high = np.where(self._is_ordered, np.minimum(rows + max_step, size - 1), size - 1)
        listed = low + np.floor(lots * np.maximum(high - low, 1))  # one of all but the present place, which is skipped
        listed = np.minimum(listed + (listed >= rows), size - 1)
        shift = (1.0 - lots) * STRIDE * max_step * np.where(rng.random(rows.shape) < 0.5, 1, -1)
        there = np.clip(rows + shift, 0, 1)
        floats = np.where(there == rows, np.clip(rows - shift, 0, 1), there)
        return np.where(self._is_float, floats, listed)

    def _canonical(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows with NaN for inactive genes; an active gene without a place gets its default's, 0."""
        rows = rows.copy()
        unconditional = np.ones(len(self._names), bool)
        unconditional[[child for child, _, _ in self._conditions]] = False
        rows[:, unconditional] = np.nan_to_num(rows[:, unconditional])
        for child, parent, allowed in self._conditions:  # parents first
            is_active = np.isin(rows[:, parent], allowed)
            rows[:, child] = np.where(is_active, np.nan_to_num(rows[:, child]), np.nan)
        return rows

    def _place(self, gene: str, value: Value) -> float:
        """Return the place of a value."""
        dimension = self.space.dimensions[gene]
        if isinstance(dimension, Float):
            return dimension.encode(value)[0]
        return float(dimension.values.index(value))  # type: ignore[arg-type]

    def _value(self, column: int, place: float) -> Value:
        """Return the value at a place."""
        dimension = self._dimensions[column]
        return dimension.at(place) if isinstance(dimension, Float) else dimension.values[int(place)]
