"""The tried candidates of a history as arrays, kept up to date at the price of what is new; and a pool of others."""

import numpy as np

from nas.pareto import pareto_front
from nas.strategies.history import History, Observation
from search_spaces.rows import Rows
from search_spaces.space import Genes


class Archive:
    """Finished trials with costs, in the order they were told.

    Attributes:
        rows: ``(n, genes)`` float64.
        costs: ``(n, m)`` float64, minimised, as told: of those that were stopped early after a part of the training.
        violations: ``(n,)`` float64, above 0 is infeasible.
        candidates: n canonical genes.
        front: Indices of the feasible ones that no feasible one dominates; of the least infeasible one if all are.
            Those that were stopped early only count while nothing was trained in full.
        pending: ``(k, genes)`` float64, those that run.
    """

    def __init__(self, rows: Rows) -> None:
        """Begin empty."""
        self._view = rows
        self.rows = np.zeros((0, len(rows.sizes)))
        self.costs = np.zeros((0, 0))
        self.violations = np.zeros(0)
        self.candidates: list[Genes] = []
        self._seen: list[Observation] = []
        self._stopped: list[int] = []
        self.front = np.zeros(0, np.int64)
        self.pending = self.rows
        self._tried: set[bytes] = set()
        self._n_read = 0

    def __len__(self) -> int:
        """Return the number of finished trials with costs."""
        return len(self.candidates)

    def update(self, history: History) -> None:
        """Read what is new; always the same history."""
        new = history.told[self._n_read :]
        self._n_read = len(history.told)
        self._tried |= _keys(self._view.of([seen.genes for seen in new]))
        self.pending = self._view.of(list(history.pending.values()))
        if useful := [seen for seen in new if seen.costs is not None]:
            first, genes = len(self), [seen.genes for seen in useful]
            self.candidates += genes
            self._seen += useful
            self._stopped += [first + i for i, seen in enumerate(useful) if not seen.is_whole]
            self.rows = np.concatenate([self.rows, self._view.of(genes)])
            costs = np.stack([seen.costs for seen in useful if seen.costs is not None])
            self.costs = np.concatenate([self.costs.reshape(-1, history.n_costs), costs])
            self.violations = np.append(self.violations, [seen.violation for seen in useful])
            self.front = self._new_front(np.append(self.front, np.arange(first, len(self))))

    def expected(self, n: int) -> np.ndarray:
        """Return ``(n, m)`` costs of the first ``n``, the quality of those stopped early as if they had gone on.

        It is predicted by the line, never falling and never steeper than 1, that the quality of those that went on
        from the same step followed: a scale and a discrepancy between cheap and dear trials (Kennedy & O'Hagan 2000,
        https://doi.org/10.1093/biomet/87.1.1, eq. 1).
        """
        costs = self.costs[:n].copy()
        stopped = [i for i in self._stopped if i < n]
        if stopped:
            ended = [seen.steps for seen in self._seen[:n] if seen.steps and seen.is_whole]
            shares = np.array([max(self._seen[i].steps) for i in stopped])
            for share in set(shares.tolist()):
                pairs = [(steps[share], steps[1.0]) for steps in ended if share in steps]
                rows = np.array(stopped)[shares == share]
                slope, offset = _line(np.array(pairs).reshape(-1, 2))
                costs[rows, 0] = offset + slope * costs[rows, 0]
        return costs

    def untried(self, rows: np.ndarray) -> np.ndarray:
        """Return the different rows that were never tried and do not run; the first row if there is none."""
        different = np.unique(rows, axis=0)
        taken = self._tried | _keys(self.pending)
        kept = [row for row, key in zip(different, _key_list(different), strict=True) if key not in taken]
        return np.stack(kept) if kept else rows[:1]

    def _new_front(self, entrants: np.ndarray) -> np.ndarray:
        """Return the front of the old front and the new trials."""
        whole = np.array([self._seen[i].is_whole for i in entrants])
        entrants = entrants[whole] if whole.any() else entrants
        feasible = entrants[self.violations[entrants] <= 0]
        if not len(feasible):
            return entrants[[int(self.violations[entrants].argmin())]]
        front: np.ndarray = feasible[pareto_front(self.costs[feasible])]
        return front


def _line(pairs: np.ndarray) -> tuple[float, float]:
    """Return slope, 0 to 1, and offset of the line through ``(n, 2)`` points; of slope 1 through less than three."""
    if not len(pairs):
        return 1.0, 0.0
    means, deviations = pairs.mean(axis=0), pairs - pairs.mean(axis=0)
    spread = float((deviations[:, 0] ** 2).sum())
    slope = 1.0
    if len(pairs) >= 3 and spread > 0:
        slope = float(np.clip((deviations[:, 0] * deviations[:, 1]).sum() / spread, 0.0, 1.0))
    return slope, float(means[1] - slope * means[0])


def make_pool(rows: Rows, archive: Archive, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return about ``n`` rows: neighbours of the front, then farther mutants, crossings and random ones.

    Neighbours are half of them; while the front has few enough, all are there.

    Args:
        rows: The space.
        archive: Has a front.
        n: Size of the pool.
        rng: Where all draws come from.
    """
    parents = archive.rows[archive.front]
    if len(parents) * rows.most_neighbours <= n:
        near = np.concatenate([rows.neighbours(row, rng) for row in parents])
    else:  # some of them, as children of which one gene moved
        near = rows.mutate(parents[rng.integers(len(parents), size=n // 2)], rng, 0.0, max_step=1)
    sixth = max(1, n // 6)
    first, second = (parents[rng.integers(len(parents), size=sixth)] for _ in range(2))
    far = rows.mutate(first, rng, 2 / max(2, parents.shape[1]))
    crossed = rows.mutate(rows.cross(first, second, rng), rng, 0.0)
    return np.concatenate([near, far, crossed, rows.sample(max(1, n - len(near) - 2 * sixth), rng)])


def _key_list(rows: np.ndarray) -> list[bytes]:
    """Return what rows are compared by."""
    return [row.tobytes() for row in np.nan_to_num(rows, nan=-1.0)]


def _keys(rows: np.ndarray) -> set[bytes]:
    """Return the keys of rows."""
    return set(_key_list(rows))
