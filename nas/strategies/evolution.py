"""Aging evolution for several costs under constraints, asynchronous: no generation waits for its slowest trial.

The population is the last finished trials, so a lucky result dies of age. Parents win tournaments by feasibility,
then by Pareto rank, then by crowding distance.

Sources: Real et al. 2019, Regularized evolution, https://arxiv.org/abs/1802.01548, algorithm 1 (aging, tournament);
Deb 2000, https://doi.org/10.1016/S0045-7825(99)00389-8, sec. 3 (feasibility rules); Deb et al. 2002, NSGA-II,
https://doi.org/10.1109/4235.996017, sec. III (rank and crowding).
"""

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from nas.pareto import crowding_distance, non_dominated_sort
from nas.strategies.base import Strategy
from nas.strategies.history import History, Observation, youngest
from nas.strategies.options import Options
from search_spaces.space import Genes


class EvolutionOptions(Options):
    """Options of aging evolution."""

    population: int = Field(32, ge=2, description="so many of the last finished trials may become parents")
    tournament: int = Field(8, ge=1, description="so many of them compete for it; more means greedier")
    crossover: float = Field(0.3, ge=0, le=1, description="chance that a child has two parents; it is mutated, too")
    max_step: int = Field(2, ge=1, description="most places an ordered gene moves in a mutation")
    initial: int = Field(10, ge=1, description="trials before the first child, enqueued ones included; else random")


class AgingEvolution(Strategy):
    """Mutates, and now and then crosses, the winners of tournaments among the youngest trials."""

    name = "evolution"
    suits = "hundreds of cheap trials, any number of objectives and workers"
    options_model = EvolutionOptions
    _options: EvolutionOptions

    def propose(self, history: History, rng: np.random.Generator) -> Genes:
        """Return a child of the best of the youngest, or a random candidate while there are too few."""
        options = self._options
        parents = youngest(history.finished, options.population)
        if not parents or len(history.finished) + len(history.pending) < options.initial:
            return self.space.sample(rng)
        places = tournament_order(parents)
        child = self._winner(parents, places, rng)
        if rng.random() < options.crossover:
            child = self.space.crossover(child, self._winner(parents, places, rng), rng)
        return self.space.mutate(child, rng, max_step=options.max_step)

    def _winner(self, parents: Sequence[Observation], places: np.ndarray, rng: np.random.Generator) -> Genes:
        """Return the genes of the best of a few random parents."""
        entrants = rng.choice(len(parents), size=min(self._options.tournament, len(parents)), replace=False)
        return parents[int(entrants[places[entrants].argmin()])].genes


def tournament_order(population: Sequence[Observation]) -> np.ndarray:
    """Return the place of each trial in a total order: 0 wins every tournament.

    Args:
        population: Trials with costs.

    Returns:
        ``(n,)`` int64, a permutation; feasible before infeasible, those by violation; feasible ones by rank, then by
        crowding distance; equal ones in the order given.
    """
    violations = np.array([seen.violation for seen in population])
    ranks, lonely = np.zeros(len(population), np.int64), np.zeros(len(population))
    feasible = np.flatnonzero(violations <= 0)
    if len(feasible):
        costs = np.stack([seen.costs for seen in population if seen.violation <= 0 and seen.costs is not None])
        ranks[feasible] = non_dominated_sort(costs)
        for rank in range(int(ranks.max()) + 1):
            front = np.flatnonzero(ranks[feasible] == rank)
            lonely[feasible[front]] = crowding_distance(costs[front])
    places = np.empty(len(population), np.int64)
    places[np.lexsort((-lonely, ranks, violations))] = np.arange(len(population))
    return places
