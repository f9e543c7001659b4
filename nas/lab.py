"""A lab: one teacher, its data, one device and one training budget, alike for every method that is tried on them.

Knows how a recipe of steps becomes a compressed model (`compress_model`); not what its figures are
(`nas.measures`), not the search.
"""

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from compressors.base import Material, Report
from compressors.steps import TRAINED, Step, blocks, check_order, check_standalone, prefix_key
from nas import __version__
from nas.bundle import Outputs
from nas.cache import Cache
from nas.data.tokens import Tokens
from nas.devices.base import Device
from nas.devices.settings import check_legible, open_device, resolved
from nas.distill import distill
from nas.files import read_json, write_json
from nas.meter import Stopwatch
from nas.prepare import Prepared, prepare, teacher_outputs
from nas.progress import Progress, Snapshot
from nas.recipe import Recipe, SpaceSettings, TrainSettings
from nas.rehearsal import rehearse
from nas.run_folder import RunFolder
from nas.spelling import Spelling
from nas.stages import (
    Corpus,
    State,
    apply_model_step,
    calibration_rows,
    compress,
    loss_of,
    material_of,
    runner,
    training_of,
)
from search_spaces.errors import ConfigError
from search_spaces.families.encoder_model import TextEncoder

IDENTITY = "lab.json"  # in the teacher's folder: what the folder was made of


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
    _outputs: dict[bool, Outputs] = field(default_factory=dict, repr=False, compare=False)

    @property
    def teacher(self) -> TextEncoder:
        """Return the teacher's model; never changed."""
        return self.prepared.teacher.model

    def material(self, seed: int = 0) -> Material:
        """Return some hundred training rows, those of the seed, in batches of rows of like length."""
        return material_of(State(self.teacher), self.corpus, seed)

    @property
    def corpus(self) -> Corpus:
        """Return the training rows with the teacher's tokenizer."""
        tokenizer = self.prepared.teacher.tokenizer
        longest = min(self.recipe.data.max_length, tokenizer.model_max_length)
        return Corpus(self.prepared.bundle.train, tokenizer, longest)

    def outputs(self, with_states: bool = False) -> Outputs:
        """Return what the teacher says of the training rows; computed once a folder, when first asked for."""
        if with_states not in self._outputs:
            prepared = self.prepared
            found = teacher_outputs(prepared.teacher, prepared.bundle.train, self.folder, self.progress, with_states)
            self._outputs[with_states] = found
        return self._outputs[with_states]


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
        spelling: How rows of the teacher's tokens become rows of the model's; None = the vocabulary is the teacher's.
    """

    steps: tuple[Step, ...]
    model: TextEncoder
    artefact: bytes
    tokenizer: Any
    reports: tuple[Report, ...]
    seconds: Mapping[str, float] = field(default_factory=dict)
    reused: tuple[str, ...] = ()
    spelling: Spelling | None = None

    def tokens(self, tokens: Tokens) -> Tokens:
        """Return rows of the teacher's tokens as this model wants them: the same unless the vocabulary was pruned."""
        return tokens if self.spelling is None else self.spelling.tokens(tokens)


def open_lab(recipe: Recipe, folder: RunFolder, progress: Progress) -> Lab:
    """Return a lab: data and teacher loaded, the teacher fine-tuned where the recipe asks for it, and exported.

    Args:
        recipe: Its sections teacher, data, device, ``finalize.train`` and ``search.seed`` count.
        folder: Created; everything slow is kept in it.
        progress: Hears what is found.

    Raises:
        ConfigError: Bad recipe, data or teacher, or a folder of another teacher or other data, in one line.
    """
    check_legible(recipe.device)
    folder.create()
    _check_folder(recipe, folder)
    space = SpaceSettings(family=recipe.space.family)
    recipe = recipe.model_copy(
        update={"compress": {}, "or_compress": (), "space": space, "device": resolved(recipe.device)}
    )
    prepared = prepare(recipe, folder, progress, for_search=False)
    device = open_device(recipe.device)
    reference = device.export(prepared.teacher.model)
    return Lab(recipe, folder, progress, prepared, device, reference, recipe.finalize.train)


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
        steps: In order; none is the teacher itself.
        seed: Of the order of the rows, of the material and of every other random choice.
        on_step: Called after every training step with the steps done and the steps in all; None shows them in the
            lab's progress.

    Raises:
        ConfigError: An impossible order, before anything is computed; or a step finds nothing it can compress, before
            anything is trained.
        DivergedError: A training run's loss became NaN or infinite.
    """
    if steps:
        check_order(steps)
        check_standalone(steps)
    in_torch = [block for block in blocks(steps) if block[0].stage != "artefact"]
    cache = Cache(lab.folder.cache, lab.corpus, lab.progress.warn)
    state, n_done = _restore(lab, cache, in_torch, seed)
    reused = tuple(step.name for block in in_torch[:n_done] for step in block)
    if reused:
        lab.progress.say(f"reused: {', '.join(reused)}")
    first = next((block for block in in_torch[n_done:] if block[0].stage in TRAINED), None)
    for i, block in enumerate(in_torch[n_done:], start=n_done + 1):
        if block is first:
            n_before = sum(map(len, in_torch[: i - 1]))  # artefact steps come last
            rehearse(lab.device, lab.corpus, state, steps[n_before:], seed)
        state = _advance(lab, state, block, seed, on_step)
        cache.save(_key(lab, in_torch[:i], seed), state, material_of(state, lab.corpus, seed).batches[0])
    return _finish(lab, tuple(steps), state, seed, reused)


def _restore(lab: Lab, cache: Cache, in_torch: Sequence[tuple[Step, ...]], seed: int) -> tuple[State, int]:
    """Return the longest prefix of blocks that the cache holds, and how many they are; the teacher at least."""
    for n_done in range(len(in_torch), 0, -1):
        state = cache.load(_key(lab, in_torch[:n_done], seed))
        if state is not None:
            return state, n_done
    return State(lab.teacher), 0


def _key(lab: Lab, done: Sequence[tuple[Step, ...]], seed: int) -> str:
    """Return the name of what these blocks make of the teacher; the training budget counts once something trains."""
    steps = [step for block in done for step in block]
    is_trained = any(step.stage in TRAINED for step in steps)
    basis = {
        "version": __version__,
        "teacher": lab.prepared.teacher.fingerprint,
        "data": _data_key(lab.prepared.bundle.train),
        "train": lab.train.model_dump(mode="json") if is_trained else None,
        "blocks": [len(block) for block in done],
        "seed": seed,
    }
    return prefix_key(steps, basis)


def _data_key(tokens: Tokens) -> str:
    """Return the sha256 of token rows and their labels."""
    digest = hashlib.sha256()
    for part in asdict(tokens).values():
        digest.update(f"{part.dtype} {part.shape}".encode())
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def _advance(
    lab: Lab, state: State, block: tuple[Step, ...], seed: int, on_step: Callable[[int, int], None] | None
) -> State:
    """Return the state after one more block, and say what it did."""
    name, clock = _name(block), Stopwatch()
    lab.progress.show(Snapshot(name))
    if block[0].stage == "model":
        state = apply_model_step(state, block[0].bind(), lab.corpus, seed)
    else:
        state = _train(lab, state, block, seed, on_step or _reporter(lab, name))
    clock.lap(name)
    seconds = {**state.seconds, name: state.seconds.get(name, 0.0) + clock.laps[name]}
    lab.progress.say(f"{name}: {clock.laps[name]:.1f} s")
    return replace(state, seconds=seconds)


def _train(lab: Lab, state: State, block: tuple[Step, ...], seed: int, on_step: Callable[[int, int], None]) -> State:
    """Return the state after a training run in which all steps of a block act together."""
    compressors = [step.bind() for step in block]
    loss, student = loss_of(compressors), copy.deepcopy(state.model)
    distill(
        student,
        state.tokens(lab.prepared.bundle.train),
        lab.outputs(loss.hidden > 0),
        lab.train,
        seed=seed,
        loss=loss,
        compressors=training_of(compressors),
        live=state.live_teacher(lab.teacher, loss),
        on_step=on_step,
    )
    reports = [loss.report(), *(compressor.report() for compressor in training_of(compressors))]
    return replace(state, model=student, reports=(*state.reports, *reports))


def _finish(lab: Lab, steps: tuple[Step, ...], state: State, seed: int, reused: tuple[str, ...]) -> Compressed:
    """Return the compressed model with its file."""
    clock = Stopwatch()
    last = [step.bind() for step in steps if step.stage == "artefact"]
    run = runner(lab.device, state.tokens(calibration_rows(lab.corpus.train, seed)))
    artefact = compress(lab.device.export(state.model), last, run, state.reports)
    clock.lap("export")
    return Compressed(
        steps=steps,
        model=state.model,
        artefact=artefact,
        tokenizer=state.spelling.after if state.spelling else lab.prepared.teacher.tokenizer,
        reports=(*state.reports, *(compressor.report() for compressor in last)),
        seconds={**state.seconds, **clock.laps},
        reused=reused,
        spelling=state.spelling,
    )


def _reporter(lab: Lab, name: str) -> Callable[[int, int], None]:
    """Return a callback that shows how far a training run is."""
    return lambda done, total: lab.progress.show(Snapshot(name, done, total))


def _name(block: Sequence[Step]) -> str:
    """Return a block in a word."""
    return "+".join(step.name for step in block)


def _check_folder(recipe: Recipe, folder: RunFolder) -> None:
    """Refuse a folder that was made of another teacher or other data: what it keeps would be taken for ours."""
    path = folder.teacher / IDENTITY
    told: dict[str, Any] = {
        "teacher": recipe.teacher.model_dump(mode="json"),
        "data": recipe.data.model_dump(mode="json"),
    }
    told |= {"seed": recipe.search.seed}
    if path.exists() and read_json(path) != told:
        raise ConfigError(
            f"run folder {folder.path}: holds the work of teacher {read_json(path)['teacher']['model']} on other data "
            "or settings; choose another with --output."
        )
    write_json(path, told)
