"""The terms of distillation that need the teacher to run on every batch: what of two models each of them compares.

Knows answers of models and which layers belong together; not the formulas (`terms`), not labels and logits.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from compressors import terms
from compressors.answers import Answers
from compressors.layer_map import closest_layers, fixed_pairs, taught_layers

LIVE_TERMS = ("tokens", "attention", "relation", "cosine", "similarity", "embedding", "contrastive")

Project = Callable[[Tensor], Tensor]
"""Turns ``(..., student's hidden)`` of any float type into ``(..., teacher's hidden)`` float32."""


@dataclass(frozen=True)
class LiveTerms:
    """Weighted distances between what happens inside a student and inside its teacher.

    Attributes:
        weights: Row of `LIVE_TERMS` -> 0 or more.
        layer_map: Which layers ``tokens`` and ``attention`` compare; a row of `compressors.layer_map.LAYER_MAPS`.
    """

    weights: Mapping[str, float]
    layer_map: str

    @property
    def wanted(self) -> tuple[str, ...]:
        """Return the terms with a weight above 0."""
        return tuple(name for name in LIVE_TERMS if self.weights[name])

    def distance(self, student: Answers, teacher: Answers, mask: Tensor, project: Project) -> Tensor:
        """Return the weighted sum of all wanted terms.

        Args:
            student: With states and layers.
            teacher: With states and layers; no gradient flows into it.
            mask: ``(rows, tokens)``, 1 = real token.
            project: Brings the student's states to the teacher's width.
        """
        is_by_layer = self.weights["tokens"] or self.weights["attention"]
        pairs = self.pairs(student, teacher, mask, project) if is_by_layer else []
        last, goal = student.states[-1], teacher.states[-1]
        found: dict[str, Callable[[], Tensor]] = {
            "tokens": lambda: _mean(
                terms.token_distance(project(student.states[s]), teacher.states[t], mask) for s, t in pairs
            ),
            "attention": lambda: _mean(
                terms.attention_distance(student.scores(s - 1), teacher.scores(t - 1), mask) for s, t in pairs
            ),
            "relation": lambda: _relation(student, teacher, mask),
            "cosine": lambda: terms.cosine_distance(project(last), goal, mask),
            "similarity": lambda: terms.similarity_distance(last[:, 0], goal[:, 0]),
            "embedding": lambda: terms.token_distance(project(student.states[0]), teacher.states[0], mask),
            "contrastive": lambda: terms.contrastive_loss(project(last[:, 0]), goal[:, 0]),
        }
        return torch.stack([self.weights[name] * found[name]() for name in self.wanted]).sum()

    def pairs(self, student: Answers, teacher: Answers, mask: Tensor, project: Project) -> list[tuple[int, int]]:
        """Return pairs of a student's and a teacher's layer, from 1, that are compared in this batch.

        Arguments as of `distance`.
        """
        n_student, n_teacher = len(student.states) - 1, len(teacher.states) - 1
        if self.layer_map != "dynamic":
            return fixed_pairs(self.layer_map, n_student, n_teacher)
        taught = taught_layers(n_student, n_teacher)
        with torch.no_grad():
            states = [project(state) for state in student.states[1:]]
            rows = [[terms.token_distance(state, teacher.states[t], mask) for state in states] for t in taught]
            distances = torch.stack([torch.stack(row) for row in rows]).cpu().numpy()
        return [(s + 1, t) for s, t in zip(closest_layers(distances), taught, strict=True)]


def _relation(student: Answers, teacher: Answers, mask: Tensor) -> Tensor:
    """Return how differently the last layers relate queries to keys and values to values."""
    ours, theirs = student.vectors(-1), teacher.vectors(-1)
    heads = terms.relation_heads(ours.heads, theirs.heads)
    divergences = [
        terms.relation_divergence(terms.scaled_products(a, b, heads), terms.scaled_products(c, d, heads), mask)
        for a, b, c, d in (
            (ours.query, ours.key, theirs.query, theirs.key),
            (ours.value, ours.value, theirs.value, theirs.value),
        )
    ]
    return torch.stack(divergences).sum()


def _mean(distances: Iterable[Tensor]) -> Tensor:
    """Return the mean of the distances of some pairs of layers."""
    return torch.stack(list(distances)).mean()
