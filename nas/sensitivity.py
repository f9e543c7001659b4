"""How much each single change of the teacher's shape harms what it says, without any training.

Knows candidates, the teacher and token rows; not costs, budgets or how the figures are used.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nas.candidates import Candidates
from nas.data.tokens import Tokens
from nas.outputs import divergence, predict_logits
from search_spaces.dimensions import Choice
from search_spaces.families.encoder_model import TextEncoder
from search_spaces.families.importance import Importance
from search_spaces.space import Genes, Value

Damages = Mapping[str, Mapping[Value, float]]
"""Gene -> its value -> damage in nats; 0 for the value of the teacher's shape."""


def teacher_shape(candidates: Candidates) -> dict[str, Value] | None:
    """Return the candidate that has the teacher's shape, compression at its strongest; None if the recipe excludes it.

    It is what single changes start from.
    """
    first = candidates.warm_start()[:1]
    whole = [genes for genes in first if candidates.architecture(genes).config == candidates.teacher]
    return whole[0] if whole else None


def shape_changes(candidates: Candidates, base: Genes) -> dict[str, tuple[Value, ...]]:
    """Return the values of every gene of the shape that is active in ``base`` and has more than one."""
    choices = {gene: candidates.space.dimensions[gene] for gene in candidates.shape_genes if gene in base}
    return {
        gene: tuple(choice.values) for gene, choice in choices.items() if isinstance(choice, Choice) and choice.size > 1
    }


def changed(candidates: Candidates, base: Genes, change: Genes) -> dict[str, Value]:
    """Return ``base`` with other values of some genes; a gene that becomes active has its default."""
    genes: dict[str, Value] = candidates.space.canonical({**candidates.space.complete(base), **change})
    return genes


def sensitivity(
    candidates: Candidates, base: Genes, teacher: TextEncoder, importance: Importance, rows: Tokens, said: np.ndarray
) -> dict[str, dict[Value, float]]:
    """Return the damage of every single change of the shape: KL(teacher || teacher with only that change).

    Along an ordered gene, damage never falls with the distance from the teacher's value: what a few rows say to the
    contrary is noise.

    Args:
        candidates: The space.
        base: Of the teacher's shape, see `teacher_shape`.
        teacher: Students inherit from it; not changed.
        importance: Which units they inherit.
        rows: n token rows.
        said: ``(n, n_labels)`` logits of the teacher on these rows.

    Returns:
        Gene -> value -> nats, see `Damages`.

    Source: AutoQuantize and Puzzletron score replacements alone and solve for their sum, NVIDIA Model Optimizer,
        https://github.com/NVIDIA/Model-Optimizer.
    """

    def damage(gene: str, value: Value) -> float:
        """Return the divergence of the teacher with one gene changed."""
        if value == base[gene]:
            return 0.0
        architecture = candidates.architecture(changed(candidates, base, {gene: value}))
        student = candidates.family.build(teacher, architecture, importance)
        return divergence(said, predict_logits(student, rows))

    found = {}
    for gene, values in shape_changes(candidates, base).items():
        damages = [max(0.0, damage(gene, value)) for value in values]
        if candidates.space.dimensions[gene].columns == ("",):  # ordered
            damages = _monotone(damages, values.index(base[gene]))
        found[gene] = dict(zip(values, damages, strict=True))
    return found


def summed(damages: Damages, genes: Genes) -> float:
    """Return the damage of a candidate in nats as if those of its changes added up; inactive genes do none."""
    return sum(values[genes[gene]] for gene, values in damages.items() if gene in genes)


def to_rows(damages: Damages) -> list[list[Any]]:
    """Return damages as JSON values: gene, value and nats, one row a value."""
    return [[gene, value, nats] for gene, values in damages.items() for value, nats in values.items()]


def of_rows(rows: Sequence[Sequence[Any]]) -> dict[str, dict[Value, float]]:
    """Return what `to_rows` was given."""
    found: dict[str, dict[Value, float]] = {}
    for gene, value, nats in rows:
        found.setdefault(gene, {})[value] = nats
    return found


def _monotone(damages: Sequence[float], origin: int) -> list[float]:
    """Return the cumulative maximum outwards from the place of the teacher's value."""
    left = np.maximum.accumulate(damages[origin::-1])[::-1]
    right = np.maximum.accumulate(damages[origin:])
    return [float(value) for value in (*left[:-1], *right)]
