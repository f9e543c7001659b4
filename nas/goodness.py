"""How good predictions of a cost are: relative error, share within 10 %, rank correlation.

Knows arrays; not what was predicted, nor by what.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

NEAR = 0.1  # relative error that counts as near


@dataclass(frozen=True)
class Report:
    """How well students that were held out are predicted; nested, so the choice of the model is held out, too.

    Attributes:
        mape: Mean absolute error as a share of the measured value, over all variants.
        bounded: The same with no error above 100 %, so that one wild row cannot decide between two models.
        within_10: Share of the students that are predicted within 10 % of the measured value.
        spearman: Rank correlation of predicted and measured values, over all variants; 0 for a single student.
        n: Measured students, each variant counted.
        variants: ``mape``, ``median``, ``bounded``, ``within_10``, ``spearman`` and ``n`` of each variant.
    """

    mape: float
    bounded: float
    within_10: float
    spearman: float
    n: int
    variants: Mapping[str, Mapping[str, float]]

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return asdict(self)


def report_on(predicted: np.ndarray, measured: np.ndarray, variants: np.ndarray) -> Report:
    """Return the errors over all rows and for each variant.

    Args:
        predicted: ``(n,)``, each by a model that never saw the row.
        measured: ``(n,)`` positive.
        variants: ``(n,)`` names.
    """
    names = [str(name) for name in np.unique(variants)]
    each = {name: errors(predicted[variants == name], measured[variants == name]) for name in names}
    total = errors(predicted, measured)
    shares = (total["mape"], total["bounded"], total["within_10"], total["spearman"])
    return Report(*shares, int(total["n"]), each)


def errors(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """Return mean, median and bounded mean relative error, share within 10 %, rank correlation and count."""
    misses = np.abs(predicted - measured) / measured
    return {
        "mape": float(misses.mean()),
        "median": float(np.median(misses)),
        "bounded": float(bounded(misses).mean()),
        "within_10": float((misses <= NEAR).mean()),
        "spearman": spearman(predicted, measured),
        "n": float(len(measured)),
    }


def bounded(misses: np.ndarray) -> np.ndarray:
    """Return relative errors, those beyond 100 % as 100 %."""
    return misses.clip(max=1.0)


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Return the rank correlation; 0 where it is not defined."""
    first, second = ranks(a), ranks(b)
    if first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value, ties at their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]
