"""Counting anew what a compressor's report says, from the models or files before and after.

A report may count in any of several units (weights, bytes, heads, bits ...); a change is true if one of them gives both
its numbers. Knows nothing of how the compressors count.
"""

import math
from collections.abc import Callable

import numpy as np
import onnx
import torch
from onnx import NodeProto, numpy_helper
from safetensors.numpy import load
from torch import Tensor, nn

from compressors.base import Change, Report, Skip
from search_spaces.families.encoder_model import TextEncoder


def tensors_at(model: nn.Module, where: str) -> list[Tensor]:
    """Return the parameters of that name or of the module of that name; the word table with its second factor."""
    prefixes = (f"{where}.", "embeddings.rank.") if where == "embeddings.word" else (f"{where}.",)
    named = model.named_parameters(remove_duplicate=False)
    return [p.detach() for name, p in named if name == where or name.startswith(prefixes)]


def contents(model: nn.Module) -> set[tuple[object, bytes]]:
    """Return all tensors of a model by value."""
    return {(t.shape, t.detach().numpy().tobytes()) for t in model.state_dict().values()}


def units(before: nn.Module, model: nn.Module) -> dict[str, int]:
    """Return how many units each group of the model before has in a model."""
    if isinstance(model, TextEncoder):
        found = {"hidden": model.head.out.in_features}
        for index, layer in enumerate(model.layers):
            heads, ffn = layer.query.out_features // layer.head_size, layer.up.out_features
            found |= {f"heads.{index}": heads, f"ffn.{index}": ffn}
        return found
    first = {group.name: group.members[0] for group in before.unit_groups()}
    there = {name: member for name, member in first.items() if member.tensor in model.state_dict()}
    return {name: model.state_dict()[m.tensor].shape[m.axis] // m.block for name, m in there.items()}


def _matrix(model: nn.Module, where: str) -> Tensor | None:
    found = [tensor for tensor in tensors_at(model, where) if tensor.ndim > 1]
    return found[0] if len(found) == 1 else None


def n_weights(before: nn.Module, after: nn.Module, change: Change) -> bool:
    """Weights of the matrices there, biases left out."""
    counts = [sum(t.numel() for t in tensors_at(m, change.where) if t.ndim > 1) for m in (before, after)]
    return counts == [change.before, change.after] and counts[0] != counts[1]


def n_nonzeros(before: nn.Module, after: nn.Module, change: Change) -> bool:
    """Weights, and those of them that are not zero."""
    old, new = _matrix(before, change.where), _matrix(after, change.where)
    if old is None or new is None:
        return False
    return change.before == old.count_nonzero() and change.after == new.count_nonzero()


def n_rows(before: nn.Module, after: nn.Module, change: Change) -> bool:
    """Rows of a table."""
    old, new = _matrix(before, change.where), _matrix(after, change.where)
    return old is not None and new is not None and (change.before, change.after) == (len(old), len(new))


def n_units(before: nn.Module, after: nn.Module, change: Change) -> bool:
    """Heads, neurons, dimensions or channels."""
    return (change.before, change.after) == tuple(units(before, m).get(change.where) for m in (before, after))


def n_left(before: nn.Module, after: nn.Module, change: Change) -> bool:
    """All weights of a part, biases included, and those of them that are anywhere in the new model."""
    old, there = tensors_at(before, change.where), contents(after)
    left = [t.numel() for t in old if (t.shape, t.numpy().tobytes()) in there]
    return (change.before, change.after) == (sum(t.numel() for t in old), sum(left))


def has_bits(before: nn.Module, after: nn.Module, change: Change) -> bool:
    """32 bits, and bits enough for the different values of every output channel or of what enters a layer."""
    module, _, what = change.where.rpartition(".")
    if what == "input":
        return change.before == 32 and dict(after.named_modules())[module]._forward_pre_hooks != {}
    old, new = _matrix(before, change.where), _matrix(after, change.where)
    if old is None or new is None or torch.equal(old, new) or not isinstance(change.after, int):
        return False
    return change.before == 32 and max(len(row.unique()) for row in new.flatten(1)) <= 2**change.after


def n_bytes(before: nn.Module, after: nn.Module, change: Change) -> bool:
    """Bytes in float32, and with a number of so many bits for each weight and a table of what they stand for."""
    old, new = _matrix(before, change.where), _matrix(after, change.where)
    if old is None or new is None:
        return False
    needed = math.ceil(math.log2(max(2, len(new.unique()))))
    packed = [math.ceil(new.numel() * bits / 8) + 4 * 2**bits for bits in range(needed, 9)]
    return change.before == 4 * old.numel() and change.after in packed


def has_owner(before: nn.Module, after: nn.Module, change: Change) -> bool:
    """Weights of its own, and those of another part."""
    if change.before != "own" or not isinstance(change.after, str):
        return False
    own, others = tensors_at(after, change.where), tensors_at(after, change.after)
    return len(own) > 0 and [t.data_ptr() for t in own] == [t.data_ptr() for t in others]


def n_learned(before: nn.Module, after: nn.Module, change: Change) -> bool:
    """Weights, and those that moved, where they moved in few directions the numbers of a low-rank product."""
    (old,), (new,) = (tensors_at(model, change.where) or [torch.zeros(0)] for model in (before, after))
    if change.before != old.numel() or torch.equal(old, new):
        return False
    if old.ndim < 2:
        return change.after == old.numel()
    rank = int((torch.linalg.svdvals((new - old).double()) > 1e-4 * (new - old).norm()).sum())
    return change.after in (old.numel(), rank * sum(old.shape))


MEASURES: tuple[Callable[[nn.Module, nn.Module, Change], bool], ...] = (
    n_weights,
    n_nonzeros,
    n_rows,
    n_units,
    n_left,
    has_bits,
    n_bytes,
    has_owner,
)


def is_left_alone(before: nn.Module, after: nn.Module, skip: Skip) -> bool:
    """Return whether what was skipped is still there as it was."""
    there, counts = contents(after), [units(before, model) for model in (before, after)]
    is_as_wide = counts[0].get(skip.where) == counts[1].get(skip.where)
    return is_as_wide and all((t.shape, t.numpy().tobytes()) in there for t in tensors_at(before, skip.where))


def unreported(before: nn.Module, after: nn.Module, report: Report) -> list[str]:
    """Return the parameters that differ and that no change names; of models of the same shape."""
    old, new = dict(before.named_parameters()), dict(after.named_parameters())
    if {n: p.shape for n, p in old.items()} != {n: p.shape for n, p in new.items()}:
        return []
    differ = [name for name in old if not torch.equal(old[name], new[name])]
    return [name for name in differ if not any(f"{name}.".startswith(f"{c.where}.") for c in report.changed)]


class Graph:
    """The nodes and constants of a file; those of the torch runtime have constants only."""

    def __init__(self, file: bytes) -> None:
        if file[8:9] == b"{":
            self.nodes, self.constants = {}, load(file)
            self.n_bytes = {name: values.nbytes for name, values in self.constants.items()}
            return
        graph = onnx.load_model_from_string(file).graph
        self.nodes: dict[str, NodeProto] = {node.name: node for node in graph.node}
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.n_bytes = {t.name: len(t.raw_data) or self.constants[t.name].nbytes for t in graph.initializer}

    def weights_of(self, where: str) -> list[str]:
        """Return the float matrices that a node reads, or the constant of that name."""
        named = [where] if where in self.constants else list(self.nodes[where].input)
        return [n for n in named if n in self.constants and self.constants[n].dtype == np.float32]


def is_counted(before: Graph, after: Graph, change: Change) -> bool:
    """Return whether a change of a file gives the bytes of its weight, before in float32 and after as it is stored.

    After counts the weight alone or its scales and zero points, too.
    """
    (weight,) = before.weights_of(change.where)
    stored = {name: size for name, size in after.n_bytes.items() if name.startswith(f"{weight}_")}
    grids = ("_scale", "_zero_point")
    alone = sum(size for name, size in stored.items() if not name.endswith(grids))
    is_gone = weight not in after.constants
    return is_gone and change.before == before.n_bytes[weight] and change.after in (alone, sum(stored.values()))


def is_kept(before: Graph, after: Graph, skip: Skip) -> bool:
    """Return whether a node or constant that was skipped is in the new file as it was."""
    if skip.where in before.nodes:
        old, new = before.nodes[skip.where], after.nodes.get(skip.where)
        return new is not None and old.op_type == new.op_type and list(old.input) == list(new.input)
    old_values, new_values = before.constants.get(skip.where), after.constants.get(skip.where)
    return old_values is None or (new_values is not None and np.array_equal(old_values, new_values))
