"""Phase 1, prepare: data and teacher in, everything the trials share out.

Every slow result is kept in the run folder, so a resumed search does not compute it again. Bad data and bad
teachers are found here, before any worker is started.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from compressors.importance import score_importance
from nas.bundle import Bundle
from nas.candidates import Candidates
from nas.data.sources import TextData, load_data
from nas.data.tokenize import tokenize
from nas.data.tokens import Tokens, bucketed_batches
from nas.files import MANIFEST, read_json, write_json
from nas.meter import Stopwatch
from nas.progress import Progress, Snapshot
from nas.recipe import Recipe, TeacherSettings
from nas.run_folder import RunFolder
from nas.teacher import Teacher, accuracy, cached_logits, fine_tune, load_teacher, predict_logits, save_teacher
from search_spaces.errors import ConfigError
from search_spaces.seeding import rng_for

IMPORTANCE_ROWS = 512  # "a few hundred training samples" are enough (Muralidharan et al. 2024, Minitron, sec. 2.2)


@dataclass(frozen=True)
class Prepared:
    """What the later phases need.

    Attributes:
        teacher: Fine-tuned, in evaluation mode.
        data: The texts; the trials see them tokenised, in the bundle.
        bundle: What all tasks share.
        candidates: The space of students.
        n_tokens: Sequence length that latency is measured at.
        seconds: What took how long; ``teacher`` is its fine-tuning, its outputs and its importance scores.
    """

    teacher: Teacher
    data: TextData
    bundle: Bundle
    candidates: Candidates
    n_tokens: int
    seconds: Mapping[str, float]


def prepare(
    recipe: Recipe,
    folder: RunFolder,
    progress: Progress,
    on_checked: Callable[[Candidates], None] = lambda candidates: None,
) -> Prepared:
    """Load data and teacher, fine-tune it if asked, cache its outputs, score its units.

    Args:
        recipe: The resolved recipe.
        folder: Keeps the fine-tuned teacher and its outputs.
        progress: Hears what is found.
        on_checked: Gets the candidates once data, teacher and space are known to be good, before the slow part.

    Raises:
        ConfigError: Bad recipe, data or teacher, in one line.
    """
    clock = Stopwatch()
    data = load_data(recipe.data, recipe.search.seed)
    progress.say(
        f"data: {len(data.train.labels):,} train, {len(data.validation.labels):,} validation, "
        f"{len(data.test.labels) if data.test else 0:,} test rows, {len(data.labels)} labels"
    )
    for note in data.notes:
        progress.say(f"data: {note}")
    loaded, is_ready = _load_teacher(recipe, data, folder)
    candidates = Candidates(recipe, loaded.model.config)
    progress.say(f"space: {candidates.space.size:,} students of a {loaded.model.config.depth}-layer teacher")
    on_checked(candidates)
    train = tokenize(loaded.tokenizer, data.train, recipe.data.max_length)
    clock.lap("data")
    teacher = loaded if is_ready else _fine_tuned(recipe, loaded, train, folder, progress)
    validation, test = (
        tokenize(teacher.tokenizer, split, recipe.data.max_length) if split else None
        for split in (data.validation, data.test)
    )
    assert validation is not None
    progress.say("teacher: running once over the training rows")
    progress.show(Snapshot("teacher outputs"))
    logits = cached_logits(teacher, train, folder.teacher)
    bundle = _bundle(recipe, teacher, (train, validation, test), logits)
    n_tokens = recipe.device.tokens or max(2, int(np.median(validation.lengths)))
    clock.lap("teacher")
    return Prepared(teacher, data, bundle, candidates, n_tokens, clock.laps)


def _load_teacher(recipe: Recipe, data: TextData, folder: RunFolder) -> tuple[Teacher, bool]:
    """Return the teacher, and whether it needs no fine-tuning (any more)."""
    tuned = folder.teacher / "model"
    if (tuned / MANIFEST).exists():
        return load_teacher(TeacherSettings(model=str(tuned)), data.labels)
    teacher, has_head = load_teacher(recipe.teacher, data.labels)
    if not has_head and recipe.teacher.finetune is None:
        raise ConfigError(
            f"teacher {recipe.teacher.model!r}: has no trained classification head; "
            "add 'teacher: {finetune: {epochs: 3}}' to train one first."
        )
    return teacher, recipe.teacher.finetune is None


def _fine_tuned(recipe: Recipe, teacher: Teacher, train: Tokens, folder: RunFolder, progress: Progress) -> Teacher:
    """Return the teacher trained on the labels, and keep it in the run folder."""
    settings = recipe.teacher.finetune
    assert settings is not None
    progress.say(f"teacher: fine-tuning {recipe.teacher.model} for {settings.epochs} epochs")
    tuned = fine_tune(teacher, train, settings, recipe.search.seed, _reporter(progress))
    save_teacher(tuned, folder.teacher / "model")
    return tuned


def _reporter(progress: Progress) -> Any:
    """Return a callback that shows training steps as progress of the prepare phase."""
    return lambda step, n_steps: progress.show(Snapshot("prepare", step, n_steps))


def _bundle(
    recipe: Recipe, teacher: Teacher, splits: tuple[Tokens, Tokens, Tokens | None], logits: np.ndarray
) -> Bundle:
    """Return what all tasks share; importance is scored here, on training rows only."""
    train, validation, test = splits
    importance = score_importance(teacher.model, _scoring_batches(train, recipe.search.seed), "first_order")
    resolved = recipe.model_dump(mode="json")
    key = hashlib.sha256(json.dumps(resolved, sort_keys=True).encode() + teacher.fingerprint.encode())
    return Bundle(
        family=recipe.space.family,
        mode=recipe.space.mode,
        teacher_config=teacher.model.config.to_json(),
        teacher_weights={name: tensor.numpy() for name, tensor in teacher.model.state_dict().items()},
        importance=importance.to_arrays(),
        train=train,
        validation=validation,
        test=test,
        teacher_logits=logits,
        recipe=resolved,
        fingerprint=key.hexdigest(),
    )


def _scoring_batches(train: Tokens, seed: int) -> Iterator[tuple[Any, torch.Tensor]]:
    """Yield batches of a random few hundred training rows with their labels."""
    rows = rng_for(seed, "importance").permutation(len(train))[:IMPORTANCE_ROWS]
    sample = train.subset(rows)
    for batch in bucketed_batches(sample.lengths, 16, None):
        yield sample.collate(batch), torch.from_numpy(sample.labels[batch])


def baseline(prepared: Prepared, folder: RunFolder) -> dict[str, float]:
    """Return the teacher's accuracy on validation and test (fp32 torch), computed once a run."""
    path = folder.teacher / "baseline.json"
    if path.exists():
        return {name: float(value) for name, value in read_json(path).items()}
    bundle, scores = prepared.bundle, {}
    for name, tokens in (("accuracy", bundle.validation), ("test_accuracy", bundle.test)):
        if tokens is not None:
            scores[name] = accuracy(predict_logits(prepared.teacher.model, tokens), tokens)
    write_json(path, scores)
    return scores
