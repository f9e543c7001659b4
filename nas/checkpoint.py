"""What a part of a training begins and ends with on a worker, and how a student is scored that was not trained yet.

Between two parts a student is bytes: safetensors of its weights and of what its training remembers, with its shape in
the header.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

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
MEMORY = "memory:"  # begins the names of tensors that are no weights of the student


def save_checkpoint(student: TextEncoder, memory: Mapping[str, Tensor] | None = None) -> bytes:
    """Return a student's weights and shape, and what its training remembers."""
    remembered = {f"{MEMORY}{name}": tensor.contiguous() for name, tensor in (memory or {}).items()}
    facts = {"config": json.dumps(student.config.to_json())}
    content: bytes = save(weights_of(student) | remembered, metadata=facts)
    return content


def weights_of(model: TextEncoder) -> dict[str, Tensor]:
    """Return the weights of a model as tensors that share no memory, as safetensors wants them."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}


def load_checkpoint(content: bytes) -> tuple[TextEncoder, dict[str, Tensor]]:
    """Return the student in evaluation mode, in the shape of the checkpoint, and what its training remembers.

    Source: https://huggingface.co/docs/safetensors (the format: where the metadata lies).
    """
    length = int.from_bytes(content[:HEADER], "little")
    facts: dict[str, Any] = json.loads(content[HEADER : HEADER + length])["__metadata__"]
    student = TextEncoder(EncoderConfig.from_json(json.loads(facts["config"])))
    tensors = load(content)
    student.load_state_dict({name: tensor for name, tensor in tensors.items() if not name.startswith(MEMORY)})
    memory = {name[len(MEMORY) :]: tensor for name, tensor in tensors.items() if name.startswith(MEMORY)}
    return student.eval(), memory


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
