"""A lab: one teacher, its data, one device and one training budget, alike for every method that is tried on them.

Knows how a recipe of steps becomes a compressed model (`compress_model`); not what its figures are
(`nas.measures`), not the search.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from compressors.base import Material, Report
from compressors.steps import Step
from nas.bundle import Outputs
from nas.data.tokens import Tokens
from nas.devices.base import Device
from nas.prepare import Prepared
from nas.progress import Progress
from nas.recipe import Recipe, TrainSettings
from nas.run_folder import RunFolder
from search_spaces.families.encoder_model import TextEncoder


@dataclass(frozen=True)
class Lab:
    """What every method gets alike.

    Attributes:
        recipe: Of teacher, data and device; its compression and its search mean nothing here.
        folder: Keeps the teacher's outputs and the cache of intermediate results.
        progress: Hears what is done.
        prepared: Teacher, data and baseline scores; ``prepared.bundle`` has the tokenised splits. Its outputs and
            importance are empty: see `outputs`.
        device: What artefacts are exported for and measured on.
        reference: The teacher's fp32 artefact.
        train: The budget of one training run, ``finalize.train`` of the recipe.
    """

    recipe: Recipe
    folder: RunFolder
    progress: Progress
    prepared: Prepared
    device: Device
    reference: bytes
    train: TrainSettings

    @property
    def teacher(self) -> TextEncoder:
        """Return the teacher's model; never changed."""
        return self.prepared.teacher.model

    def material(self, seed: int = 0) -> Material:
        """Return some hundred training rows, those of the seed, in batches of up to 32 rows of like length."""
        raise NotImplementedError

    def outputs(self, with_states: bool = False) -> Outputs:
        """Return what the teacher says of the training rows; computed once a folder, when first asked for."""
        raise NotImplementedError


@dataclass(frozen=True)
class Compressed:
    """What a recipe of steps made of the teacher.

    Attributes:
        steps: The recipe.
        model: In evaluation mode, after the last step of the torch stages (simulated where a step simulates).
        artefact: The file to deploy: the exported model after the artefact steps.
        tokenizer: The teacher's, or one with the pruned vocabulary.
        reports: One of every step, in their order; a training run without a loss step has that of the default
            distillation before them.
        seconds: What took how long, by block of steps (``distillation+weight_pruning``), and ``export``; of reused
            blocks as long as they took when they were computed.
        reused: Steps whose result came from the cache.
        kept: Token ids of the teacher that are still in the vocabulary, ascending; None = all.
    """

    steps: tuple[Step, ...]
    model: TextEncoder
    artefact: bytes
    tokenizer: Any
    reports: tuple[Report, ...]
    seconds: Mapping[str, float] = field(default_factory=dict)
    reused: tuple[str, ...] = ()
    kept: np.ndarray | None = None

    def tokens(self, tokens: Tokens) -> Tokens:
        """Return rows of the teacher's tokens as this model wants them: the same unless the vocabulary was pruned."""
        raise NotImplementedError


def open_lab(recipe: Recipe, folder: RunFolder, progress: Progress) -> Lab:
    """Return a lab: data and teacher loaded, the teacher fine-tuned where the recipe asks for it, and exported.

    Args:
        recipe: Its sections teacher, data, device, ``finalize.train`` and ``search.seed`` count.
        folder: Created; everything slow is kept in it.
        progress: Hears what is found.

    Raises:
        ConfigError: Bad recipe, data or teacher, or a folder of another teacher or other data, in one line.
    """
    raise NotImplementedError


def compress_model(
    lab: Lab,
    steps: Sequence[Step],
    seed: int = 0,
    on_step: Callable[[int, int], None] | None = None,
) -> Compressed:
    """Return what a recipe makes of the lab's teacher, which is not changed.

    Model steps rewrite the model, neighbouring loss and training steps are one training run against the teacher's
    cached outputs, then the model is exported and the artefact steps rewrite the file. What a recipe that begins
    alike has left in the cache of the lab's folder is not computed again.

    Args:
        lab: Teacher, data, device, budget.
        steps: In order.
        seed: Of the order of the rows, of the material and of every other random choice.
        on_step: Called after every training step with the steps done and the steps in all; None shows them in the
            lab's progress.

    Raises:
        ConfigError: An impossible order, before anything is computed; or a step finds nothing it can compress.
        DivergedError: A training run's loss became NaN or infinite.
    """
    raise NotImplementedError


def state_of(model: TextEncoder) -> dict[str, torch.Tensor]:
    """Return the weights of a model as tensors that share no memory, as safetensors wants them."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}
