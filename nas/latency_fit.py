"""What is known of one variant of students on one device: measured rows, the model of them, and what to expect of it.

Knows arrays and the names of features; which students they are is `nas.latency`'s business.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nas.conformal import errors_of, interval
from nas.latency_model import LatencyModel, fit_model, folds, hold_out

BEYOND = 0.05  # how far outside of the range measured is no extrapolation yet, as a share of the range
WORDS = 3  # features named in a warning, at most


@dataclass(frozen=True)
class Prediction:
    """What is predicted of one student.

    Attributes:
        value: The best guess, in ms.
        low: Lower end of the interval.
        high: Upper end of it; infinite while too few students were measured to say.
        coverage: Share of new measurements that fall inside.
        warning: Which features are outside of the range that was measured, in words; empty if none is.
    """

    value: float
    low: float
    high: float
    coverage: float
    warning: str


@dataclass(frozen=True)
class Fitted:
    """What is known of one variant.

    Attributes:
        table: ``(n, features)`` of the measured students.
        target: ``(n,)`` what was measured of them.
        model: Fitted on all of them.
        others: Of each fold, a model that never saw it.
        held_out: ``(n,)`` predictions by these.
    """

    table: np.ndarray
    target: np.ndarray
    model: LatencyModel
    others: tuple[LatencyModel, ...]
    held_out: np.ndarray

    @classmethod
    def of(cls, table: np.ndarray, target: np.ndarray, names: Sequence[str]) -> "Fitted":
        """Fit the models."""
        held_out, others = hold_out(table, target, names)
        return cls(table, target, fit_model(table, target, names), tuple(others), held_out)

    def foretell(self, row: np.ndarray, coverage: float, names: Sequence[str]) -> Prediction:
        """Return the prediction of a ``(1, features)`` row, with its interval and a warning where it extrapolates."""
        value = float(self.model.predict(row)[0])
        low, high = self._interval(row, coverage) if self.others else (0.0, np.inf)
        return Prediction(value, min(low, value), max(high, value), coverage, self._warning(row[0], names))

    def covered(self, coverage: float, names: Sequence[str]) -> float:
        """Return the share of the rows that fall into intervals made without them; all models are fitted anew."""
        is_inside = []
        for fold in folds(len(self.target)):
            rest = Fitted.of(np.delete(self.table, fold, axis=0), np.delete(self.target, fold), names)
            told = [rest.foretell(self.table[[row]], coverage, names) for row in fold.tolist()]
            is_inside += [t.low <= ms <= t.high for t, ms in zip(told, self.target[fold], strict=True)]
        return float(np.mean(is_inside)) if is_inside else 1.0

    def _interval(self, row: np.ndarray, coverage: float) -> tuple[float, float]:
        """Return the ends of the interval of a ``(1, features)`` row."""
        fold_of = np.empty(len(self.target), int)
        for fold, held_out in enumerate(folds(len(self.target))):
            fold_of[held_out] = fold
        predicted = np.stack([model.predict(row) for model in self.others])
        low, high = interval(predicted, errors_of(self.held_out, self.target), fold_of, coverage)
        return float(low[0]), float(high[0])

    def _warning(self, row: np.ndarray, names: Sequence[str]) -> str:
        """Return which features of a row lie outside of what was measured, the farthest first."""
        low, high = self.table.min(axis=0), self.table.max(axis=0)
        spread = np.where(high > low, high - low, np.maximum(np.abs(high), 1.0))
        beyond = np.maximum(low - row, row - high) / spread
        far = [int(i) for i in np.argsort(-beyond) if beyond[i] > BEYOND][:WORDS]
        return ", ".join(f"{names[i]} {row[i]:.3g} is outside of {low[i]:.3g} to {high[i]:.3g}" for i in far)

    def to_json(self) -> dict[str, Any]:
        """Return models and rows as plain JSON values."""
        arrays = {name: getattr(self, name).tolist() for name in ("table", "target", "held_out")}
        return {**arrays, "model": self.model.to_json(), "others": [model.to_json() for model in self.others]}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Fitted":
        """Return what `to_json` wrote."""
        table, target, held_out = (np.array(fields[name], np.float64) for name in ("table", "target", "held_out"))
        others = tuple(LatencyModel.from_json(each) for each in fields["others"])
        return cls(table.reshape(len(target), -1), target, LatencyModel.from_json(fields["model"]), others, held_out)
