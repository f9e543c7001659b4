"""Aging evolution for several costs under constraints, asynchronous: no generation waits for its slowest trial.

The population is the last finished trials, so a lucky result dies of age. Parents win tournaments by feasibility,
then by Pareto rank, then by crowding distance.

Sources: Real et al. 2019, Regularized evolution, https://arxiv.org/abs/1802.01548, algorithm 1 (aging, tournament);
Deb 2000, https://doi.org/10.1016/S0045-7825(99)00389-8, sec. 3 (feasibility rules); Deb et al. 2002, NSGA-II,
https://doi.org/10.1109/4235.996017, sec. III (rank and crowding).
"""

from collections.abc import Sequence

import numpy as np

from nas.pareto import crowding_distance, non_dominated_sort
from nas.strategies.base import Strategy
from nas.strategies.history import Observation, youngest
from search_spaces.errors import ConfigError
from search_spaces.space import Genes, Space


class AgingEvolution(Strategy):
    """Mutates, and now and then crosses, the winners of tournaments among the youngest trials."""

    name = "evolution"

    def __init__(
        self,
        space: Space,
        seed: int,
        *,
        population: int = 32,
        tournament: int = 8,
        crossover: float = 0.3,
        max_step: int = 2,
        initial: int = 10,
    ) -> None:
        """Check and keep the settings.

        Args:
            space: What is searched.
            seed: Of the whole search.
            population: So many of the last finished trials may become parents.
            tournament: So many of them compete for it; more means greedier.
            crossover: Chance that a child has two parents, in [0, 1]; it is mutated all the same.
            max_step: Most places an ordered gene moves in a mutation.
            initial: Trials before the first child, those enqueued by the search included; the rest of them is random.

        Raises:
            ConfigError: A setting is out of range.
        """
        super().__init__(space, seed)
        _check_count("population", population, 2)
        _check_count("tournament", tournament, 1)
        _check_count("max_step", max_step, 1)
        _check_count("initial", initial, 1)
        if not 0 <= crossover <= 1:
            raise ConfigError(f"search.options.crossover: {crossover} is no chance; choose 0 to 1.")
        self.population = population
        self.tournament = tournament
        self.crossover = crossover
        self.max_step = max_step
        self.initial = initial

    def propose(self, history: Sequence[Observation], pending: Sequence[Genes], rng: np.random.Generator) -> Genes:
        """Return a child of the best of the youngest, or a random candidate while there are too few."""
        parents = youngest(history, self.population)
        if not parents or len(history) + len(pending) < self.initial:
            return self.space.sample(rng)
        places = tournament_order(parents)
        child = self._winner(parents, places, rng)
        if rng.random() < self.crossover:
            child = self.space.crossover(child, self._winner(parents, places, rng), rng)
        return self.space.mutate(child, rng, max_step=self.max_step)

    def _winner(self, parents: Sequence[Observation], places: np.ndarray, rng: np.random.Generator) -> Genes:
        """Return the genes of the best of a few random parents."""
        entrants = rng.choice(len(parents), size=min(self.tournament, len(parents)), replace=False)
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


def _check_count(option: str, value: object, least: int) -> None:
    """Check that an option is a whole number and not too small."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"search.options.{option}: {value!r} is not allowed; choose a whole number from {least} on.")
