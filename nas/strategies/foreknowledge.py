"""What is known of a candidate before its trial: whether it may be tried, some of its costs, some cheap features."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from search_spaces.errors import ConfigError
from search_spaces.space import Genes

Numbers = Callable[[Sequence[Genes]], np.ndarray]


def accept_all(genes: Genes) -> bool:
    """Return True."""
    return True


@dataclass(frozen=True)
class Foreknowledge:
    """What a strategy may use of a candidate without a trial.

    Attributes:
        accept: Whether a candidate is worth a trial, e.g. whether its predicted latency meets a constraint.
        costs: Place of an objective -> function from n candidates to ``(n,)`` float64, its costs, exact and
            minimised (an objective to be maximised is negated).
        features: From n candidates to ``(n, k)`` float64, finite, for a surrogate: parameters, MACs, depth...
    """

    accept: Callable[[Genes], bool] = accept_all
    costs: Mapping[int, Numbers] = field(default_factory=dict)
    features: Numbers | None = None

    def known_costs(self, candidates: Sequence[Genes], n_costs: int) -> np.ndarray:
        """Return ``(n, n_costs)`` float64 costs, NaN where only a trial can tell.

        Raises:
            ConfigError: A function returned another shape, or something that is not finite.
        """
        found = np.full((len(candidates), n_costs), np.nan)
        for place, function in self.costs.items():
            found[:, place] = _checked(f"objective {place}", function(candidates), (len(candidates),))
        return found

    def known_features(self, candidates: Sequence[Genes]) -> np.ndarray:
        """Return ``(n, k)`` float64 features, k = 0 where there are none.

        Raises:
            ConfigError: As `known_costs`.
        """
        if self.features is None:
            return np.zeros((len(candidates), 0))
        found = np.asarray(self.features(candidates), np.float64)
        width = found.shape[1] if found.ndim == 2 else -1
        return _checked("features", found, (len(candidates), width))


def _checked(what: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return what a function gave as float64 after checking it."""
    values = np.asarray(values, np.float64)
    if values.shape != shape:
        raise ConfigError(
            f"foreknowledge of {what}: shape {values.shape} for {shape[0]} candidates; return one number each."
        )
    if not np.isfinite(values).all():
        bad = values[~np.isfinite(values)][0]
        raise ConfigError(f"foreknowledge of {what}: {bad} is not finite; return a finite number for every candidate.")
    return values
