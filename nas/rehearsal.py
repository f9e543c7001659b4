"""A rehearsal: the steps of a recipe are tried on an untrained student and a few rows, before a training run.

What is wrong with a later step, a filter that matches nothing say, is then found in seconds, not after the training.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from compressors.steps import TRAINED, Step, blocks
from nas.devices.base import Device
from nas.stages import Corpus, State, apply_model_step, compress, runner, training_of

ROWS = 16


def rehearse(device: Device, corpus: Corpus, state: State, steps: Sequence[Step], seed: int) -> None:
    """Try the steps that are still to come; nothing is kept, the state is not changed.

    Training methods only take the student in hand: shapes and names of layers do not depend on what it learns.

    Args:
        device: What artefacts are exported for.
        corpus: Its first rows are used.
        state: Before the steps.
        steps: In a possible order, none of them cut to a target shape.
        seed: Of random choices.

    Raises:
        ConfigError: A step finds nothing it can compress, or something it does not fit.
    """
    few = replace(corpus, train=corpus.train.subset(np.arange(min(ROWS, len(corpus.train)))))
    for block in blocks(steps):
        compressors = [step.bind() for step in block]
        if block[0].stage == "model":
            state = apply_model_step(state, compressors[0], few, seed)
        elif block[0].stage in TRAINED:
            student = copy.deepcopy(state.model)
            for compressor in training_of(compressors):
                compressor.begin(student, ROWS)
    last = [step.bind() for step in steps if step.stage == "artefact"]
    if last:
        compress(device.export(state.model), last, runner(device, state.tokens(few.train)))
