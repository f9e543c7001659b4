"""The encoder as converters want it: no branch depends on a value, and padding is masked by a sum.

Knows the module; not runtimes.
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
            x = cast(Layer, layer)(x, mask, first_only=index == model.config.depth - 1)
        return model.head(x[:, 0])  # type: ignore[no-any-return]


def example(config: EncoderConfig, rows: int, tokens: int) -> dict[str, Tensor]:
    """Return inputs by name, as a converter traces them."""
    names = ["input_ids", "attention_mask", "token_type_ids"][: 3 if config.n_token_types > 1 else 2]
    return {name: torch.ones(rows, tokens, dtype=torch.int64) for name in names}
