"""What a model says of token rows, as arrays.

Knows models, token rows and files that devices run; not recipes, not students, not where a teacher's answers are kept.
"""

from collections.abc import Iterator

import numpy as np
import torch

from compressors import bit_sensitivity
from nas.data.splits import Split
from nas.data.tokens import Tokens, bucketed_batches
from nas.devices.base import Device
from search_spaces.errors import DivergedError
from search_spaces.families.encoder_model import TextEncoder

BATCH = 64


def predict_logits(model: TextEncoder, tokens: Tokens, batch_size: int = BATCH) -> np.ndarray:
    """Return ``(n, n_labels)`` float32 logits, rows as in ``tokens``, computed in float32 without dropout."""
    logits = np.empty((len(tokens), len(model.config.labels)), np.float32)
    for rows, (said,) in answers(model, tokens, batch_size, with_states=False):
        logits[rows] = said
    return logits


def artefact_logits(device: Device, artefact: bytes, tokens: Tokens, batch: int) -> np.ndarray:
    """Return ``(n, n_labels)`` float32 logits of an exported file, rows as in ``tokens``.

    Args:
        device: Runs the file.
        artefact: What it exported.
        tokens: As the model wants them.
        batch: Rows of a call, as in production.

    Raises:
        DeviceError: The device refuses the file.
        DivergedError: The file's answers are not finite.
    """
    logits = device.predict(artefact, tokens, batch)
    n_odd = int((~np.isfinite(logits)).sum())
    if n_odd:
        raise DivergedError(f"score: {n_odd} of {logits.size} outputs of the file are not finite; lower lr.")
    return logits


def accuracy(logits: np.ndarray, rows: Tokens | Split) -> float:
    """Return the share of rows, 0..1, whose largest of ``(n, n_labels)`` logits is at the label."""
    return float((logits.argmax(axis=1) == rows.labels).mean())


def divergence(teacher: np.ndarray, student: np.ndarray) -> float:
    """Return the mean KL(teacher || student) of rows in nats, at temperature 1; 0 where they say the same.

    Args:
        teacher: ``(n, n_labels)`` logits.
        student: The same shape, of the same rows.
    """
    before, after = (torch.from_numpy(part.astype(np.float32)) for part in (teacher, student))
    return bit_sensitivity.divergence(before, after)


def answers(
    model: TextEncoder, tokens: Tokens, batch_size: int, with_states: bool
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Yield rows with their logits and, on request, the states of their first tokens, float32."""
    was_training = model.training
    model.eval()
    device = model.head.out.weight.device
    for rows in bucketed_batches(tokens.lengths, batch_size, None):
        batch = [part.to(device) for part in tokens.collate(rows)]
        with torch.inference_mode():
            if with_states:
                logits, states = model(*batch, hidden_states=True)
                found = [logits, torch.stack([state[:, 0] for state in states[1:]], dim=1)]
            else:
                found = [model(*batch)]
        yield rows, [tensor.float().cpu().numpy() for tensor in found]
    model.train(was_training)
