"""Units of any module, and cutting them: which entries of which tensors belong to one unit and must go together.

A module that says its groups (`HasUnitGroups`) can be cut. Channels that are added to each other, as by a residual
connection, are one group with members in all the modules involved. Knows tensors and shapes; not which unit matters.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces.errors import ConfigError


@dataclass(frozen=True)
class Member:
    """One axis of a tensor that runs over the units of a group.

    Attributes:
        tensor: Name of a parameter or buffer of the model.
        axis: The axis.
        block: Neighbouring entries that one unit has; a channel of 4 x 4 places has 16 columns of a Linear after it.
    """

    tensor: str
    axis: int = 0
    block: int = 1


@dataclass(frozen=True)
class Group:
    """Units that are alike, e.g. the channels between two convolutions.

    Attributes:
        name: Kind and place, e.g. ``channels.0``; the part before the first dot is the kind.
        size: How many units there are.
        members: Everything that has an entry for each of them.
    """

    name: str
    size: int
    members: tuple[Member, ...]


@runtime_checkable
class HasUnitGroups(Protocol):
    """A module whose units can be cut."""

    def unit_groups(self) -> Sequence[Group]:
        """Return the groups as the module is now; a tensor's axis belongs to at most one."""
        ...


def cut_units(model: nn.Module, groups: Iterable[Group], kept: Mapping[str, np.ndarray]) -> nn.Module:
    """Return a model with some units of each group only; it shares no memory with the argument, which is not changed.

    Args:
        model: Any module with Linear, Conv2d, BatchNorm and LayerNorm as members.
        groups: Of the model.
        kept: Group -> indices of the units that stay, ``(n,)`` int64; groups without an entry stay whole.

    Raises:
        ConfigError: A member has not as many entries as its group says, or its module cannot be cut.
    """
    result = copy.deepcopy(model)
    owners: dict[str, None] = {}
    for group in groups:
        if group.name not in kept:
            continue
        for member in group.members:
            owners[member.tensor.rpartition(".")[0]] = None
            _cut(result, group, member, kept[group.name])
    for path in owners:
        _refit(path, result.get_submodule(path))
    return result


def block_indices(units: np.ndarray, block: int) -> np.ndarray:
    """Return the entries of some units that have ``block`` neighbouring entries each."""
    indices: np.ndarray = (units[:, None] * block + np.arange(block)).ravel()
    return indices


def _cut(model: nn.Module, group: Group, member: Member, kept: np.ndarray) -> None:
    """Replace one tensor by its kept part."""
    path, _, own = member.tensor.rpartition(".")
    module = model.get_submodule(path)
    old: Tensor = getattr(module, own)
    expected = group.size * member.block
    if old.shape[member.axis] != expected:
        raise ConfigError(
            f"{group.name}: {member.tensor} has {old.shape[member.axis]} entries on axis {member.axis}; {group.size} "
            f"units of {member.block} need {expected}. Correct the model's unit_groups()."
        )
    index = torch.from_numpy(block_indices(kept, member.block)).to(old.device)
    new = old.detach().index_select(member.axis, index)
    setattr(module, own, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)


def _refit(path: str, module: nn.Module) -> None:
    """Make a module's own account of its shape that of its weights."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Conv2d) and module.groups in (1, module.in_channels):
        if module.groups > 1:  # depthwise: a group for every input channel
            module.groups = len(module.weight) * module.in_channels // module.out_channels
        module.out_channels, module.in_channels = len(module.weight), module.weight.shape[1] * module.groups
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        module.num_features = len(module.weight)
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(module.weight.shape)
    else:
        groups = f" of {module.groups} groups" if isinstance(module, nn.Conv2d) else ""
        raise ConfigError(
            f"{path}: a {type(module).__name__}{groups} cannot be cut; Linear, Conv2d (plain or depthwise), BatchNorm "
            "and LayerNorm can. Leave its units out of unit_groups()."
        )
