"""The encoder as converters want it: no branch depends on a value, padding is masked by a sum, attention is plain.

PyTorch's own attention becomes a dozen more nodes in each layer, for rows that attend to nothing, and cuts what one
delegate could compute into pieces. Knows the module; not runtimes.
"""

from typing import cast

import torch
from torch import Tensor, nn

from search_spaces.families.encoder_model import EncoderConfig, Layer, TextEncoder

LOWEST = -1e9  # added to the score of padding: its weight is zero then


class PortableEncoder(nn.Module):
    """A text encoder whose inputs are all given; their names and order are those of its ONNX file."""

    def __init__(self, model: TextEncoder) -> None:
        """Keep the model, in evaluation mode."""
        super().__init__()
        self.model = model.eval()
        self.scale = nn.Buffer(torch.tensor(model.config.head_size**-0.5))  # a tensor, which delegates multiply with

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Return ``(rows, labels)`` logits.

        Args:
            input_ids: ``(rows, tokens)`` integers, padded on the right.
            attention_mask: ``(rows, tokens)`` integers, 1 = real token.
            token_type_ids: ``(rows, tokens)`` integers; only models with several segments have it.
        """
        model = self.model
        x = model.embeddings(input_ids, token_type_ids)
        mask = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * LOWEST
        for index, layer in enumerate(model.layers):
            x = self._layer(cast(Layer, layer), x, mask, is_last=index == model.config.depth - 1)
        return model.head(x[:, 0])  # type: ignore[no-any-return]

    def _layer(self, layer: Layer, x: Tensor, mask: Tensor, is_last: bool) -> Tensor:
        """Return the stream after a layer; the last one computes the first token only."""
        asking = x[:, :1] if is_last else x
        query, key, value = layer.query(asking) * self.scale, layer.key(x), layer.value(x)
        x = layer.attention_norm(asking + layer.out(_attend(query, key, value, mask, layer.head_size)))
        return layer.ffn_norm(x + layer.down(layer.activation(layer.up(x))))  # type: ignore[no-any-return]


def example(config: EncoderConfig, rows: int, tokens: int) -> dict[str, Tensor]:
    """Return inputs by name, as a converter traces them."""
    names = ["input_ids", "attention_mask", "token_type_ids"][: 3 if config.n_token_types > 1 else 2]
    return {name: torch.ones(rows, tokens, dtype=torch.int64) for name in names}


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, head_size: int) -> Tensor:
    """Return softmax(Q K^T + mask) V of every head, ``(rows, asking tokens, heads * head_size)``.

    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, eq. 1; the query is scaled already.
    """
    rows, asking, width = query.shape
    heads, tokens = width // head_size, key.shape[1]
    q, k, v = (x.view(rows, -1, heads, head_size).transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    scores = torch.bmm(q, k.transpose(1, 2)).view(rows, heads, asking, tokens) + mask
    context = torch.bmm(scores.softmax(-1).flatten(0, 1), v)
    return context.view(rows, heads, asking, head_size).transpose(1, 2).flatten(2)
