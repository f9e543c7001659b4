"""Latency of a student from its shape: a model for each variant, fitted on measured students, with an interval.

Knows features and milliseconds only: not models, not devices. It serves any positive cost that is a sum of physical
terms; the search predicts the size of artefacts with it, too.
"""

from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from nas.columns import OLD
from nas.goodness import Report, report_on
from nas.latency_fit import Fitted, Prediction
from search_spaces.errors import ConfigError, ShapeError, StateError
from search_spaces.registry import unknown_name

Features = Mapping[str, float]

COVERAGE = 0.9  # of intervals, if nothing else is asked for


class LatencyPredictor:
    """A model of each variant, whichever of a few predicts held-out students best.

    With predictors of other devices, their predictions are features more: a new device is then known after about ten
    measurements.
    """

    def __init__(self, old: Mapping[str, "LatencyPredictor"] | None = None) -> None:
        """Begin without a model.

        Args:
            old: Fitted predictors of other devices by name, which know the same variants and features.
        """
        self._old = dict(old or {})
        self._names: tuple[str, ...] = ()
        self._fitted: dict[str, Fitted] = {}
        self._report: Report | None = None

    @property
    def report(self) -> Report:
        """Return the held-out errors.

        Raises:
            StateError: `fit` has not been called.
        """
        if self._report is None:
            raise self._ignorant()
        return self._report

    @property
    def variants(self) -> tuple[str, ...]:
        """Return the variants that can be predicted."""
        return tuple(self._fitted)

    def fit(self, features: Sequence[Features], latency_ms: np.ndarray, variants: Sequence[str]) -> None:
        """Fit the models of each variant.

        Args:
            features: Physical terms of each of n students, the same names in all.
            latency_ms: ``(n,)`` measured, positive.
            variants: What was measured of each, e.g. ``fp32`` or ``int8``.

        Raises:
            ShapeError: Lengths differ, there is no student, a latency is not positive and finite, or the predictor of
                another device needs a feature more.
            StateError: The predictor of another device does not know a variant.
        """
        latency_ms = np.asarray(latency_ms, np.float64)
        _check(features, latency_ms, variants)
        self._check_old(features[0])
        self._fit_rows(tuple(features[0]), features, latency_ms, np.array(variants), {})

    def refresh(self, features: Sequence[Features], latency_ms: np.ndarray, variants: Sequence[str]) -> None:
        """Fit the models again, with some more measured students; arguments and errors as `fit`.

        Raises:
            StateError: `fit` has not been called.
        """
        latency_ms = np.asarray(latency_ms, np.float64)
        _check(features, latency_ms, variants)
        if not self._fitted:
            raise self._ignorant()
        self._fit_rows(self._names, features, latency_ms, np.array(variants), self._fitted)

    def predict(self, features: Features, variant: str) -> float:
        """Return the predicted latency in ms.

        Args:
            features: The terms `fit` was given; others are ignored.
            variant: One of `variants`.

        Raises:
            StateError: `fit` has not been called, or had no student of this variant.
        """
        return float(self.predict_all([features], variant)[0])

    def predict_all(self, features: Sequence[Features] | np.ndarray, variant: str) -> np.ndarray:
        """Return the predicted latencies of many students in ms, ``(n,)``.

        Args:
            features: The terms `fit` was given, or ``(n, features)`` of them in the order of the first student.
            variant: One of `variants`.

        Raises:
            StateError: `fit` has not been called, or had no student of this variant.
        """
        fitted = self._of(variant)
        return fitted.model.predict(self._table(features, variant))

    def foretell(self, features: Features, variant: str, coverage: float = COVERAGE) -> Prediction:
        """Return the predicted latency with an interval, and a warning where it extrapolates.

        Args:
            features: The terms `fit` was given; others are ignored.
            variant: One of `variants`.
            coverage: Share of new measurements that shall fall into the interval, between 0 and 1.

        Raises:
            ConfigError: ``coverage`` is out of range.
            StateError: `fit` has not been called, or had no student of this variant.
        """
        if not 0 < coverage < 1:
            raise ConfigError(f"latency predictor: a coverage of {coverage} is out of range; between 0 and 1.")
        fitted, row = self._of(variant), self._table([features], variant)
        return fitted.foretell(row, coverage, self._all_names(self._names))

    def models(self) -> dict[str, str]:
        """Return which model was chosen for each variant, in words."""
        names = self._all_names(self._names)
        return {variant: fitted.model.columns.in_words(names) for variant, fitted in self._fitted.items()}

    def covered(self, coverage: float = COVERAGE) -> dict[str, float]:
        """Return for each variant the share of measured students inside of intervals that were made without them.

        Nested, so as slow as fitting ten times.

        Args:
            coverage: That the intervals are for, between 0 and 1.
        """
        names = self._all_names(self._names)
        return {variant: fitted.covered(coverage, names) for variant, fitted in self._fitted.items()}

    def to_json(self) -> dict[str, Any]:
        """Return models, measured students and report as plain JSON values.

        Raises:
            StateError: `fit` has not been called.
        """
        return {
            "names": list(self._names),
            "variants": {variant: fitted.to_json() for variant, fitted in self._fitted.items()},
            "report": self.report.to_json(),
            "old": {name: predictor.to_json() for name, predictor in self._old.items()},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "LatencyPredictor":
        """Return the predictor that `to_json` wrote."""
        predictor = cls({name: cls.from_json(old) for name, old in values["old"].items()})
        predictor._names = tuple(values["names"])
        predictor._fitted = {variant: Fitted.from_json(fields) for variant, fields in values["variants"].items()}
        predictor._report = Report(**values["report"])
        return predictor

    def _fit_rows(
        self,
        names: tuple[str, ...],
        features: Sequence[Features],
        latency_ms: np.ndarray,
        variants: np.ndarray,
        known: Mapping[str, Fitted],
    ) -> None:
        """Fit every variant on what is known and some more rows, then forget the old models."""
        fitted = dict(known)
        for variant in sorted(set(variants.tolist())):
            rows = np.flatnonzero(variants == variant)
            table, target = self._table([features[i] for i in rows.tolist()], variant, names), latency_ms[rows]
            if variant in known:
                table, target = np.vstack([known[variant].table, table]), np.append(known[variant].target, target)
            fitted[variant] = Fitted.of(table, target, self._all_names(names))
        self._names, self._fitted = names, fitted
        self._report = _report_on(fitted)

    def _table(
        self, features: Sequence[Features] | np.ndarray, variant: str, names: tuple[str, ...] | None = None
    ) -> np.ndarray:
        """Return ``(n, features)`` with what the predictors of other devices say."""
        names = self._names if names is None else names
        own = features if isinstance(features, np.ndarray) else _rows(features, names)
        if not self._old:
            return own
        places = {name: place for place, name in enumerate(names)}
        said = [old.predict_all(own[:, [places[n] for n in old._names]], variant) for old in self._old.values()]
        return np.column_stack([own, *said])

    def _check_old(self, features: Features) -> None:
        """Refuse features with which the predictor of another device can say nothing."""
        for name, old in self._old.items():
            missing = [each for each in old._names if each not in features]
            if missing:
                raise ShapeError(
                    f"latency predictor: that of {name!r} needs {missing[0]!r}; here are {', '.join(features)}."
                )

    def _all_names(self, names: tuple[str, ...]) -> list[str]:
        """Return the names of the columns of `_table`."""
        return [*names, *(f"{OLD}{name}" for name in self._old)]

    def _of(self, variant: str) -> Fitted:
        """Return what is known of a variant, or raise."""
        if not self._fitted:
            raise self._ignorant()
        if variant not in self._fitted:
            raise StateError(str(unknown_name("latency predictor: variant", variant, list(self._fitted))))
        return self._fitted[variant]

    def _ignorant(self) -> StateError:
        """Return the error of a predictor that was not fitted."""
        return StateError(
            f"latency predictor: it knows no student yet, variants {list(self._fitted)}; call fit() with measured "
            "ones first."
        )


def _rows(features: Sequence[Features], names: tuple[str, ...]) -> np.ndarray:
    """Return ``(n, features)`` in the order of the names."""
    if len(names) < 2:
        return np.array([[row[name] for name in names] for row in features], np.float64).reshape(len(features), -1)
    take = itemgetter(*names)
    flat: Iterable[float] = (value for row in features for value in take(row))
    return np.fromiter(flat, np.float64, len(features) * len(names)).reshape(len(features), -1)


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


def _report_on(fitted: Mapping[str, Fitted]) -> Report:
    """Return the held-out errors of all variants."""
    each = list(fitted.values())
    names = np.repeat(list(fitted), [len(one.target) for one in each])
    return report_on(np.concatenate([e.held_out for e in each]), np.concatenate([e.target for e in each]), names)
