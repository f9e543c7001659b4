"""A part of a training on a worker: what it begins and ends with, and how a student is scored that was not trained yet.

Between two parts a student is bytes: safetensors of its weights with its shape in the header; the optimiser and the
learning rate's schedule begin anew.
"""

import json
import math
from typing import Any, NamedTuple

import numpy as np
from safetensors.torch import load, save
from torch import Tensor

from nas.bundle import Bundle
from nas.outputs import divergence, predict_logits
from search_spaces.errors import DivergedError
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder
from search_spaces.seeding import rng_for

SCORED = 256  # training rows that tell how far an untrained student is from its teacher
HEADER = 8  # bytes that hold the length of the JSON that follows them, little-endian


class Rung(NamedTuple):
    """A part of a training, as shares of its epochs; ``end`` 0 is no training."""

    begin: float
    end: float


WHOLE = Rung(0.0, 1.0)


def save_checkpoint(student: TextEncoder) -> bytes:
    """Return a student's weights and shape."""
    content: bytes = save(weights_of(student), metadata={"config": json.dumps(student.config.to_json())})
    return content


def weights_of(model: TextEncoder) -> dict[str, Tensor]:
    """Return the weights of a model as tensors that share no memory, as safetensors wants them."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}


def load_checkpoint(content: bytes) -> TextEncoder:
    """Return the student in evaluation mode; its shape is that of the checkpoint.

    Source: https://huggingface.co/docs/safetensors (the format: where the metadata lies).
    """
    length = int.from_bytes(content[:HEADER], "little")
    facts: dict[str, Any] = json.loads(content[HEADER : HEADER + length])["__metadata__"]
    student = TextEncoder(EncoderConfig.from_json(json.loads(facts["config"])))
    student.load_state_dict(load(content))
    return student.eval()


def untrained_score(student: TextEncoder, bundle: Bundle) -> float:
    """Return KL(teacher || student) in nats on a few training rows, the same for every student; smaller is better.

    The accuracy of a slice that has not learnt anything yet is that of chance.

    Raises:
        DivergedError: The student's outputs are not finite.
    """
    n_rows = len(bundle.train)
    rows = np.sort(rng_for(0, "untrained score").permutation(n_rows)[:SCORED])
    score = divergence(bundle.outputs.logits[rows], predict_logits(student, bundle.train.subset(rows)))
    if not math.isfinite(score):
        raise DivergedError(f"score: the untrained student's divergence is {score}; it must be finite.")
    return score
