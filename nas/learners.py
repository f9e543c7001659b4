"""What of a student learns in a training run, how fast, and the optimiser that makes it learn.

Knows a student, what its teacher says, and settings; not losses, not the training loop.
"""

import math

import numpy as np
import torch
from torch import nn

from compressors.terms import MASKED
from nas.data.tokens import Tokens
from nas.outputs import divergence, predict_logits
from nas.recipe import TrainSettings
from search_spaces.families.encoder_model import TextEncoder
from search_spaces.seeding import rng_for

NEARNESS_ROWS = 256  # training rows that tell how near a student begins to its teacher
LEAST_RATE = 0.1  # of the learning rate, for a student that answers as its teacher does


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


def rate_share(student: TextEncoder, tokens: Tokens, logits: np.ndarray) -> float:
    """Return the share of the learning rate that suits a student by how near it begins to its teacher, 0.1..1.

    A rate that lets a student of half of the layers catch up makes an intact one forget: on SST-2, 0.1 epochs at a rate
    of 3e-4, 1e-4 and 3e-5 gave .872, .888 and .895 to the teacher's own shape, .873, .870 and .877 to five of its six
    layers, .850, .844 and .833 to four. AdamW's steps are as long as the rate, and close to the teacher the divergence
    grows with the square of the way, so the share is the root of KL(teacher || student), 1 being that of a student
    which knows nothing.

    Args:
        student: In evaluation mode, as its training begins.
        tokens: Training rows, ``n`` of them.
        logits: ``(n, labels)`` what the teacher says of them; `MASKED` where it says nothing.

    Source: KL is quadratic in a small change: Amari 1998, https://doi.org/10.1162/089976698300017746, eq. 2.8; the root
    as a share of the rate is this project's own.
    """
    rows = np.sort(rng_for(0, "rate share").permutation(len(tokens))[:NEARNESS_ROWS])
    told, said = logits[rows].astype(np.float32), predict_logits(student, tokens.subset(rows))
    is_asked = told > MASKED  # of several teachers each knows some labels only
    farthest = divergence(told, np.where(is_asked, 0.0, MASKED))
    here = max(0.0, divergence(told, np.where(is_asked, said, MASKED)))
    return max(LEAST_RATE, min(1.0, math.sqrt(here / farthest))) if farthest > 0 else 1.0
