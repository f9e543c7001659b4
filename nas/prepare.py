"""Phase 1, prepare: data and teacher in, everything the trials share out.

Every slow result is kept in the run folder, so a resumed search does not compute it again. Bad data and bad
teachers are found here, before any worker is started.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from compressors.importance import score_importance
from nas.bundle import Bundle, Outputs
from nas.cached_outputs import cached_outputs
from nas.candidates import Candidates
from nas.data.sources import TextData, load_data
from nas.data.tokenize import tokenize
from nas.data.tokens import Tokens, bucketed_batches
from nas.devices.settings import check_lengths, open_device, workload_of
from nas.files import MANIFEST, atomic_write, read_json, write_json
from nas.meter import Stopwatch
from nas.outputs import accuracy, predict_logits
from nas.progress import Progress, Snapshot
from nas.recipe import DeviceSettings, Recipe, TeacherSettings
from nas.run_folder import RunFolder
from nas.spelling import tokenizer_to_json
from nas.teacher import Teacher, fine_tune, load_teacher, save_teacher, teacher_labels
from search_spaces.errors import ConfigError, StateError
from search_spaces.families.importance import Importance
from search_spaces.seeding import rng_for

OUTPUTS, FINE_TUNING = "teacher outputs", "fine-tuning"  # the slow parts as a person sees them
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
        scores: The teacher's accuracy, and test_accuracy where there is a test split.
        seconds: What took how long; ``teacher`` is all work of its own: fine-tuning, outputs, importance, accuracy.
        device: Which of several devices that length is of; the only one is called "".
        takes_turns: Whether that device measures several students in turns.
    """

    teacher: Teacher
    data: TextData
    bundle: Bundle
    candidates: Candidates
    n_tokens: int
    scores: Mapping[str, float]
    seconds: Mapping[str, float]
    device: str = ""
    takes_turns: bool = False

    def on(self, device: str, settings: DeviceSettings) -> "Prepared":
        """Return the same for one of several devices."""
        n_tokens, takes_turns = measured_length(settings, self.bundle.validation), not open_device(settings).is_fresh
        return replace(self, device=device, n_tokens=n_tokens, takes_turns=takes_turns)


def prepare(
    recipe: Recipe,
    folder: RunFolder,
    progress: Progress,
    on_checked: Callable[[Candidates], None] = lambda candidates: None,
    for_search: bool = True,
) -> Prepared:
    """Load data and teacher, fine-tune it if asked, cache its outputs, score its units.

    Args:
        recipe: The resolved recipe.
        folder: Keeps the fine-tuned teacher and its outputs.
        progress: Hears what is found.
        on_checked: Gets the candidates once data, teacher and space are known to be good, before the slow part.
        for_search: False leaves out what only students need: the bundle has outputs of 0 rows and no importance.

    Raises:
        ConfigError: Bad recipe, data or teacher, in one line.
    """
    clock = Stopwatch()
    data = load_data(recipe.data, recipe.search.seed, *teacher_labels(_teacher_settings(recipe, folder)))
    progress.say(
        f"data: {len(data.train.labels):,} train, {len(data.validation.labels):,} validation, "
        f"{len(data.test.labels) if data.test else 0:,} test rows, {len(data.labels)} labels"
    )
    for note in data.notes:
        progress.say(f"data: {note}")
    loaded, is_ready = _load_teacher(recipe, data, folder)
    candidates = Candidates(recipe, loaded.model.config)
    if for_search:
        progress.say(f"space: {candidates.space.size:,} students of a {loaded.model.config.depth}-layer teacher")
    on_checked(candidates)
    train = tokenize(loaded.tokenizer, data.train, recipe.data.max_length)
    clock.lap("data")
    if is_ready and recipe.teacher.finetune is not None:
        progress.say(f"teacher: was fine-tuned before, kept in {folder.teacher}")
    teacher = loaded if is_ready else _fine_tuned(recipe, loaded, train, folder, progress)
    validation, test = (
        tokenize(teacher.tokenizer, split, recipe.data.max_length) if split else None
        for split in (data.validation, data.test)
    )
    assert validation is not None
    outputs, importance = Outputs(np.empty((0, len(data.labels)), np.float16)), {}
    if for_search:
        outputs = teacher_outputs(teacher, train, folder, progress, candidates.need_states)
        importance = _importance(teacher, train, folder, recipe.search.seed)
    bundle = _bundle(recipe, teacher, (train, validation, test), outputs, importance)
    scores = baseline(bundle, teacher, folder)
    clock.lap("teacher")
    return Prepared(teacher, data, bundle, candidates, measured_length(recipe.device, validation), scores, clock.laps)


def prepare_to_measure(recipe: Recipe, progress: Progress) -> Prepared:
    """Load data and teacher as far as untrained students need them to be measured; nothing is trained, scored or kept.

    All units of the teacher count alike, since latency does not depend on the values of weights.

    Args:
        recipe: With a resolved device.
        progress: Hears what is found.

    Raises:
        ConfigError: Bad recipe, data or teacher, in one line.
    """
    clock = Stopwatch()
    data = load_data(recipe.data, recipe.search.seed, *teacher_labels(recipe.teacher))
    teacher, _ = load_teacher(recipe.teacher, data.labels)
    config = teacher.model.config
    check_lengths(recipe.device, config.n_positions)
    candidates = Candidates(recipe, config)
    progress.say(f"space: {candidates.space.size:,} students of a {config.depth}-layer teacher")
    train = tokenize(teacher.tokenizer, data.train, recipe.data.max_length)
    validation = tokenize(teacher.tokenizer, data.validation, recipe.data.max_length)
    outputs = Outputs(np.empty((0, len(data.labels)), np.float16))
    importance = Importance.alike(config.heads, config.ffn, config.hidden).to_arrays()
    bundle = _bundle(recipe, teacher, (train, validation, None), outputs, importance)
    clock.lap("data")
    found = Prepared(teacher, data, bundle, candidates, 0, {}, clock.laps)
    return found.on(*next(iter(recipe.targets.items())))


def measured_length(device: DeviceSettings, validation: Tokens) -> int:
    """Return how many tokens the texts have that latency is measured with; of a mix of lengths the mean."""
    if device.mix:
        return round(sum(length * share for length, share in workload_of(device, 1).lengths))
    return device.tokens or max(2, int(np.median(validation.lengths)))


def teacher_outputs(
    teacher: Teacher, train: Tokens, folder: RunFolder, progress: Progress, with_states: bool
) -> Outputs:
    """Return what the teacher says of the training rows, kept in the run folder; see `nas.cached_outputs`."""
    progress.say("teacher: running once over the training rows")
    return cached_outputs(teacher, train, folder.teacher, with_states, _reporter(progress, OUTPUTS))


def _load_teacher(recipe: Recipe, data: TextData, folder: RunFolder) -> tuple[Teacher, bool]:
    """Return the teacher, and whether it needs no fine-tuning (any more)."""
    settings = _teacher_settings(recipe, folder)
    teacher, has_head = load_teacher(settings, data.labels)
    if settings is not recipe.teacher:
        return teacher, True
    if not has_head and recipe.teacher.finetune is None:
        raise ConfigError(
            f"teacher {recipe.teacher.model!r}: has no trained classification head; "
            "add 'teacher: {finetune: {epochs: 3}}' to train one first."
        )
    return teacher, recipe.teacher.finetune is None


def _teacher_settings(recipe: Recipe, folder: RunFolder) -> TeacherSettings:
    """Return where the teacher is: the recipe's, or the fine-tuned one of an interrupted search."""
    tuned = folder.teacher / "model"
    return TeacherSettings(model=str(tuned)) if (tuned / MANIFEST).exists() else recipe.teacher


def _fine_tuned(recipe: Recipe, teacher: Teacher, train: Tokens, folder: RunFolder, progress: Progress) -> Teacher:
    """Return the teacher trained on the labels, and keep it in the run folder."""
    settings = recipe.teacher.finetune
    assert settings is not None
    progress.say(f"teacher: fine-tuning {recipe.teacher.model} (epochs: {settings.epochs:g})")
    tuned = fine_tune(teacher, train, settings, recipe.search.seed, _reporter(progress, FINE_TUNING))
    save_teacher(tuned, folder.teacher / "model")
    return tuned


def _reporter(progress: Progress, phase: str) -> Callable[[int, int], None]:
    """Return a callback that shows how far a slow part of the prepare phase is."""
    return lambda done, total: progress.show(Snapshot(phase, done, total))


def _bundle(
    recipe: Recipe,
    teacher: Teacher,
    splits: tuple[Tokens, Tokens, Tokens | None],
    outputs: Outputs,
    importance: dict[str, np.ndarray],
) -> Bundle:
    """Return what all tasks share."""
    train, validation, test = splits
    resolved = recipe.model_dump(mode="json")
    key = hashlib.sha256(
        json.dumps(resolved, sort_keys=True).encode() + teacher.fingerprint.encode() + save(importance)
    )
    return Bundle(
        family=recipe.space.family,
        mode=recipe.space.mode,
        teacher_config=teacher.model.config.to_json(),
        teacher_weights={name: tensor.numpy() for name, tensor in teacher.model.state_dict().items()},
        importance=importance,
        train=train,
        validation=validation,
        test=test,
        outputs=outputs,
        recipe=resolved,
        fingerprint=key.hexdigest(),
        tokenizer=tokenizer_to_json(teacher.tokenizer),
    )


def _importance(teacher: Teacher, train: Tokens, folder: RunFolder, seed: int) -> dict[str, np.ndarray]:
    """Return the scores of the teacher's units, on training rows only; kept, for sums over threads are not exact."""
    path = folder.teacher / f"importance-{teacher.fingerprint[:16]}.safetensors"
    if path.exists():
        try:
            kept: dict[str, np.ndarray] = load(path.read_bytes())
        except SafetensorError as error:
            raise StateError(f"{path}: is damaged ({error}). Delete it to have it made again.") from None
        return kept
    scores = score_importance(teacher.model, _scoring_batches(train, seed), "first_order").to_arrays()
    atomic_write(path, save(scores))
    return scores


def _scoring_batches(train: Tokens, seed: int) -> Iterator[tuple[Any, torch.Tensor]]:
    """Yield batches of a random few hundred training rows with their labels."""
    rows = rng_for(seed, "importance").permutation(len(train))[:IMPORTANCE_ROWS]
    sample = train.subset(rows)
    for batch in bucketed_batches(sample.lengths, 16, None):
        yield sample.collate(batch), torch.from_numpy(sample.labels[batch])


def baseline(bundle: Bundle, teacher: Teacher, folder: RunFolder) -> dict[str, float]:
    """Return the teacher's accuracy on validation and test (fp32 torch), computed once a run."""
    path = folder.teacher / "baseline.json"
    if path.exists():
        return {name: float(value) for name, value in read_json(path).items()}
    scores = {}
    for name, tokens in (("accuracy", bundle.validation), ("test_accuracy", bundle.test)):
        if tokens is not None:
            scores[name] = accuracy(predict_logits(teacher.model, tokens), tokens)
    write_json(path, scores)
    return scores
