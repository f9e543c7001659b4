"""The searchers that the benchmark compares: ours through a record, and those of other projects, all by ask and tell.

A searcher is asked for genes and told two costs. Peers see the flat space (their interfaces have no foreknowledge, and
not all have conditions) and keep their own defaults, except for the population: 50, Optuna's default, for all of
them, since the default of 100 of pymoo and Syne Tune leaves three generations within 400 evaluations.
"""

import importlib.metadata
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import optuna

from nas.record import Record
from nas.strategies import make_sampler
from nas.strategies.base import Strategy
from nas.strategies.foreknowledge import Foreknowledge
from search_spaces.space import Genes, Space

DIRECTIONS = ("maximize", "minimize")
POPULATION = 50


class Searcher(Protocol):
    """What is driven: ask, look up, tell."""

    def ask(self) -> Genes:
        """Return a candidate."""
        ...

    def tell(self, costs: Sequence[float]) -> None:
        """Take the two costs of the candidate asked last, both minimised."""
        ...


class Ours:
    """One of our strategies in a record in memory, as a search drives it."""

    def __init__(self, name: str, space: Space, seed: int, known: Foreknowledge) -> None:
        """Begin a search."""
        sampler = make_sampler(name, space, seed)
        assert isinstance(sampler, Strategy)
        sampler.foresee(known)
        self._record = Record.open(None, "benchmark", DIRECTIONS, sampler, ["accuracy", "latency_ms"])
        self._distributions, self._number = space.distributions(), -1

    def ask(self) -> Genes:
        """Return a candidate."""
        trial = self._record.ask(self._distributions)
        self._number = trial.number
        return trial.params

    def tell(self, costs: Sequence[float]) -> None:
        """Finish the trial."""
        self._record.tell(self._number, [-costs[0], costs[1]])


class OptunaPeer:
    """One of Optuna's samplers in a study in memory."""

    def __init__(self, sampler: optuna.samplers.BaseSampler, space: Space) -> None:
        """Begin a study."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._study = optuna.create_study(sampler=sampler, directions=DIRECTIONS)
        self._distributions = space.distributions()

    def ask(self) -> Genes:
        """Return a candidate."""
        self._trial = self._study.ask(self._distributions)
        return self._trial.params

    def tell(self, costs: Sequence[float]) -> None:
        """Finish the trial."""
        self._study.tell(self._trial, [-costs[0], costs[1]])


class PymooPeer:
    """pymoo's NSGA-II on the places of the values, with its operators for integers and without duplicates."""

    def __init__(self, space: Space, seed: int) -> None:
        """Set the algorithm up; no termination, the driver stops it."""
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.core.problem import Problem
        from pymoo.operators.crossover.sbx import SBX
        from pymoo.operators.mutation.pm import PM
        from pymoo.operators.repair.rounding import RoundingRepair
        from pymoo.operators.sampling.rnd import IntegerRandomSampling

        self._values = {gene: dimension.values for gene, dimension in space.dimensions.items()}
        highest = [len(values) - 1 for values in self._values.values()]
        self._problem = Problem(n_var=len(highest), n_obj=2, xl=0, xu=np.array(highest), vtype=int)
        self._algorithm = NSGA2(
            pop_size=POPULATION,
            sampling=IntegerRandomSampling(),
            crossover=SBX(vtype=float, repair=RoundingRepair()),
            mutation=PM(vtype=float, repair=RoundingRepair()),
            eliminate_duplicates=True,
        )
        self._algorithm.setup(self._problem, seed=seed, verbose=False)
        self._generation: Any = ()
        self._told: list[Sequence[float]] = []

    def ask(self) -> Genes:
        """Return the next of the generation."""
        if len(self._told) == len(self._generation):
            self._generation, self._told = self._algorithm.ask(), []
        places = self._generation[len(self._told)].X
        return {gene: values[int(i)] for (gene, values), i in zip(self._values.items(), places, strict=True)}

    def tell(self, costs: Sequence[float]) -> None:
        """Keep the costs until the generation is complete."""
        from pymoo.core.evaluator import Evaluator
        from pymoo.problems.static import StaticProblem

        self._told.append(costs)
        if len(self._told) == len(self._generation):
            Evaluator().eval(StaticProblem(self._problem, F=np.array(self._told)), self._generation)
            self._algorithm.tell(infills=self._generation)


class SyneTunePeer:
    """Syne Tune's multi-objective regularised evolution (MO-REA), the searcher itself without its scheduler.

    In 0.16.0 its default priority returns indices in the order of their ranks where the searcher reads one score a
    member, so parents are drawn almost at random. ``mended`` turns the order into scores.
    """

    def __init__(self, space: Space, seed: int, mended: bool = False) -> None:
        """Make the searcher; genes with an order are ordinal."""
        from syne_tune.config_space import choice, ordinal
        from syne_tune.optimizer.schedulers.multiobjective.multi_objective_regularized_evolution import (
            MultiObjectiveRegularizedEvolution,
        )
        from syne_tune.optimizer.schedulers.multiobjective.multiobjective_priority import NonDominatedPriority

        genes = {
            gene: (ordinal if dimension.ordered else choice)(list(dimension.values))
            for gene, dimension in space.dimensions.items()
        }
        np.random.seed(seed)  # its first members are drawn from numpy's global generator, whatever the seed
        order = NonDominatedPriority()
        self._searcher = MultiObjectiveRegularizedEvolution(
            genes,
            population_size=POPULATION,
            random_seed=seed,
            multiobjective_priority=(lambda costs: np.argsort(order(costs))) if mended else None,
        )
        self._genes: dict[str, Any] = {}
        self._n_asked = 0

    def ask(self) -> Genes:
        """Return a candidate."""
        self._genes = self._searcher.suggest()
        return self._genes

    def tell(self, costs: Sequence[float]) -> None:
        """Add it to the population."""
        self._searcher.on_trial_complete(str(self._n_asked), self._genes, list(costs))
        self._n_asked += 1


def _optuna(make: Callable[[int], optuna.samplers.BaseSampler]) -> Callable[[Space, int], Searcher]:
    """Return how to make one of Optuna's samplers a searcher."""
    return lambda space, seed: OptunaPeer(make(seed), space)


PEERS: Mapping[str, tuple[str, Callable[[Space, int], Searcher]]] = {  # name -> distribution that it needs, maker
    "optuna-random": ("optuna", _optuna(lambda seed: optuna.samplers.RandomSampler(seed=seed))),
    "optuna-tpe": ("optuna", _optuna(lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True))),
    "optuna-nsga2": (
        "optuna",
        _optuna(lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=POPULATION)),
    ),
    "optuna-gp": ("optuna", _optuna(lambda seed: optuna.samplers.GPSampler(seed=seed))),
    "pymoo-nsga2": ("pymoo", PymooPeer),
    "syne-tune-morea": ("syne-tune", SyneTunePeer),
    "syne-tune-morea-mended": ("syne-tune", partial(SyneTunePeer, mended=True)),
}
CAPS = {"optuna-gp": 100}  # evaluations; a Gaussian process takes minutes for so many


def version_of(peer: str) -> str | None:
    """Return the version of the distribution that a peer needs; None where it is not installed."""
    try:
        return importlib.metadata.version(PEERS[peer][0])
    except importlib.metadata.PackageNotFoundError:
        return None


def make_peer(name: str, space: Space, seed: int) -> Searcher:
    """Return a peer at the start of a search."""
    warnings.simplefilter("ignore")  # experimental samplers and repeated candidates, once a trial
    return PEERS[name][1](space, seed)
