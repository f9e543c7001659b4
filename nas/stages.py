"""What each stage of compression is handed and gives back; the search and the lab both work so.

Knows compressors and what they look at; not in which order they act, not the training loop.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch

from compressors.answers import Need
from compressors.base import ArtefactCompressor, Compressor, Material, ModelCompressor, Report, Run, TrainingCompressor
from compressors.distillation import Distillation
from compressors.vocabulary import with_words
from nas.data.tokens import Tokens, bucketed_batches
from nas.devices.base import Device
from nas.spelling import Spelling
from search_spaces.families.encoder_model import TextEncoder
from search_spaces.seeding import rng_for

ROWS = 512  # "a few hundred training samples" are enough (Muralidharan et al. 2024, Minitron, sec. 2.2)
BATCH = 16
CALIBRATION_ROWS = 256  # that show the activations of a trained student; an untrained one needs its latency only
CALIBRATION_BATCH = 32


@dataclass(frozen=True)
class Corpus:
    """What compressors may learn from.

    Attributes:
        train: The training split as the teacher wants it.
        tokenizer: The teacher's.
        max_length: Tokens of a row at most.
    """

    train: Tokens
    tokenizer: Any
    max_length: int


@dataclass(frozen=True)
class State:
    """A model between two steps.

    Attributes:
        model: In evaluation mode; never changed once it is here.
        reports: Of the steps so far.
        seconds: What they took.
        spelling: How rows of the teacher's tokens become rows of the model's; None = they are the same.
    """

    model: TextEncoder
    reports: tuple[Report, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    spelling: Spelling | None = None

    def tokens(self, tokens: Tokens) -> Tokens:
        """Return rows of the teacher's tokens as the model wants them."""
        return tokens if self.spelling is None else self.spelling.tokens(tokens)

    def live_teacher(self, teacher: TextEncoder, loss: Distillation) -> TextEncoder:
        """Return the teacher, with the words of the model only where a loss lets both read the same rows."""
        if self.spelling is None or Need.LIVE not in loss.needs:
            return teacher
        return with_words(teacher, self.spelling.kept)


def material_of(state: State, corpus: Corpus, seed: int) -> Material:
    """Return what a compressor may look at besides the model: some hundred training rows, in batches of like length.

    Args:
        state: The model as it is now; rows and counts are of its tokens.
        corpus: All training rows.
        seed: Of the rows.
    """
    train = state.tokens(corpus.train)
    sample = train.subset(rng_for(seed, "material").permutation(len(train))[:ROWS])
    rows = bucketed_batches(sample.lengths, BATCH, None)
    batches = [(tuple(sample.collate(part)), torch.from_numpy(sample.labels[part])) for part in rows]
    counts = np.bincount(train.ids, minlength=state.model.config.vocab_size)
    return Material(batches, seed, counts, corpus.tokenizer if state.spelling is None else state.spelling.after)


def apply_model_step(state: State, compressor: Compressor, corpus: Corpus, seed: int) -> State:
    """Return the state after a method of the stage ``model``.

    Args:
        state: Not changed.
        compressor: The method, unused so far.
        corpus: What it may learn from.
        seed: Of the rows that are looked at.

    Raises:
        ConfigError: Nothing in the model can be compressed so.
    """
    model = cast(ModelCompressor, compressor).apply(state.model, material_of(state, corpus, seed))
    spelling = _spelling(state, compressor, corpus)
    return replace(
        state, model=cast(TextEncoder, model), reports=(*state.reports, compressor.report()), spelling=spelling
    )


def _spelling(state: State, compressor: Compressor, corpus: Corpus) -> Spelling | None:
    """Return how rows are spelled after a method, which says so by ``kept`` and ``tokenizer`` if it drops tokens."""
    kept = getattr(compressor, "kept", None)
    if kept is None:
        return state.spelling
    old = kept if state.spelling is None else state.spelling.kept[kept]
    return Spelling(old, corpus.tokenizer, compressor.tokenizer, corpus.max_length)  # type: ignore[attr-defined]


def loss_of(compressors: Sequence[Compressor]) -> Distillation:
    """Return the loss of a training run: the one among its steps, or the default distillation."""
    found = [cast(Distillation, compressor) for compressor in compressors if compressor.stage == "loss"]
    return found[0] if found else Distillation()


def training_of(compressors: Sequence[Compressor]) -> list[TrainingCompressor]:
    """Return what acts between the optimiser's steps of a training run, in order."""
    return [cast(TrainingCompressor, compressor) for compressor in compressors if compressor.stage == "training"]


def compress(
    artefact: bytes, compressors: Sequence[Compressor], run: Run | None = None, reports: Sequence[Report] = ()
) -> bytes:
    """Return the exported model after every compressor of the stage ``artefact``, in order.

    Args:
        artefact: The exported model.
        compressors: Of any stage, unused so far.
        run: Shows activations.
        reports: Of what was done to the model before: a method that fixes ranges takes those that training found.
    """
    ranges = {layer: ends for report in reports for layer, ends in report.ranges.items()}
    for compressor in compressors:
        if compressor.stage == "artefact":
            if hasattr(compressor, "take"):
                compressor.take(ranges)
            artefact = cast(ArtefactCompressor, compressor).apply(artefact, run)
    return artefact


def calibration_rows(train: Tokens, seed: int) -> Tokens:
    """Return the rows of the training split that activations are looked at with."""
    return train.subset(rng_for(seed, "calibration").permutation(len(train))[:CALIBRATION_ROWS])


def runner(device: Device, tokens: Tokens) -> Run:
    """Return what runs an artefact on rows as the model wants them, for a method that looks at activations."""
    return partial(device.outputs, tokens=tokens, batch=CALIBRATION_BATCH)
