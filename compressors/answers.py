"""What a student and a teacher say of a batch, as far as a loss asks for it.

Knows encoders; not losses, not where a teacher's answers are cached.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Flag, auto
from typing import NamedTuple

from torch import Tensor, nn

from compressors.terms import scaled_products
from search_spaces.families.encoder_model import Layer


class Need(Flag):
    """What a loss needs besides the logits.

    Attributes:
        STATES: The hidden states of the student.
        CACHE: The teacher's hidden states of the first token, which are cached.
        LIVE: The teacher itself, run on every batch: the rest is too large to be cached.
        EMBEDDINGS: Embeddings of the student that learn; a training run freezes them otherwise.
    """

    STATES = auto()
    CACHE = auto()
    LIVE = auto()
    EMBEDDINGS = auto()


NOTHING = Need(0)


class Vectors(NamedTuple):
    """Queries, keys and values of one layer, ``(rows, tokens, heads * head_size)`` each, and the number of heads."""

    query: Tensor
    key: Tensor
    value: Tensor
    heads: int


@dataclass(frozen=True)
class Answers:
    """What one model says of a batch; None where nobody asked.

    Attributes:
        logits: ``(rows, labels)`` float32; of a teacher None = the labels alone are learned.
        first: ``(rows, depth, hidden)`` float32, cached states of the first token after every layer.
        states: ``depth + 1`` tensors ``(rows, tokens, hidden)`` of any float type, the embeddings' first.
        layers: The layers that made the states.
    """

    logits: Tensor | None = None
    first: Tensor | None = None
    states: tuple[Tensor, ...] = ()
    layers: nn.ModuleList | None = None

    def vectors(self, index: int) -> Vectors:
        """Return what the heads of the ``index``-th layer, from 0 or from the end, compare and pass on.

        They are computed once more from the layer's input, which is simpler than carrying them through the model and
        costs a quarter of a layer.
        """
        layer, x = self._input(index)
        query, key, value = layer.query(x), layer.key(x), layer.value(x)
        return Vectors(query, key, value, query.shape[-1] // layer.head_size)

    def scores(self, index: int) -> Tensor:
        """Return ``(rows, heads, tokens, tokens)`` attention scores of a layer before the softmax, padding unmasked."""
        layer, x = self._input(index)
        query = layer.query(x)
        return scaled_products(query, layer.key(x), query.shape[-1] // layer.head_size)

    def _input(self, index: int) -> tuple[Layer, Tensor]:
        """Return a layer and what goes into it."""
        assert self.layers is not None
        layer = self.layers[index]
        assert isinstance(layer, Layer)
        return layer, self.states[:-1][index]


def ask(model: nn.Module, batch: Sequence[Tensor], needs: Need) -> Answers:
    """Return what a model says of a batch.

    Args:
        model: A `TextEncoder` in the mode and number type it is to compute in.
        batch: Ids, mask and types, ``(rows, tokens)`` int64 each.
        needs: With ``STATES`` also the hidden states, for which the last layer computes all tokens.
    """
    if Need.STATES not in needs:
        return Answers(model(*batch).float())
    logits, states = model(*batch, hidden_states=True)
    layers = model.layers
    assert isinstance(layers, nn.ModuleList)
    return Answers(logits.float(), states=states, layers=layers)
