"""From scores to masks: which weights stay, by a share of a group, by a threshold, or N of every M.

A mask is True where a weight stays. Knows scores by the names of weights; not where the scores come from.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from compressors.prunable import block_of
from search_spaces.errors import ConfigError
from search_spaces.registry import unknown_name

Masks = dict[str, Tensor]
SCOPES = ("layer", "global")
PATTERNS: Mapping[str, tuple[int, int]] = {"none": (0, 0), "2:4": (2, 4), "4:8": (4, 8)}
"""N:M = N weights stay of every M neighbours of an input axis (GPUs have products that skip the others of 2:4)."""


@dataclass(frozen=True)
class Rule:
    """Which weights compete with each other.

    Attributes:
        scope: Each ``layer`` (all matrices of one), all together (``global``), or, where scores compare no further,
            each output ``row``.
        pattern: A row of `PATTERNS`; unless ``none``, weights compete within M neighbours whatever the scope.
    """

    scope: str = "layer"
    pattern: str = "none"

    def find(self, scores: Mapping[str, Tensor], share: float) -> Masks:
        """Return the masks that prune a share, of a pattern as many of M as are due by then.

        Raises:
            ConfigError: M does not divide the input width of a weight.
        """
        n, m = PATTERNS[self.pattern]
        if m:
            n_pruned = min(m - n, math.floor(share * m + 1e-9))
            return {name: within_pattern(name, score, m, n_pruned) for name, score in scores.items()}
        if self.scope == "row":
            return {name: by_row(score, share) for name, score in scores.items()}
        return by_share(scores, share, self.scope)


def check_knobs(where: str, sparsity: float, rule: Rule) -> None:
    """Refuse knobs that no weights can have.

    Args:
        where: Name of the compressor.
        sparsity: Share of weights to prune.
        rule: Which weights compete.

    Raises:
        ConfigError: One is out of its range, or the pattern asks for another sparsity.
    """
    if not 0 <= sparsity < 1:
        raise ConfigError(f"{where}.sparsity: {sparsity} is out of range; 0 to below 1.")
    if rule.scope not in SCOPES:
        raise unknown_name(f"{where}.scope", rule.scope, list(SCOPES))
    if rule.pattern not in PATTERNS:
        raise unknown_name(f"{where}.pattern", rule.pattern, list(PATTERNS))
    n, m = PATTERNS[rule.pattern]
    if m and sparsity != 1 - n / m:
        raise ConfigError(
            f"{where}.pattern: {rule.pattern} leaves {1 - n / m} of the weights zero, but sparsity is {sparsity}; "
            f"they must agree. Set {where}.sparsity to {1 - n / m}."
        )


def groups(names: Mapping[str, Tensor], scope: str) -> list[list[str]]:
    """Return the names that compete with each other: of every layer, or all of them."""
    if scope == "global":
        return [list(names)]
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(block_of(name), []).append(name)
    return list(found.values())


def by_share(scores: Mapping[str, Tensor], share: float, scope: str) -> Masks:
    """Return masks that prune the lowest share of every group, rounded to whole weights.

    Args:
        scores: By name; larger = keep.
        share: 0..1.
        scope: ``layer`` or ``global`` (one threshold over all).
    """
    masks: Masks = {}
    for names in groups(scores, scope):
        joined = torch.cat([scores[name].flatten() for name in names])[None]
        stays = keep_highest(joined, round(share * joined.numel()))[0]
        parts = torch.split(stays, [scores[name].numel() for name in names])
        masks |= {name: part.view_as(scores[name]) for name, part in zip(names, parts, strict=True)}
    return masks


def by_row(scores: Tensor, share: float) -> Tensor:
    """Return a mask that prunes the lowest share of every output row, as Wanda compares weights.

    Source: Sun et al. 2023, https://arxiv.org/abs/2306.11695, sec. 3 ("comparison group").
    """
    rows = scores.flatten(1)
    return keep_highest(rows, round(share * rows.shape[1])).view_as(scores)


def zeros_first(scores: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the scores with minus infinity where a weight is zero: pruned weights stay pruned, whatever the score."""
    return {name: score.masked_fill(weights[name].detach() == 0, -math.inf) for name, score in scores.items()}


def by_threshold(scores: Mapping[str, Tensor], threshold: float) -> Masks:
    """Return masks that prune every score at or below a threshold."""
    return {name: score > threshold for name, score in scores.items()}


def below_start(magnitudes: Mapping[str, Tensor], start: Mapping[str, Tensor], share: float, scope: str) -> Masks:
    """Return masks that prune what is at or below the magnitude that held a share of each group at the start.

    Args:
        magnitudes: Now.
        start: At the start, of the same names; shapes may differ.
        share: Of the weights of a group at the start, 0..1.
        scope: ``layer`` or ``global``.
    """
    masks: Masks = {}
    for names in groups(magnitudes, scope):
        then = torch.cat([start[name].flatten() for name in names])
        n_below = round(share * len(then))
        threshold = float(then.kthvalue(n_below).values) if n_below else 0.0  # zeros are pruned and stay so
        masks |= by_threshold({name: magnitudes[name] for name in names}, threshold)
    return masks


def within_pattern(name: str, scores: Tensor, m: int, n_pruned: int) -> Tensor:
    """Return a mask that prunes the lowest ``n_pruned`` of every ``m`` neighbours along the input axis.

    Args:
        name: Of the weight, for the error.
        scores: ``(out, in)`` or ``(out, in, height, width)``; the kernel's places are apart from each other.
        m: Neighbours that compete.
        n_pruned: 0 to ``m``.

    Raises:
        ConfigError: ``m`` does not divide the input width.

    Source: Mishra et al. 2021, https://arxiv.org/abs/2104.08378.
    """
    if scores.shape[1] % m:
        raise ConfigError(
            f"{name}: its input width {scores.shape[1]} is not a multiple of {m}; a pattern of {m} neighbours needs "
            "one. Set pattern to none."
        )
    last = scores.movedim(1, -1)
    stays = keep_highest(last.reshape(-1, m), n_pruned)
    return stays.view(last.shape).movedim(-1, 1).contiguous()


def keep_highest(scores: Tensor, n_pruned: int) -> Tensor:
    """Return a mask without the ``n_pruned`` lowest of each row; of equal scores the first go.

    Args:
        scores: ``(groups, size)`` float.
        n_pruned: 0 to ``size``.
    """
    if not n_pruned:
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = scores.kthvalue(n_pruned, dim=1, keepdim=True).values
    below, ties = scores < threshold, scores == threshold
    missing = n_pruned - below.sum(1, keepdim=True)
    return ~(below | (ties & (ties.cumsum(1) <= missing)))
