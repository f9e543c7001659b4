"""What a search knows of a candidate before its trial, in the form in which strategies want it."""

from collections.abc import Callable, Sequence

import numpy as np

from nas.knowledge import Profile
from nas.objectives import Constraint, Objective, at
from nas.sensitivity import Damages, summed
from nas.strategies.foreknowledge import Foreknowledge
from search_spaces.seeding import rng_for
from search_spaces.space import Genes

LEAST = 1e-3  # nats that are as good as none
MOST = 50_000  # candidates whose metrics are remembered


def foresight(
    known: Profile, objectives: Sequence[Objective], constraints: Sequence[Constraint], damages: Damages | None = None
) -> Foreknowledge:
    """Return which candidates are worth a trial, which objectives are known, and features for a surrogate.

    Args:
        known: Predicts every metric that needs no training.
        objectives: In the order of the study.
        constraints: Hard ones; a candidate that is predicted to miss one is refused.
        damages: Of single changes without training, see `nas.sensitivity`; their sum is one feature more.
    """
    remembered: dict[tuple[object, ...], dict[str, float]] = {}

    def metrics(genes: Genes) -> dict[str, float]:
        key = tuple(genes.items())
        if key not in remembered:
            if len(remembered) >= MOST:
                remembered.clear()
            remembered[key] = known.metrics(genes)
            if damages:
                remembered[key]["damage"] = LEAST + summed(damages, genes)
        return remembered[key]

    def costs_of(objective: Objective) -> Callable[[Sequence[Genes]], np.ndarray]:
        return lambda candidates: np.array([objective.cost(metrics(genes)[objective.name]) for genes in candidates])

    foreseen = metrics(known.candidates.space.sample(rng_for(0, "foresight")))
    once = [name for name in foreseen if at(name, known.device) not in foreseen.keys() - {name}]

    def features(candidates: Sequence[Genes]) -> np.ndarray:
        values = np.array([[metrics(genes)[name] for name in once] for genes in candidates])
        logarithms: np.ndarray = np.log(values.reshape(len(candidates), len(once)))
        return logarithms

    costs = {place: costs_of(o) for place, o in enumerate(objectives) if o.name in foreseen}
    return Foreknowledge(lambda genes: known.shortfall(genes, constraints) <= 0, costs, features)
