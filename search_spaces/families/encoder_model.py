"""The one module behind every text encoder: teacher, student, uniform or not.

A post-LayerNorm transformer encoder with a classification head on the first token, as BERT, MiniLM, DistilBERT,
RoBERTa and ELECTRA have it, except that every layer may have its own number of heads and its own FFN width. Knows
shapes and the forward pass; not Hugging Face files (`encoder_hf`), not how students are made (`text_encoder`).

The classifier reads only the first token, so the last layer computes only that token: keys and values for all
tokens, everything else for one. The logits are the same; exporters do well to do likewise.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces.errors import ConfigError, ShapeError
from search_spaces.families.attention import attend
from search_spaces.families.factored import factor_linears
from search_spaces.registry import unknown_name

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


@dataclass(frozen=True)
class EncoderConfig:
    """The shape of one text encoder.

    Attributes:
        model_type: Hugging Face name: bert, distilbert, roberta or electra.
        vocab_size: Rows of the word table.
        n_positions: Tokens a text may have; rows of the position table (RoBERTa's unused first rows are dropped).
        n_token_types: Rows of the segment table; 0 = the model has none.
        hidden: Width of the residual stream.
        embedding: Width of the tables and their LayerNorm; a Linear to ``hidden`` follows where the two differ.
        embedding_rank: 0 = the word table is ``(vocab, embedding)``; r = it is ``(vocab, r)`` times ``(r, embedding)``.
        head_size: Width of one attention head, in all layers.
        heads: Attention heads of each layer.
        ffn: Inner width of the feed-forward block of each layer.
        activation: Inside the feed-forward block; a row of `ACTIVATIONS`.
        head_activation: Inside the classification head; a row of `ACTIVATIONS`.
        layer_norm_eps: Added to the variance in every LayerNorm.
        dropout: On embeddings, block outputs and the head while training.
        pad_token_id: Token id of padding.
        position_offset: Rows that Hugging Face's position table has before the first usable one.
        labels: Class names, in the order of the logits.
        ranks: Name and rank of every Linear that is a product of two thin ones (`FactoredLinear`).
        sharing: For each layer the first layer with the same weights, itself included; () = each layer has its own.
    """

    model_type: str
    vocab_size: int
    n_positions: int
    n_token_types: int
    hidden: int
    embedding: int
    embedding_rank: int
    head_size: int
    heads: tuple[int, ...]
    ffn: tuple[int, ...]
    activation: str
    head_activation: str
    layer_norm_eps: float
    dropout: float
    pad_token_id: int
    position_offset: int
    labels: tuple[str, ...]
    ranks: tuple[tuple[str, int], ...] = ()
    sharing: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a shape that no module can have."""
        if len(self.heads) != len(self.ffn) or not self.heads:
            raise ConfigError(
                f"encoder: {len(self.heads)} layers have heads and {len(self.ffn)} have an FFN; "
                "both need one number a layer and at least one layer."
            )
        if min(*self.heads, *self.ffn, self.hidden, self.embedding, self.head_size) < 1:
            raise ConfigError(f"encoder: a width is below 1 in {self}; every width is at least 1.")
        for name in (self.activation, self.head_activation):
            if name not in ACTIVATIONS:
                raise unknown_name("encoder.activation", name, list(ACTIVATIONS))
        for name, rank in self.ranks:
            if rank < 1:
                raise ConfigError(f"encoder.ranks: {name} has rank {rank}; at least 1.")
        owners = self.owners
        shapes = list(zip(owners, self.heads, self.ffn, strict=False))  # of one group all are equal
        if len(owners) != self.depth or any(
            not 0 <= owner <= index or shapes[owner] != shapes[index] for index, owner in enumerate(owners)
        ):
            raise ConfigError(
                f"encoder.sharing: {self.sharing} does not fit heads {self.heads} and FFN {self.ffn}; one entry a "
                "layer, the first layer of its group, and one shape in a group."
            )

    @property
    def depth(self) -> int:
        """Return the number of layers."""
        return len(self.heads)

    @property
    def owners(self) -> tuple[int, ...]:
        """Return for each layer the one whose weights it uses: itself, unless layers share weights."""
        return self.sharing or tuple(range(self.depth))

    @property
    def is_uniform(self) -> bool:
        """Return True if a plain Hugging Face model of this type can hold the shape."""
        square = all(heads * self.head_size == self.hidden for heads in self.heads)
        is_own = self.embedding_rank == 0 and not self.ranks and not self.sharing
        return square and len(set(self.ffn)) == 1 and is_own

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        lists = {name: list(getattr(self, name)) for name in ("heads", "ffn", "labels", "sharing")}
        return {**asdict(self), **lists, "ranks": dict(self.ranks)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "EncoderConfig":
        """Return what `to_json` wrote, also before there were ``ranks`` and ``sharing``."""
        lists = {name: tuple(fields[name]) for name in ("heads", "ffn", "labels", "sharing") if name in fields}
        return cls(**{**fields, **lists, "ranks": tuple(fields.get("ranks", {}).items())})


class Embeddings(nn.Module):
    """Word + position + segment rows, LayerNorm, and a Linear where the tables are narrower than the stream."""

    def __init__(self, config: EncoderConfig) -> None:
        """Make the tables; ``rank`` and ``project`` exist only where the shape needs them."""
        super().__init__()
        width, rank = config.embedding, config.embedding_rank
        self.word = nn.Embedding(config.vocab_size, rank or width)
        self.rank = nn.Linear(rank, width, bias=False) if rank else None
        self.position = nn.Embedding(config.n_positions, width)
        self.segment = nn.Embedding(config.n_token_types, width) if config.n_token_types else None
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.project = nn.Linear(width, config.hidden) if width != config.hidden else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """Return ``(rows, tokens, hidden)`` float; types None = all of segment 0."""
        words = self.word(input_ids)
        if self.rank is not None:
            words = self.rank(words)
        x = words + self.position.weight[: input_ids.shape[1]]
        if self.segment is not None:
            x = x + (self.segment.weight[0] if token_type_ids is None else self.segment(token_type_ids))
        x = self.dropout(self.norm(x))
        return x if self.project is None else self.project(x)  # type: ignore[no-any-return]


class Layer(nn.Module):
    """Attention and feed-forward block, each followed by residual and LayerNorm."""

    def __init__(self, config: EncoderConfig, index: int) -> None:
        """Make the ``index``-th layer of the shape."""
        super().__init__()
        inner = config.heads[index] * config.head_size
        self.head_size = config.head_size
        self.query = nn.Linear(config.hidden, inner)
        self.key = nn.Linear(config.hidden, inner)
        self.value = nn.Linear(config.hidden, inner)
        self.out = nn.Linear(inner, config.hidden)
        self.attention_norm = nn.LayerNorm(config.hidden, eps=config.layer_norm_eps)
        self.up = nn.Linear(config.hidden, config.ffn[index])
        self.down = nn.Linear(config.ffn[index], config.hidden)
        self.ffn_norm = nn.LayerNorm(config.hidden, eps=config.layer_norm_eps)
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None, first_only: bool = False) -> Tensor:
        """Return the stream after this layer.

        Args:
            x: ``(rows, tokens, hidden)``.
            mask: ``(rows, 1, 1, tokens)`` bool, True = attend; None = no padding.
            first_only: Compute the first token only; the result is ``(rows, 1, hidden)``.
        """
        asking = x[:, :1] if first_only else x
        # no dropout on attention weights: it would cost the fast kernel
        context = attend(self.query(asking), self.key(x), self.value(x), self.head_size, mask)
        x = self.attention_norm(asking + self.dropout(self.out(context)))
        return self.ffn_norm(x + self.dropout(self.down(self.activation(self.up(x)))))  # type: ignore[no-any-return]


class Head(nn.Module):
    """The classifier on the first token."""

    def __init__(self, config: EncoderConfig) -> None:
        """Make the two Linears."""
        super().__init__()
        self.dense = nn.Linear(config.hidden, config.hidden)
        self.out = nn.Linear(config.hidden, len(config.labels))
        self.activation = ACTIVATIONS[config.head_activation]
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, first: Tensor) -> Tensor:
        """Return ``(rows, labels)`` logits of ``(rows, hidden)`` first tokens."""
        return self.out(self.dropout(self.activation(self.dense(first))))  # type: ignore[no-any-return]


class TextEncoder(nn.Module):
    """Token ids in, logits out; padding on the right only."""

    def __init__(self, config: EncoderConfig) -> None:
        """Make a model with fresh weights, BERT's initialisation."""
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        layers: list[Layer] = []
        for index, owner in enumerate(config.owners):
            layers.append(layers[owner] if owner < index else Layer(config, index))
        self.layers = nn.ModuleList(layers)
        self.head = Head(config)
        factor_linears(self, config.ranks)
        self.apply(_initialise)
        # each weight has one name in a state dict, also where layers share it: files hold it once
        self.register_state_dict_post_hook(_drop_aliases)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_add_aliases)  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        hidden_states: bool = False,
    ) -> Tensor | tuple[Tensor, tuple[Tensor, ...]]:
        """Return the logits, and on request the stream before the first and after every layer.

        Args:
            input_ids: ``(rows, tokens)`` int64, padded on the right.
            attention_mask: ``(rows, tokens)``, 1 = real token; None = no padding.
            token_type_ids: ``(rows, tokens)`` int64; None = all 0; ignored by models without segments.
            hidden_states: Also return ``depth + 1`` tensors ``(rows, tokens, hidden)``, all tokens of each.

        Returns:
            ``(rows, labels)`` float logits, or these and the hidden states.

        Raises:
            ShapeError: more tokens than the model has positions.
        """
        if input_ids.shape[1] > self.config.n_positions:
            raise ShapeError(
                f"text encoder: {input_ids.shape[1]} tokens in a row; at most {self.config.n_positions}. "
                "Lower data.max_length."
            )
        x = self.embeddings(input_ids, token_type_ids)
        mask = _mask(attention_mask)
        states = [x]
        for index, layer in enumerate(self.layers):
            last = index == self.config.depth - 1
            x = layer(x, mask, first_only=last and not hidden_states)
            if hidden_states:
                states.append(x)
        logits: Tensor = self.head(x[:, 0])
        return (logits, tuple(states)) if hidden_states else logits


def _mask(attention_mask: Tensor | None) -> Tensor | None:
    """Return the mask of attention, or None where nothing is padded: the kernel without a mask is faster."""
    if attention_mask is None or bool(attention_mask.all()):
        return None
    return attention_mask[:, None, None, :].bool()


def _initialise(module: nn.Module) -> None:
    """Draw Linear and Embedding weights from N(0, 0.02), biases 0 (Devlin et al. 2019, as released)."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _aliases(model: nn.Module, prefix: str) -> list[tuple[str, str]]:
    """Return the prefixes of the names that layers without weights of their own and their owners have."""
    pairs = enumerate(cast(TextEncoder, model).config.owners)
    return [(f"{prefix}layers.{index}.", f"{prefix}layers.{owner}.") for index, owner in pairs if owner != index]


def _drop_aliases(model: nn.Module, state: dict[str, Any], prefix: str, _: object) -> None:
    """Leave shared weights in a state dict once."""
    for alias, _owner in _aliases(model, prefix):
        for name in [name for name in state if name.startswith(alias)]:
            del state[name]


def _add_aliases(model: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Give shared weights all their names before they are loaded."""
    for alias, owner in _aliases(model, prefix):
        for name in [name for name in state if name.startswith(owner)]:
            state[alias + name.removeprefix(owner)] = state[name]
