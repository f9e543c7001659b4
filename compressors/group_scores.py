"""Scoring the units of a module that says its groups; the counterpart of `importance` for what is no text encoder.

Knows groups, modules and batches; not what is cut.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from compressors.base import Material
from compressors.criteria import given, gradients
from compressors.prunable import module_of
from search_spaces.families.groups import Group
from search_spaces.registry import unknown_name
from search_spaces.seeding import rng_for

UnitScores = dict[str, np.ndarray]


def _magnitude(model: nn.Module, groups: Sequence[Group], material: Material) -> UnitScores:
    """Return the L2 norm of all weights; Li et al. 2017, https://arxiv.org/abs/1608.08710, sec. 3.1 (there L1)."""
    scores = {}
    for group in groups:
        squares = [
            _by_unit(model.get_parameter(name).detach().square(), group, axis)
            for names in _gates(model, group).values()
            for name, axis in names
        ]
        scores[group.name] = _array(torch.stack(squares).sum(0).sqrt())
    return scores


def _first_order(model: nn.Module, groups: Sequence[Group], material: Material) -> UnitScores:
    """Return |dL/dgate| of a gate on the unit in every module, summed over modules and batches.

    By the chain rule a gate's gradient is the sum of w dL/dw over the weights that it multiplies, a bias included.
    Source: Molchanov et al. 2019, https://arxiv.org/abs/1906.10771, sec. 3.2; absolute per batch.
    """
    gates = {group: list(_gates(model, group).values()) for group in groups}
    weights = {name for of_group in gates.values() for members in of_group for name, _ in members}
    scores = {group.name: np.zeros(group.size) for group in groups}
    for sample in given(material.batches):
        slopes = gradients(model, weights, sample)
        products = {name: model.get_parameter(name).detach() * slope for name, slope in slopes.items()}
        for group, of_group in gates.items():
            for members in of_group:
                parts = [_by_unit(products[name], group, axis) for name, axis in members]
                scores[group.name] += _array(torch.stack(parts).sum(0).abs())
    return scores


def _activation(model: nn.Module, groups: Sequence[Group], material: Material) -> UnitScores:
    """Return how strongly a unit answers: the mean |output| of a row, squared and summed over rows.

    The outputs are those of all Linear and Conv2d that make the units of the group. Source: Muralidharan et al. 2024,
    https://arxiv.org/abs/2407.14679, sec. 2.2.
    """
    scores = {group.name: np.zeros(group.size) for group in groups}

    def add(group: Group, module: nn.Module, _: object, answer: Tensor) -> None:
        channels_first = answer if isinstance(module, nn.Conv2d) else answer.movedim(-1, 1)
        means = channels_first.abs().reshape(len(answer), group.size, -1).mean(-1)
        scores[group.name] += _array(means.square().sum(0))

    makers = [
        (group, module_of(model, name))
        for group in groups
        for (_, axis), members in _gates(model, group).items()
        for name, _ in members[:1]
        if axis == 0 and isinstance(module_of(model, name), nn.Linear | nn.Conv2d)
    ]
    handles = [module.register_forward_hook(partial(add, group)) for group, module in makers]
    try:
        with torch.no_grad():
            for inputs, _ in given(material.batches):
                model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return scores


def _random(model: nn.Module, groups: Sequence[Group], material: Material) -> UnitScores:
    """Return uniform noise: the baseline that every criterion has to beat."""
    return {group.name: rng_for(material.seed, "units", group.name).random(group.size) for group in groups}


CRITERIA: Mapping[str, Callable[[nn.Module, Sequence[Group], Material], UnitScores]] = {
    "magnitude": _magnitude,
    "first_order": _first_order,
    "activation": _activation,
    "random": _random,
}


def score_groups(criterion: str, model: nn.Module, groups: Sequence[Group], material: Material) -> UnitScores:
    """Return the importance of every unit by group, each ``(size,)`` float64, larger = keep.

    Args:
        criterion: A row of `CRITERIA`.
        model: In evaluation mode, not changed.
        groups: Of the model.
        material: Rows to score on, unread by ``magnitude`` and ``random``.

    Raises:
        ConfigError: The criterion is unknown.
        DataError: There are no rows, and the criterion needs them.
    """
    if criterion not in CRITERIA:
        raise unknown_name("criterion", criterion, list(CRITERIA))
    return CRITERIA[criterion](model, groups, material)


def _gates(model: nn.Module, group: Group) -> dict[tuple[str, int], list[tuple[str, int]]]:
    """Return the parameters (name, axis) of a group by module and axis; buffers have no score."""
    known = dict(model.named_parameters())
    gates: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for member in group.members:
        if member.tensor in known:
            gate = (member.tensor.rpartition(".")[0], member.axis)
            gates.setdefault(gate, []).append((member.tensor, member.axis))
    return gates


def _by_unit(values: Tensor, group: Group, axis: int) -> Tensor:
    """Return ``(size,)``: the sum over all entries of each unit."""
    return values.movedim(axis, 0).reshape(group.size, -1).sum(1)


def _array(scores: Tensor) -> np.ndarray:
    """Return scores as float64."""
    array: np.ndarray = scores.double().cpu().numpy()
    return array
