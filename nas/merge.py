"""Several teachers into one student: one trunk, an output layer for every task, trained on all of their data at once.

The training loop knows nothing of it. The rows of all tasks are one training split, and every label of every task is a
column of the logits. What a teacher says of its rows has no value in the columns of other tasks (`terms.MASKED`), so
the loss of a row is that of its own task; rows of like length share a batch, whatever task they are of. Everything that
is done to the student of one teacher, with its words, layers, widths and bits, is done to this one.

Knows labs; not files to deliver, not terminals.

Source: Liu et al. 2019 (MT-DNN), https://arxiv.org/abs/1901.11504, sec. 3 (shared encoder and pooler, an output layer a
task); that one student learns from teachers of single tasks: Clark et al. 2019 (BAM), https://arxiv.org/abs/1907.04829.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from compressors.answers import Need
from compressors.distillation import Distillation
from compressors.steps import Step
from compressors.terms import MASKED
from nas.bundle import Outputs
from nas.data.tokens import Tokens
from nas.lab import Lab
from nas.run_folder import RunFolder
from nas.stages import loss_of
from nas.teacher import Teacher, words_of
from search_spaces.errors import ConfigError
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder


@dataclass(frozen=True)
class Task:
    """One teacher with its data, and which columns of the common logits are its own.

    Attributes:
        name: Of the recipe.
        lab: Its teacher, data and device.
        start: Column of its first label.
    """

    name: str
    lab: Lab
    start: int

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the names of its labels."""
        return self.lab.teacher.config.labels

    @property
    def columns(self) -> slice:
        """Return its columns."""
        return slice(self.start, self.start + len(self.labels))


@dataclass(frozen=True)
class JointLab(Lab):
    """A lab of several tasks: `compress_model` makes one student of all teachers in it.

    Its teacher is where the student begins: the trunk of the first task's, with the output layers of all. Its
    validation rows are those of all tasks; there are no test rows.
    """

    tasks: tuple[Task, ...] = ()

    def outputs(self, with_states: bool = False) -> Outputs:
        """Return what the teachers say of the training rows, each of those of its own task."""
        found = [task.lab.outputs(with_states) for task in self.tasks]
        width = self.tasks[-1].columns.stop
        logits = np.full((sum(len(part.logits) for part in found), width), MASKED, np.float16)
        row = 0
        for task, part in zip(self.tasks, found, strict=True):
            logits[row : row + len(part.logits), task.columns] = part.logits
            row += len(part.logits)
        states = [part.states for part in found if part.states is not None]
        return Outputs(logits, np.concatenate(states) if states else None)


def join(labs: Mapping[str, Lab], steps: Sequence[Step], folder: RunFolder) -> JointLab:
    """Return the lab of several tasks; the first lab's device and training budget count.

    Args:
        labs: By the names of the tasks, two or more; the trunk is the first one's.
        steps: What will be done, so that what cannot be is said now.
        folder: Keeps intermediate results.

    Raises:
        ConfigError: Teachers that do not read the same words, or a step that needs one teacher.
    """
    (first_name, first), *others = labs.items()
    loss = _loss(steps)
    for name, lab in others:
        _check_alike((first_name, first), (name, lab), loss)
    tasks: list[Task] = []
    for name, lab in labs.items():
        tasks.append(Task(name, lab, tasks[-1].columns.stop if tasks else 0))
    teacher = Teacher(_begun(tasks), first.prepared.teacher.tokenizer, _fingerprint(tasks))
    bundles = [task.lab.prepared.bundle for task in tasks]
    train, validation = (
        _joined([(getattr(bundle, split), task.start) for bundle, task in zip(bundles, tasks, strict=True)])
        for split in ("train", "validation")
    )
    bundle = replace(bundles[0], train=train, validation=validation, test=None, fingerprint=teacher.fingerprint)
    longest = max(task.lab.recipe.data.max_length for task in tasks)
    recipe = first.recipe.model_copy(update={"data": first.recipe.data.model_copy(update={"max_length": longest})})
    prepared = replace(first.prepared, teacher=teacher, bundle=bundle, scores={})
    reference = first.device.export(teacher.model)
    return JointLab(recipe, folder, first.progress, prepared, first.device, reference, first.train, tasks=tuple(tasks))


def _loss(steps: Sequence[Step]) -> Distillation:
    """Return the loss that asks for most of the teachers.

    Raises:
        ConfigError: It asks for a teacher that runs along.
    """
    losses = {str(step): loss_of([step.bind()]) for step in steps if step.stage == "loss"}
    for step, loss in losses.items():
        if Need.LIVE in loss.needs:
            raise ConfigError(
                f"merge: step '{step}' needs one teacher that runs along; a student of several learns "
                "from what they said before. Leave out the terms that need live, and live."
            )
    return max(losses.values(), key=lambda loss: loss.hidden, default=Distillation())


def _check_alike(first: tuple[str, Lab], other: tuple[str, Lab], loss: Distillation) -> None:
    """Refuse teachers that one trunk cannot stand for."""
    configs = [lab.teacher.config for _, lab in (first, other)]
    for field in ("model_type", "vocab_size", "n_positions", "n_token_types"):
        _check_equal(first[0], other[0], field, [getattr(config, field) for config in configs])
    words = [words_of(lab.prepared.teacher.tokenizer) for _, lab in (first, other)]
    if words[0] != words[1]:
        raise ConfigError(
            f"merge: the tokenizers of {first[0]!r} and {other[0]!r} differ; one student reads one kind of token. "
            "Merge teachers that were made of the same base model."
        )
    if loss.hidden:
        _check_equal(first[0], other[0], "shape", [(config.depth, config.hidden) for config in configs])


def _check_equal(first: str, other: str, what: str, values: Sequence[object]) -> None:
    """Refuse two teachers that differ in something."""
    if values[0] != values[1]:
        raise ConfigError(
            f"merge: the teacher of {other!r} has {what} {values[1]}, that of {first!r} {values[0]}; both must be the "
            "same. Merge teachers that were made of the same base model."
        )


def _begun(tasks: Sequence[Task]) -> TextEncoder:
    """Return the first teacher with an output for every label; those of a teacher of another width begin at 0."""
    first = tasks[0].lab.teacher
    labels = tuple(f"{task.name}/{label}" for task in tasks for label in task.labels)
    config: EncoderConfig = replace(first.config, labels=labels)
    model = TextEncoder(config)
    own = {name: value for name, value in first.state_dict().items() if not name.startswith("head.out.")}
    model.load_state_dict(own, strict=False)
    with torch.no_grad():
        model.head.out.weight.zero_()
        model.head.out.bias.zero_()
        for task in tasks:
            layer = task.lab.teacher.head.out
            if layer.in_features == config.hidden:
                model.head.out.weight[task.columns] = layer.weight
                model.head.out.bias[task.columns] = layer.bias
    return model.eval()


def _joined(splits: Sequence[tuple[Tokens, int]]) -> Tokens:
    """Return rows of all tasks, one task after the other; a label is a column of the common logits."""
    parts = [part for part, _ in splits]
    offsets = np.concatenate([[0], np.cumsum(np.concatenate([part.lengths for part in parts]))]).astype(np.int64)
    labels = np.concatenate([part.labels + start for part, start in splits])
    return Tokens(np.concatenate([p.ids for p in parts]), np.concatenate([p.types for p in parts]), offsets, labels)


def _fingerprint(tasks: Sequence[Task]) -> str:
    """Return the sha256 of all teachers and their names, in order."""
    told = [[task.name, task.lab.prepared.teacher.fingerprint] for task in tasks]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()
