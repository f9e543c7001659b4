"""Local search: try every candidate one step from the present front, the most useful parents first.

Needs no population and no model, and knows when it has seen everything near the front: then it goes on from the next
rank. The larger the space, the more neighbours a parent has, and the longer it stays near its start.

Sources: Paquete et al. 2004, Pareto local optimum sets, https://doi.org/10.1007/978-3-642-17144-4_7 (the neighbours of
the whole front are the next candidates); White et al. 2021, Exploring the loss landscape in NAS,
https://arxiv.org/abs/2005.02960, algorithm 1 (all neighbours of the best architecture).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from pydantic import Field

from nas.pareto import crowding_distance
from nas.strategies.base import Strategy
from nas.strategies.evolution import tournament_order
from nas.strategies.history import History, Observation
from nas.strategies.options import Options
from search_spaces.dimensions import Dimension, Float
from search_spaces.space import Genes, Value


class LocalOptions(Options):
    """Options of local search."""

    initial: int = Field(10, ge=1, description="trials before the first step, enqueued ones included; else random")
    max_step: int = Field(1, ge=1, description="most places an ordered gene moves in a step")
    greed: float = Field(
        0.5, ge=0, description="weight of a parent's usefulness against chance; 0 takes any of the front"
    )


@dataclass(eq=False)
class Front:
    """The best trials of a history and what was seen of their surroundings; a fold of what was told.

    Attributes:
        members: Feasible trials that none dominates; without a feasible one, those of the least violation.
        closed: Numbers of trials around which nothing is left to try.
    """

    members: list[Observation] = field(default_factory=list)
    closed: set[int] = field(default_factory=set)
    _n_read: int = 0

    def update(self, told: Sequence[Observation]) -> None:
        """Read what was told since the last call."""
        for seen in told[self._n_read :]:
            if seen.costs is not None and not any(_beats(member, seen) for member in self.members):
                self.members = [*(member for member in self.members if not _beats(seen, member)), seen]
        self._n_read = len(told)

    def shuffled(self, greed: float, rng: np.random.Generator) -> list[Observation]:
        """Return the members in a random order in which useful ones tend to come first."""
        useful = usefulness(np.array([member.costs for member in self.members])) if self.members else np.empty(0)
        places = np.argsort(np.argsort(-useful, kind="stable")) / max(1, len(useful))  # 0 is the most useful
        return [self.members[i] for i in np.argsort(greed * places + rng.random(len(places)), kind="stable")]


class LocalSearch(Strategy):
    """Walks through the neighbours of the front until none is untried, then through those of the ranks behind it."""

    name = "local"
    suits = "small spaces with few values a gene, where hundreds of trials see much of what is near the front"
    options_model = LocalOptions
    _options: LocalOptions

    def propose(self, history: History, rng: np.random.Generator) -> Genes:
        """Return an untried neighbour of the front, else of the next rank; random while there are too few trials."""
        if len(history.finished) + len(history.pending) < self._options.initial:
            return self.space.sample(rng)
        front = history.keep(Front, Front)
        front.update(history.told)
        # Every parent has a generator of its own: closed ones draw nothing, and which ones are is unknown on a resume.
        parents, draw = front.shuffled(self._options.greed, rng), int(rng.integers(2**63))
        for parent in self._with_others(parents, history, front):
            if parent.number not in front.closed:
                found = self._untried(parent, history, front, np.random.default_rng((draw, parent.number)))
                if found is not None:
                    return found
        return self.space.sample(rng)

    def _with_others(self, parents: Sequence[Observation], history: History, front: Front) -> Iterator[Observation]:
        """Yield the front and then all trials that are not closed, by rank; these are sorted only when needed."""
        yield from parents
        others = [seen for seen in history.finished if seen.costs is not None and seen.number not in front.closed]
        if others:
            yield from (others[i] for i in np.argsort(tournament_order(others)))

    def _untried(
        self, parent: Observation, history: History, front: Front, rng: np.random.Generator
    ) -> dict[str, Value] | None:
        """Return a random neighbour that is new and accepted; None, and the trial is closed, where there is none.

        A step that makes genes active draws their values, so around such a trial something may be left: it stays open.
        """
        steps = [(gene, near) for gene, value in parent.genes.items() for near in self._near(gene, value)]
        is_open = False
        for i in rng.permutation(len(steps)):
            genes = self._step(parent.genes, steps[i], rng)
            if not history.is_known(self.space.key(genes)) and self.foreknowledge.accept(genes):
                return genes
            is_open |= not genes.keys() <= parent.genes.keys()
        if not is_open:
            front.closed.add(parent.number)
        return None

    def _near(self, gene: str, value: Value) -> Sequence[Value]:
        """Return the values of a gene that are one step away."""
        return near_values(self.space.dimensions[gene], value, self._options.max_step)

    def _step(self, genes: Genes, step: tuple[str, Value], rng: np.random.Generator) -> dict[str, Value]:
        """Return canonical genes with one of them changed; those that become active are drawn."""
        drawn = {name: d.sample(rng) for name, d in self.space.dimensions.items() if name not in genes}
        return self.space.canonical({**drawn, **genes, step[0]: step[1]})


def near_values(dimension: Dimension, value: Value, max_step: int) -> Sequence[Value]:
    """Return the neighbours of a value: a continuum's two steps, an order's places nearby, else all other values.

    Args:
        dimension: Of the gene.
        value: One of its values.
        max_step: Most places away, where there is an order.
    """
    if isinstance(dimension, Float) or not dimension.ordered:
        return dimension.steps(value)
    values: Sequence[Value] = dimension.values
    place = values.index(value)
    return [*values[max(0, place - max_step) : place], *values[place + 1 : place + 1 + max_step]]


def usefulness(costs: np.ndarray) -> np.ndarray:
    """Return how much each member adds to its front: under two costs its share of the hypervolume, else loneliness.

    Args:
        costs: ``(n, m)`` float64, a front, n >= 1.

    Returns:
        ``(n,)`` float64; under two costs as if both ranged over 0..1, with the worst corner at 1.2 to keep the ends.
    """
    if costs.shape[1] != 2:
        return crowding_distance(costs)
    order = np.lexsort(costs.T[::-1])
    ranked = (costs[order] - costs.min(axis=0)) / np.maximum(np.ptp(costs, axis=0), np.finfo(float).tiny)
    useful = np.empty(len(costs))
    useful[order] = (np.append(ranked[1:, 0], 1.2) - ranked[:, 0]) * (np.append(1.2, ranked[:-1, 1]) - ranked[:, 1])
    return useful


def _beats(one: Observation, other: Observation) -> bool:
    """Return whether a trial violates less, or is as feasible and dominates."""
    if one.violation != other.violation:
        return one.violation < other.violation
    assert one.costs is not None
    assert other.costs is not None
    return one.violation <= 0 and bool((one.costs <= other.costs).all() and (one.costs < other.costs).any())
