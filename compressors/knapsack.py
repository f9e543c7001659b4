"""The knapsack with exactly one option a slot: the least damage for every budget, exactly.

Knows numbers; not what slots, options, damage and costs stand for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from search_spaces.errors import ShapeError

Table = Sequence[Sequence[float]]
"""One row of numbers a slot, one number an option; finite, of any sign."""


@dataclass(frozen=True)
class Frontier:
    """All selections that no other beats in both cost and damage.

    Attributes:
        costs: ``(n,)`` float64, summed costs, strictly ascending.
        damages: ``(n,)`` float64, summed damages, strictly descending.
        options: ``(n, n_slots)`` int64, the option chosen in each slot.
    """

    costs: np.ndarray
    damages: np.ndarray
    options: np.ndarray

    def within(self, budget: float) -> tuple[int, ...] | None:
        """Return the option of each slot with the least damage at a cost of at most ``budget``; None if none fits."""
        place = int(np.searchsorted(self.costs, budget, side="right")) - 1
        return tuple(int(option) for option in self.options[place]) if place >= 0 else None


def solve(damages: Table, costs: Table, budget: float) -> tuple[int, ...] | None:
    """Return the option of each slot that minimises the summed damage within the budget; None if none fits.

    Of selections with equal damage, the cheapest wins.

    Raises:
        ShapeError: As `frontier`.
    """
    return frontier(damages, costs).within(budget)


def frontier(damages: Table, costs: Table) -> Frontier:
    """Return the whole trade-off between summed cost and summed damage.

    Slots are merged one by one, and partial sums that another partial sum beats are dropped: nothing is rounded. The
    number of partial sums can double with every slot in the worst case; with real figures it stays in the thousands.

    Args:
        damages: What each option of each slot damages.
        costs: The same shape: what each option costs.

    Raises:
        ShapeError: A slot without options, tables of different shapes, or a number that is not finite.

    Source: Nemhauser and Ullmann 1969, Discrete Dynamic Programming and Capital Allocation, with one option a slot.
    """
    _check(damages, costs)
    cost, damage, options = np.zeros(1), np.zeros(1), np.zeros((1, 0), np.int64)
    for more_damage, more_cost in zip(damages, costs, strict=True):
        n_options = len(more_cost)
        cost = np.add.outer(cost, np.asarray(more_cost, np.float64)).ravel()
        damage = np.add.outer(damage, np.asarray(more_damage, np.float64)).ravel()
        kept = _undominated(cost, damage)
        cost, damage = cost[kept], damage[kept]
        options = np.column_stack([options[kept // n_options], kept % n_options])
    return Frontier(cost, damage, options)


def _undominated(cost: np.ndarray, damage: np.ndarray) -> np.ndarray:
    """Return the places of the pairs that no other beats, cheapest first; of equal pairs the first."""
    order = np.lexsort((damage, cost))
    before = np.concatenate([[np.inf], np.minimum.accumulate(damage[order])[:-1]])
    kept: np.ndarray = order[damage[order] < before]
    return kept


def _check(damages: Table, costs: Table) -> None:
    """Refuse tables that describe no knapsack."""
    shapes = [len(row) for row in damages], [len(row) for row in costs]
    if shapes[0] != shapes[1] or 0 in shapes[0]:
        raise ShapeError(
            f"knapsack: damages have {shapes[0]} options a slot, costs {shapes[1]}; both need the same, at least one. "
            "Give one number an option in both."
        )
    for row in (*damages, *costs):
        if not np.isfinite(row).all():
            raise ShapeError(
                f"knapsack: {list(row)} is not finite; damages and costs are finite numbers. Leave it out."
            )
