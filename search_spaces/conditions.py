"""When a gene counts: only under certain values of another gene, so that the genes form a forest.

Knows how to check, order and count such a forest; not what the values of a gene are used for.
"""

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from search_spaces.dimensions import Dimension, Value
from search_spaces.errors import ConfigError
from search_spaces.registry import unknown_name


@dataclass(frozen=True)
class Condition:
    """A gene is active only if its parent is active and the parent's value is one of ``values`` (none: never)."""

    parent: str
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        """Make the values a tuple."""
        object.__setattr__(self, "values", tuple(self.values))


def checked(conditions: Mapping[str, Condition], dimensions: Mapping[str, Dimension]) -> dict[str, Condition]:
    """Return the conditions with their values in the types that the parents declare.

    Raises:
        ConfigError: A gene or parent is unknown, or a value is not one of the parent's.
    """
    return {gene: _checked(gene, condition, dimensions) for gene, condition in conditions.items()}


def _checked(gene: str, condition: Condition, dimensions: Mapping[str, Dimension]) -> Condition:
    """Return one condition, checked."""
    if gene not in dimensions:
        raise unknown_name("space condition", gene, list(dimensions))
    if condition.parent not in dimensions:
        raise unknown_name(f"space.{gene} condition", condition.parent, list(dimensions))
    parent = dimensions[condition.parent]
    for value in condition.values:
        if not parent.contains(value):
            where = f"space.{gene} condition on {condition.parent}"
            raise ConfigError(f"{where}: {value!r} never occurs; choose {parent.allowed}.")
    return Condition(condition.parent, tuple(parent.canonical(value) for value in condition.values))


def parents_first(dimensions: Mapping[str, Dimension], conditions: Mapping[str, Condition]) -> tuple[str, ...]:
    """Return all genes, each after the gene it depends on, otherwise in the given order.

    Raises:
        ConfigError: Genes depend on each other in a circle.
    """
    ordered: dict[str, None] = {}
    for gene in dimensions:
        chain = [gene]
        while (condition := conditions.get(chain[-1])) and condition.parent not in ordered:
            if condition.parent in chain:
                circle = " -> ".join([*chain, condition.parent])
                raise ConfigError(f"space.{gene}: depends on itself, {circle}; remove one of these conditions.")
            chain.append(condition.parent)
        ordered.update(dict.fromkeys(reversed(chain)))
    return tuple(ordered)


def count(dimensions: Mapping[str, Dimension], conditions: Mapping[str, Condition]) -> int | float:
    """Return how many different assignments of the active genes there are; ``math.inf`` with a continuum.

    The genes form a forest: independent trees multiply, and the subtrees under one value of a gene do too.
    """
    children: dict[str, list[str]] = {gene: [] for gene in dimensions}
    for gene, condition in conditions.items():
        children[condition.parent].append(gene)
    counts: dict[str, int | float] = {}
    for gene in reversed(parents_first(dimensions, conditions)):
        told = dict.fromkeys(value for child in children[gene] for value in conditions[child].values)
        under = (math.prod(counts[c] for c in children[gene] if value in conditions[c].values) for value in told)
        counts[gene] = dimensions[gene].size - len(told) + sum(under)
    return math.prod(counts[gene] for gene in dimensions if gene not in conditions)


def undecided(
    order: Sequence[str], conditions: Mapping[str, Condition], fixed: Mapping[str, Value]
) -> dict[str, Condition | None]:
    """Return the genes that are still open once some have a fixed value, each with the condition it is left with.

    Args:
        order: All genes, parents first.
        conditions: Gene -> condition.
        fixed: Gene -> canonical value; a gene that this rules out is not returned.
    """
    left: dict[str, Condition | None] = {}
    ruled_out: set[str] = set()
    for gene in order:
        condition = conditions.get(gene)
        if condition and not _can_hold(condition, fixed, ruled_out):
            ruled_out.add(gene)
        left[gene] = left[condition.parent] if condition and condition.parent in fixed else condition
    return {gene: condition for gene, condition in left.items() if gene not in ruled_out and gene not in fixed}


def _can_hold(condition: Condition, fixed: Mapping[str, Value], ruled_out: Set[str]) -> bool:
    """Return whether a condition may still come true."""
    parent = condition.parent
    return parent not in ruled_out and (parent not in fixed or fixed[parent] in condition.values)
