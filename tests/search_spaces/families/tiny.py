"""Tiny random Hugging Face classifiers of every known type, written to a folder."""

from pathlib import Path
from typing import Any

import torch
import transformers

VOCABULARY = 90
WIDTHS = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
DISTILBERT_WIDTHS = {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64}
MAKERS: dict[str, tuple[Any, Any, dict[str, int]]] = {
    "bert": (transformers.BertConfig, transformers.BertForSequenceClassification, WIDTHS),
    "distilbert": (
        transformers.DistilBertConfig,
        transformers.DistilBertForSequenceClassification,
        DISTILBERT_WIDTHS,
    ),
    "roberta": (
        transformers.RobertaConfig,
        transformers.RobertaForSequenceClassification,
        {**WIDTHS, "type_vocab_size": 1},
    ),
    "electra": (
        transformers.ElectraConfig,
        transformers.ElectraForSequenceClassification,
        {**WIDTHS, "embedding_size": 16},
    ),
}


def tiny_hf(kind: str, n_labels: int = 3, seed: int = 0) -> Any:
    """Return a random classifier with weights large enough that every unit matters."""
    config, model, widths = MAKERS[kind]
    torch.manual_seed(seed)
    made = model(config(vocab_size=VOCABULARY, max_position_embeddings=40, num_labels=n_labels, **widths)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def save_tiny_hf(kind: str, folder: Path, n_labels: int = 3) -> Any:
    """Write a random classifier and return it."""
    made = tiny_hf(kind, n_labels)
    made.save_pretrained(folder)
    return made


def padded_batch(pad_token_id: int = 0, rows: int = 4, tokens: int = 11) -> dict[str, torch.Tensor]:
    """Return rows of different lengths, padded on the right, ids above all special ones."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, VOCABULARY, (rows, tokens), generator=generator)
    lengths = torch.tensor([tokens, 4, 7, 2])[:rows]
    mask = (torch.arange(tokens)[None] < lengths[:, None]).long()
    return {
        "input_ids": torch.where(mask.bool(), ids, pad_token_id),
        "attention_mask": mask,
        "token_type_ids": torch.zeros_like(ids),
    }
