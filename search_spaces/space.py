"""The space of all candidates: named dimensions, some active only under a value of another.

Knows genes as plain values; not what a gene does to a model, nor how the space is searched. Two candidates are the
same student exactly when their canonical forms, the active genes alone, are equal. Every draw uses the generator it
is given and nothing else.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from search_spaces.conditions import Condition, checked, count, parents_first, undecided
from search_spaces.dimensions import Dimension, Genes, Value, dimension_from_json
from search_spaces.errors import ConfigError
from search_spaces.registry import unknown_name

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = ["Condition", "Genes", "Space", "Value"]


class Space:
    """An immutable set of candidates; the order of the genes is the order they were given in."""

    def __init__(self, dimensions: Mapping[str, Dimension], conditions: Mapping[str, Condition] | None = None) -> None:
        """Keep the genes after checking that the conditions fit them.

        Args:
            dimensions: Gene -> its values.
            conditions: Gene -> when it is active; a gene without one always is.

        Raises:
            ConfigError: A condition names an unknown gene or value, or genes depend on each other in a circle.
        """
        self._dimensions = dict(dimensions)
        self._conditions = checked(conditions or {}, self._dimensions)
        self._order = parents_first(self._dimensions, self._conditions)

    @property
    def dimensions(self) -> Mapping[str, Dimension]:
        """Return gene -> dimension, read-only."""
        return MappingProxyType(self._dimensions)

    @property
    def conditions(self) -> Mapping[str, Condition]:
        """Return gene -> condition of the genes that have one, read-only."""
        return MappingProxyType(self._conditions)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the genes in order."""
        return tuple(self._dimensions)

    @property
    def order(self) -> tuple[str, ...]:
        """Return the genes, each after the one it depends on."""
        return self._order

    @cached_property
    def size(self) -> int | float:
        """Return the exact number of different candidates, ``math.inf`` with a continuum."""
        return count(self._dimensions, self._conditions)

    def active(self, genes: Genes) -> tuple[str, ...]:
        """Return the genes that count under these values, in space order.

        Raises:
            ConfigError: As `canonical`.
        """
        return tuple(self.canonical(genes))

    def canonical(self, genes: Genes) -> dict[str, Value]:
        """Return the active genes alone, in space order, in their declared types; values of inactive genes are unread.

        Raises:
            ConfigError: A gene is unknown, an active gene has no value, or its value is not allowed.
        """
        self._known(genes)
        return self._walk(lambda gene, _: self._value(gene, genes))

    def complete(self, genes: Genes) -> dict[str, Value]:
        """Return a value for every gene, in space order; inactive ones get their default.

        Raises:
            ConfigError: As `canonical`.
        """
        canonical = self.canonical(genes)
        return {gene: canonical.get(gene, dimension.default) for gene, dimension in self._dimensions.items()}

    def key(self, genes: Genes) -> str:
        """Return 12 hexadecimal digits; equal for equal students, different for different ones.

        Raises:
            ConfigError: As `canonical`.
        """
        return _sha256(json.dumps(self.canonical(genes), sort_keys=True))[:12]

    def sample(self, rng: np.random.Generator) -> dict[str, Value]:
        """Return a canonical candidate; every active gene is drawn uniformly."""
        return self._walk(lambda gene, _: self._dimensions[gene].sample(rng))

    def mutate(
        self, genes: Genes, rng: np.random.Generator, rate: float | None = None, max_step: int = 2
    ) -> dict[str, Value]:
        """Return a canonical candidate that differs from this one, unless the space holds no other.

        Args:
            genes: The parent; not changed.
            rng: Where all draws come from.
            rate: Chance of each active gene to move, in [0, 1]; None: one gene moves on average. One always does.
            max_step: Most places an ordered gene moves, at least 1.

        Raises:
            ConfigError: As `canonical`, or ``rate`` or ``max_step`` is out of range.
        """
        if max_step < 1 or (rate is not None and not 0 <= rate <= 1):
            raise ConfigError(
                f"mutation: rate {rate}, max_step {max_step}; rate in 0..1 and max_step >= 1 are allowed."
            )
        parent = self.canonical(genes)
        free = [gene for gene in parent if self._dimensions[gene].size > 1]
        chance = 1 / max(1, len(free)) if rate is None else rate
        moved = {gene for gene in free if rng.random() < chance}
        if free and not moved:
            moved = {free[int(rng.integers(len(free)))]}

        def value(gene: str, dimension: Dimension) -> Value:
            if gene not in parent:  # a condition has just become true
                return dimension.sample(rng)
            return dimension.mutate(parent[gene], rng, max_step) if gene in moved else parent[gene]

        return self._walk(value)

    def crossover(self, a: Genes, b: Genes, rng: np.random.Generator) -> dict[str, Value]:
        """Return a canonical candidate whose every gene comes from one of two parents at even chances.

        A gene that is active in one parent alone comes from that one.

        Raises:
            ConfigError: As `canonical`.
        """
        parents = (self.canonical(a), self.canonical(b))

        def value(gene: str, _: Dimension) -> Value:
            first, second = parents if rng.random() < 0.5 else reversed(parents)
            return first[gene] if gene in first else second[gene]

        return self._walk(value)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Return the names of the columns of `encode`, e.g. ``ffn_1?`` (active or not), ``ffn_1``, ``kind='relu'``."""
        return tuple(
            gene + suffix
            for gene, dimension in self._dimensions.items()
            for suffix in (*(("?",) if gene in self._conditions else ()), *dimension.columns)
        )

    def encode(self, genes: Genes) -> np.ndarray:
        """Return the candidate as numbers for a predictor.

        Returns:
            ``(len(columns),)`` float64 in [0, 1]: ordered genes by their place, others one-hot; a conditional gene has
            a column before its own that is 1 when it is active, and only zeros when it is not.

        Raises:
            ConfigError: As `canonical`.
        """
        canonical = self.canonical(genes)
        row: list[float] = []
        for gene, dimension in self._dimensions.items():
            code = dimension.encode(canonical[gene]) if gene in canonical else (0.0,) * len(dimension.columns)
            row += [float(gene in canonical), *code] if gene in self._conditions else code
        return np.array(row, dtype=np.float64)

    def distributions(self) -> "dict[str, BaseDistribution]":
        """Return the flat space that Optuna's samplers search: every gene, conditions left out."""
        from optuna.distributions import json_to_distribution  # keeps Optuna out of this package's imports

        return {gene: json_to_distribution(json.dumps(d.optuna_json())) for gene, d in self._dimensions.items()}

    def prefixed(self, prefix: str) -> "Space":
        """Return the same space with genes named ``prefix.gene``."""
        return Space(
            {f"{prefix}.{gene}": dimension for gene, dimension in self._dimensions.items()},
            {f"{prefix}.{gene}": Condition(f"{prefix}.{c.parent}", c.values) for gene, c in self._conditions.items()},
        )

    def joined(self, *others: "Space") -> "Space":
        """Return the space of all combinations with other spaces.

        Raises:
            ConfigError: Two spaces have a gene of the same name.
        """
        dimensions, conditions = dict(self._dimensions), dict(self._conditions)
        for other in others:
            if both := [gene for gene in other.names if gene in dimensions]:
                raise ConfigError(f"space.{both[0]}: is in two joined spaces; prefix one of them.")
            dimensions.update(other.dimensions)
            conditions.update(other.conditions)
        return Space(dimensions, conditions)

    def restricted(self, allowed: Mapping[str, Sequence[Value]]) -> "Space":
        """Return the part of the space in which some genes take only some of their values.

        The genes stay the same: one with a single value left, and one that can no longer be active, too.

        Raises:
            ConfigError: A gene or value is unknown, or no value is left.
        """
        self._known(allowed)
        dimensions = self._dimensions | {gene: self._narrowed(gene, values) for gene, values in allowed.items()}
        return Space(
            dimensions,
            {
                gene: Condition(c.parent, tuple(value for value in c.values if dimensions[c.parent].contains(value)))
                for gene, c in self._conditions.items()
            },
        )

    def without(self, bound: Genes) -> "Space":
        """Return what is left to decide once some genes have a fixed value.

        A gene that depends on a bound one becomes unconditional, or goes too, as the fixed value says.

        Raises:
            ConfigError: A gene or value is unknown.
        """
        self._known(bound)
        fixed = {gene: self._value(gene, bound) for gene in bound}
        left = undecided(self._order, self._conditions, fixed)
        return Space(
            {gene: dimension for gene, dimension in self._dimensions.items() if gene in left},
            {gene: condition for gene, condition in left.items() if condition},
        )

    def to_json(self) -> dict[str, Any]:
        """Return JSON values that `from_json` turns back into an equal space."""
        return {
            "dimensions": {gene: dimension.to_json() for gene, dimension in self._dimensions.items()},
            "conditions": {
                gene: {"parent": condition.parent, "values": list(condition.values)}
                for gene, condition in self._conditions.items()
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Space":
        """Return the space that `to_json` described.

        Raises:
            ConfigError: A dimension or condition makes no sense.
        """
        return cls(
            {gene: dimension_from_json(dimension) for gene, dimension in data["dimensions"].items()},
            {gene: Condition(c["parent"], tuple(c["values"])) for gene, c in data["conditions"].items()},
        )

    @cached_property
    def fingerprint(self) -> str:
        """Return 64 hexadecimal digits, equal for equal spaces."""
        return _sha256(json.dumps(self.to_json()))

    def __eq__(self, other: object) -> bool:
        """Return whether genes, order, values, types and conditions are the same."""
        return isinstance(other, Space) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        """Return an equal number for equal spaces."""
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        """Return the number of genes and candidates, and the names."""
        return f"<Space of {len(self._dimensions)} genes, {self.size} candidates: {', '.join(self.names)}>"

    def _known(self, genes: Mapping[str, object]) -> None:
        """Check that all names are genes of this space."""
        for gene in genes:
            if gene not in self._dimensions:
                raise unknown_name("space", gene, list(self._dimensions))

    def _value(self, gene: str, genes: Genes) -> Value:
        """Return the checked value of a gene that must have one."""
        dimension = self._dimensions[gene]
        if gene not in genes:
            raise ConfigError(f"space.{gene}: has no value; choose {dimension.allowed}.")
        if not dimension.contains(genes[gene]):
            raise ConfigError(f"space.{gene}: {genes[gene]!r} is not a choice; choose {dimension.allowed}.")
        return dimension.canonical(genes[gene])

    def _narrowed(self, gene: str, values: Sequence[Value]) -> Dimension:
        """Return a dimension of some of a gene's values, in their old order."""
        dimension = self._dimensions[gene]
        if not values:
            raise ConfigError(f"space.{gene}: {values!r} leaves no value; choose {dimension.allowed}.")
        return dimension.narrowed([self._value(gene, {gene: value}) for value in values])

    def _walk(self, value: Callable[[str, Dimension], Value]) -> dict[str, Value]:
        """Return the active genes in space order, asking for the value of each after its parent's."""
        chosen: dict[str, Value] = {}
        for gene in self._order:
            condition = self._conditions.get(gene)
            if condition is None or (condition.parent in chosen and chosen[condition.parent] in condition.values):
                chosen[gene] = value(gene, self._dimensions[gene])
        return {gene: chosen[gene] for gene in self._dimensions if gene in chosen}


def _sha256(text: str) -> str:
    """Return 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()
