"""One model of a positive cost: which of a few well understood ones predicts rows best that it never saw.

Two kinds compete, solved for small relative errors: a sum of physical terms with one price each (with another device's
predictions among them, where there are), and an additive table whose prices change with a block's size. Prices may have
to be positive or not, and a few wild measurements may count in full or not.

Knows arrays only; which students they describe is `nas.latency`'s business.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nas.columns import Columns, block_table, sums, transfers
from nas.goodness import bounded
from nas.least_squares import Solve, calm_rows, non_negative, ridge

FOLDS = 10
STRENGTHS = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1)  # ridge penalties tried, for columns of equal length
LEAST_FACTOR = 0.5  # of the smallest value seen, below which no prediction falls


@dataclass(frozen=True)
class LatencyModel:
    """The regression of one variant.

    Attributes:
        columns: What the prices are of.
        weights: The price of each column.
        floor: Half of the smallest value seen; no shape is free.
    """

    columns: Columns
    weights: tuple[float, ...]
    floor: float

    def predict(self, table: np.ndarray) -> np.ndarray:
        """Return ``(n,)`` predictions of ``(n, features)`` rows."""
        values: np.ndarray = (self.columns.of(table) @ np.array(self.weights)).clip(self.floor)
        return values

    def to_json(self) -> dict[str, Any]:
        """Return the model as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "LatencyModel":
        """Return the model of its fields as JSON has them."""
        return cls(Columns.from_json(fields["columns"]), tuple(fields["weights"]), fields["floor"])


@dataclass(frozen=True)
class Choice:
    """How a sum is fitted: its columns, the solver, the penalty, and whether wild measurements count less."""

    columns: Columns
    solve: Solve
    strength: float
    is_calm: bool


class Rows:
    """The measured rows, and the problem of small relative errors that some columns make of them."""

    def __init__(self, table: np.ndarray, target: np.ndarray) -> None:
        """Keep ``(n, features)`` terms and ``(n,)`` positive costs."""
        self.table, self.target = table, target
        self.folds = folds(len(target))
        self._problems: dict[Columns, tuple[np.ndarray, np.ndarray]] = {}
        self._weights: dict[tuple[Columns, bool, int], np.ndarray] = {}

    def problem(self, columns: Columns) -> tuple[np.ndarray, np.ndarray]:
        """Return ``scaled`` of ``scaled @ w = 1`` and what each of its columns was divided by.

        Every row is divided by its target, so that the squared relative error is minimised, and every column by its
        root mean square thereafter, so that one penalty suits all, however rare or small a feature is.
        """
        if columns not in self._problems:
            relative = columns.of(self.table) / self.target[:, None]
            scale = np.sqrt((relative * relative).mean(axis=0))
            scale = np.where(scale > 0, scale, 1.0)
            self._problems[columns] = relative / scale, scale
        return self._problems[columns]

    def weights(self, choice: Choice, scaled: np.ndarray, fold: int) -> np.ndarray:
        """Return the weight of each row, 0 of those in the held-out fold; fold -1 holds nothing out."""
        key = (choice.columns, choice.is_calm, fold)
        if key not in self._weights:
            weights, rest = np.zeros(len(scaled)), np.ones(len(scaled), bool)
            rest[self.folds[fold] if fold >= 0 else []] = False
            weights[rest] = calm_rows(scaled[rest]) if choice.is_calm else 1.0
            self._weights[key] = weights
        return self._weights[key]

    def held_out(self, choice: Choice) -> np.ndarray:
        """Return ``(n,)`` predictions, divided by the target, of each row by a sum that never saw it."""
        scaled, _ = self.problem(choice.columns)
        found = np.ones(len(scaled))
        for fold, rows in enumerate(self.folds):
            found[rows] = scaled[rows] @ choice.solve(scaled, self.weights(choice, scaled, fold), choice.strength)
        return found

    def errors(self, choice: Choice) -> np.ndarray:
        """Return ``(n,)`` held-out relative errors, see `nas.goodness.bounded`."""
        return bounded(np.abs(self.held_out(choice) - 1))

    def solution(self, choice: Choice, fold: int = -1) -> np.ndarray:
        """Return the prices, fitted without a fold."""
        scaled, scale = self.problem(choice.columns)
        prices: np.ndarray = choice.solve(scaled, self.weights(choice, scaled, fold), choice.strength) / scale
        return prices


def fit_model(table: np.ndarray, target: np.ndarray, names: Sequence[str]) -> LatencyModel:
    """Return the model with the smallest held-out relative error, one of positive prices where the errors cannot tell.

    Positive prices make no student faster by adding to it. Others may win by chance on a few noisy measurements, and
    then predict next to nothing for shapes that no measured one is like.

    Args:
        table: ``(n, features)`` physical terms.
        target: ``(n,)`` positive costs.
        names: The features.

    Source: Breiman et al. 1984, Classification and Regression Trees, sec. 3.4.3 (the rule of one standard error).
    """
    rows, floor = Rows(table, target), LEAST_FACTOR * float(target.min())
    errors = {choice: rows.errors(choice) for choice in _choices(rows, names)}
    ranked = sorted(errors, key=lambda choice: float(errors[choice].mean()))
    best, positive = ranked[0], next(choice for choice in ranked if choice.solve is non_negative)
    more = errors[positive] - errors[best]
    if more.mean() <= more.std() / np.sqrt(len(more)):
        best = positive
    return LatencyModel(best.columns, tuple(rows.solution(best).tolist()), floor)


def hold_out(table: np.ndarray, target: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, list[LatencyModel]]:
    """Return a prediction of each row by a model that never saw it, and these models.

    Nested: all choices of a model are made without its held-out rows.

    Args:
        table: ``(n, features)`` physical terms.
        target: ``(n,)`` positive costs.
        names: The features.

    Returns:
        ``(n,)`` predictions; a single row cannot be held out and is returned as it is. One model for each of `folds`.
    """
    held_out, models = target.copy(), []
    for fold in folds(len(target)):
        models.append(fit_model(np.delete(table, fold, axis=0), np.delete(target, fold), names))
        held_out[fold] = models[-1].predict(table[fold])
    return held_out, models


def folds(n: int) -> list[np.ndarray]:
    """Return which rows are held out together; every FOLDS-th row, each row alone where there are few."""
    return [np.arange(start, n, FOLDS) for start in range(min(n, FOLDS))] if n > 1 else []


def _choices(rows: Rows, names: Sequence[str]) -> Iterator[Choice]:
    """Yield the sums to try; for the size of the cache only the best is tried in all ways."""
    caches = [Choice(columns, non_negative, STRENGTHS[0], False) for columns in sums(rows.table, names)]
    terms = min(caches, key=lambda choice: float(rows.errors(choice).mean())) if len(caches) > 1 else caches[0]
    positive = [terms.columns, *transfers(names)]
    for columns, solve in (
        *((columns, non_negative) for columns in positive),
        *((columns, ridge) for columns in (*positive, block_table(rows.table, names))),
    ):
        for is_calm in (False, True):
            yield from (Choice(columns, solve, strength, is_calm) for strength in STRENGTHS)
