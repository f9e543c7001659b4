"""A candidate in numbers for a surrogate: its genes, how often each value occurs among like genes, what is known."""

from collections.abc import Sequence

import numpy as np

from nas.strategies.foreknowledge import Foreknowledge
from search_spaces.rows import Rows
from search_spaces.space import Genes

TINY = 1e-9


class Description:
    """The columns of one space."""

    def __init__(self, rows: Rows) -> None:
        """Find the genes that have the same values: layers, edges... whose counts matter more than their places."""
        self._rows = rows
        groups: dict[str, list[int]] = {}
        for column, dimension in enumerate(rows.space.dimensions.values()):
            if 1 < dimension.size <= 32:
                groups.setdefault(repr(dimension), []).append(column)
        self._groups = [
            (np.array(columns), int(rows.sizes[columns[0]])) for columns in groups.values() if len(columns) > 1
        ]

    def views(self, like: np.ndarray) -> list[np.ndarray]:
        """Return ``(columns,)`` bool masks: everything that varies, the genes alone, all but the places of genes.

        Args:
            like: ``(n, columns)`` as from `of`.
        """
        varies, is_gene = np.ptp(like, axis=0) > 0, np.arange(like.shape[1]) < len(self._rows.space.columns)
        return [varies, varies & is_gene, varies & ~is_gene]

    def of(self, rows: np.ndarray, candidates: Sequence[Genes], foreknowledge: Foreknowledge) -> np.ndarray:
        """Return ``(n, columns)`` float64: `Rows.encode`, counts of the values of like genes, known features.

        Args:
            rows: ``(n, genes)`` candidates as rows.
            candidates: The same as genes; only read when there are known features.
            foreknowledge: Has the known features.
        """
        counts = [(rows[:, columns, None] == np.arange(size)).mean(axis=1) for columns, size in self._groups]
        return np.concatenate([self._rows.encode(rows), *counts, *_known(candidates, foreknowledge)], axis=1)


def _known(candidates: Sequence[Genes], foreknowledge: Foreknowledge) -> list[np.ndarray]:
    """Return known features and known costs, which say much of the others; costs also by their logarithms."""
    found = [foreknowledge.known_features(candidates)] if foreknowledge.features else []
    for place in foreknowledge.costs:
        costs = foreknowledge.known_costs(candidates, place + 1)[:, place:]
        found += [costs, np.log(np.maximum(costs, TINY))]
    return found


def standardised(x: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Return columns shifted and scaled so that those of ``like`` have mean 0 and variance 1; constant ones become 0.

    Args:
        x: ``(n, d)`` float64.
        like: ``(m, d)`` float64, e.g. the points a surrogate is fitted on.
    """
    deviation = like.std(axis=0)
    varies = deviation > 1e-9
    found: np.ndarray = np.where(varies, (x - like.mean(axis=0)) / np.where(varies, deviation, 1.0), 0.0)
    return found
