"""What of a student learns in a training run, and the optimiser that makes it learn.

Knows parameters and settings; not losses, not the training loop.
"""

import torch
from torch import nn

from nas.recipe import TrainSettings
from search_spaces.families.encoder_model import TextEncoder


def freeze_embeddings(student: TextEncoder, trained: bool) -> None:
    """Freeze the embeddings; where the word table was cut to a low rank, what follows the tables still learns."""
    student.requires_grad_(True)
    if trained:
        return
    student.embeddings.requires_grad_(False)
    repairs = [part for part in (student.embeddings.rank, student.embeddings.project) if part is not None]
    for part in [*repairs, student.embeddings.norm] if repairs else []:
        part.requires_grad_(True)


def adamw(student: TextEncoder, extra: list[nn.Parameter], settings: TrainSettings) -> torch.optim.AdamW:
    """Return AdamW in one fused call per group; biases and LayerNorms do not decay (as BERT was trained)."""
    trained = [p for p in student.parameters() if p.requires_grad] + extra
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr, fused=True)
