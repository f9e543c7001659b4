"""Latency of a student from its shape: a small regression for each variant, fitted on measured students.

Knows features and milliseconds only: not models, not devices. It serves any positive cost that is a sum of physical
terms; the search predicts the size of artefacts with it, too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nas.latency_model import LatencyModel, fit_model, hold_out
from search_spaces.errors import ShapeError, StateError
from search_spaces.registry import unknown_name

Features = Mapping[str, float]


@dataclass(frozen=True)
class Report:
    """How well students that were held out are predicted; nested, so the choice of the penalty is held out, too.

    Attributes:
        mape: Mean absolute error as a share of the measured value, over all variants.
        spearman: Rank correlation of predicted and measured values, over all variants; 0 for a single student.
        n: Measured students, each variant counted.
        variants: ``mape``, ``spearman`` and ``n`` of each variant.
    """

    mape: float
    spearman: float
    n: int
    variants: Mapping[str, Mapping[str, float]]

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return asdict(self)


class LatencyPredictor:
    """Non-negative or plain ridge regression on relative errors, whichever predicts held-out students better."""

    def __init__(self) -> None:
        """Begin without a model."""
        self._models: dict[str, LatencyModel] = {}
        self._report: Report | None = None

    @property
    def report(self) -> Report:
        """Return the held-out errors.

        Raises:
            StateError: `fit` has not been called.
        """
        if self._report is None:
            raise StateError(
                f"latency predictor: it knows no student yet, variants {list(self._models)}; call fit() with measured "
                "ones first."
            )
        return self._report

    @property
    def variants(self) -> tuple[str, ...]:
        """Return the variants that can be predicted."""
        return tuple(self._models)

    def fit(self, features: Sequence[Features], latency_ms: np.ndarray, variants: Sequence[str]) -> None:
        """Fit one model for each variant.

        Args:
            features: Physical terms of each of n students, the same names in all.
            latency_ms: ``(n,)`` measured, positive.
            variants: What was measured of each, e.g. ``fp32`` or ``int8``.

        Raises:
            ShapeError: lengths differ, there is no student, or a latency is not positive and finite.
        """
        latency_ms = np.asarray(latency_ms, np.float64)
        _check(features, latency_ms, variants)
        names = tuple(features[0])
        table = np.array([[row[name] for name in names] for row in features], np.float64).reshape(len(features), -1)
        models, held_out = {}, np.empty_like(latency_ms)
        for variant in sorted(set(variants)):
            rows = np.array([each == variant for each in variants])
            models[variant] = fit_model(table[rows], latency_ms[rows], names)
            held_out[rows] = hold_out(table[rows], latency_ms[rows], names)
        self._models = models
        self._report = _report(held_out, latency_ms, np.array(variants))

    def predict(self, features: Features, variant: str) -> float:
        """Return the predicted latency in ms.

        Args:
            features: The terms `fit` was given; others are ignored.
            variant: One of `variants`.

        Raises:
            StateError: `fit` has not been called, or had no student of this variant.
        """
        if not self._models:
            raise StateError(
                f"latency predictor: it knows no student yet, variants {list(self._models)}; call fit() with measured "
                "ones first."
            )
        if variant not in self._models:
            raise StateError(str(unknown_name("latency predictor: variant", variant, list(self._models))))
        model = self._models[variant]
        return float(model.predict(np.array([[features[name] for name in model.names]]))[0])

    def to_json(self) -> dict[str, Any]:
        """Return models and report as plain JSON values.

        Raises:
            StateError: `fit` has not been called.
        """
        models = {variant: asdict(model) for variant, model in self._models.items()}
        return {"models": models, "report": self.report.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "LatencyPredictor":
        """Return the predictor that `to_json` wrote."""
        predictor = cls()
        predictor._models = {variant: LatencyModel.from_json(model) for variant, model in values["models"].items()}
        predictor._report = Report(**values["report"])
        return predictor


def _check(features: Sequence[Features], latency_ms: np.ndarray, variants: Sequence[str]) -> None:
    """Refuse what cannot be fitted."""
    if not len(features) == len(latency_ms) == len(variants) or not len(features):
        raise ShapeError(
            f"latency predictor: {len(features)} features, {len(latency_ms)} latencies, {len(variants)} variants; "
            "all three need the same length, at least 1."
        )
    wrong = latency_ms[~(np.isfinite(latency_ms) & (latency_ms > 0))]
    if len(wrong):
        raise ShapeError(f"latency predictor: a latency is {wrong[0]}; each must be positive and finite.")


def _report(predicted: np.ndarray, measured: np.ndarray, variants: np.ndarray) -> Report:
    """Return the errors over all rows and for each variant."""
    each = {str(name): _errors(predicted[variants == name], measured[variants == name]) for name in np.unique(variants)}
    total = _errors(predicted, measured)
    return Report(total["mape"], total["spearman"], int(total["n"]), each)


def _errors(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """Return mean relative error, rank correlation and count."""
    mape = float(np.mean(np.abs(predicted - measured) / measured))
    return {"mape": mape, "spearman": _spearman(predicted, measured), "n": float(len(measured))}


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Return the rank correlation; 0 where it is not defined."""
    ranks = [_ranks(values) for values in (a, b)]
    if any(rank.std() == 0 for rank in ranks):
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value, ties at their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]
