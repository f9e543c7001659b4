"""What each stage of compression is handed and gives back; the search and the lab both work so.

Knows compressors and what they look at; not in which order they act, not the training loop.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import torch

from compressors.base import ArtefactCompressor, Compressor, Material, ModelCompressor, Report, Run, TrainingCompressor
from compressors.distillation import Distillation
from nas.data.tokens import Tokens, bucketed_batches
from nas.devices.base import Device
from search_spaces.families.encoder_model import TextEncoder
from search_spaces.seeding import rng_for

ROWS = 512  # "a few hundred training samples" are enough (Muralidharan et al. 2024, Minitron, sec. 2.2)
BATCH = 16


@dataclass(frozen=True)
class State:
    """A model between two steps.

    Attributes:
        model: In evaluation mode; never changed once it is here.
        reports: Of the steps so far.
        seconds: What they took.
        kept: Token ids of the teacher that are left in the vocabulary, ascending; None = all.
    """

    model: TextEncoder
    reports: tuple[Report, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    kept: np.ndarray | None = None

    def tokens(self, tokens: Tokens) -> Tokens:
        """Return rows of the teacher's tokens as the model wants them."""
        return tokens


def sample_rows(tokens: Tokens, seed: int) -> Tokens:
    """Return a random few hundred training rows, for scores and calibration."""
    return tokens.subset(rng_for(seed, "material").permutation(len(tokens))[:ROWS])


def material_of(tokens: Tokens, seed: int) -> Material:
    """Return what a model compressor may look at, of the training rows as the model wants them."""
    sample = sample_rows(tokens, seed)
    rows = bucketed_batches(sample.lengths, BATCH, None)
    batches = [(tuple(sample.collate(part)), torch.from_numpy(sample.labels[part])) for part in rows]
    return Material(batches, seed)


def apply_model_step(state: State, compressor: Compressor, tokens: Tokens, seed: int) -> State:
    """Return the state after a method of the stage ``model``.

    Args:
        state: Not changed.
        compressor: The method, unused so far.
        tokens: The training split as the teacher wants it.
        seed: Of the rows that are looked at.

    Raises:
        ConfigError: Nothing in the model can be compressed so.
    """
    model = cast(ModelCompressor, compressor).apply(state.model, material_of(state.tokens(tokens), seed))
    left = getattr(compressor, "kept", None)  # of a method that prunes the vocabulary
    kept = state.kept if left is None else np.asarray(left) if state.kept is None else state.kept[np.asarray(left)]
    return replace(state, model=cast(TextEncoder, model), reports=(*state.reports, compressor.report()), kept=kept)


def loss_of(compressors: Sequence[Compressor]) -> Distillation:
    """Return the loss of a training run: the one among its steps, or the default distillation."""
    found = [cast(Distillation, compressor) for compressor in compressors if compressor.stage == "loss"]
    return found[0] if found else Distillation()


def training_of(compressors: Sequence[Compressor]) -> list[TrainingCompressor]:
    """Return what acts between the optimiser's steps of a training run, in order."""
    return [cast(TrainingCompressor, compressor) for compressor in compressors if compressor.stage == "training"]


def rewrite(artefact: bytes, compressors: Sequence[Compressor], run: Run | None = None) -> bytes:
    """Return the exported model after every compressor of the stage ``artefact``, in order."""
    for compressor in compressors:
        if compressor.stage == "artefact":
            artefact = cast(ArtefactCompressor, compressor).apply(artefact, run)
    return artefact


def calibration(device: Device, tokens: Tokens, seed: int) -> Run:
    """Return what runs an artefact on the calibration rows.

    Args:
        device: Runs it.
        tokens: The training split as the model wants it.
        seed: Of the rows that are looked at.
    """

    def run(artefact: bytes) -> Iterator[Mapping[str, np.ndarray]]:
        """Yield all outputs of the artefact."""
        return device.observe(artefact, sample_rows(tokens, seed), BATCH)

    return run
