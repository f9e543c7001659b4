"""What one trial does, in the order it happens: inherit, distil and prune, export, quantize, score the artefact.

Runs on a worker. Pure: a task and the bundle in, JSON and bytes out; the same task gives the same student.
"""

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import save

from compressors.base import ArtefactCompressor, Compressor, Run, TrainingCompressor
from compressors.distillation import Distillation
from compressors.structured import StructuredPruning
from nas.bundle import Bundle
from nas.candidates import Candidates
from nas.checkpoint import WHOLE, Rung, load_checkpoint, save_checkpoint, untrained_score
from nas.data.tokens import Tokens
from nas.devices import DEVICES
from nas.devices.base import Device, Workload
from nas.distill import Epoch, distill, n_batches
from nas.executor import Task
from nas.meter import Stopwatch
from nas.outputs import accuracy, predict_logits
from nas.recipe import Recipe, TrainSettings
from search_spaces.errors import DivergedError
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder
from search_spaces.families.importance import Importance
from search_spaces.families.text_encoder import Architecture
from search_spaces.seeding import rng_for
from search_spaces.space import Genes

CALIBRATION_ROWS = 256  # that show the activations of a trained student; an untrained one needs its latency only
CALIBRATION_BATCH = 32


class Workbench:
    """What a worker derives from a bundle once and uses for every task: teacher, candidates, device."""

    def __init__(self, bundle: Bundle) -> None:
        """Build the teacher from the bundle's arrays without copying them."""
        self.recipe = Recipe.model_validate(bundle.recipe)
        config = EncoderConfig.from_json(bundle.teacher_config)
        self.teacher = TextEncoder(config).eval()
        weights = {name: torch.from_numpy(np.array(array)) for name, array in bundle.teacher_weights.items()}
        self.teacher.load_state_dict(weights)
        self.importance = Importance.from_arrays(bundle.importance)
        self.candidates = Candidates(self.recipe, config)
        self.device: Device = DEVICES.load(self.recipe.device.name)(self.recipe.device)
        self.reference = self.device.export(self.teacher)
        rows = rng_for(self.recipe.search.seed, "calibration").permutation(len(bundle.train))[:CALIBRATION_ROWS]
        self.calibration = bundle.train.subset(rows)

    def build(self, architecture: Architecture) -> TextEncoder:
        """Return an untrained student that inherits the teacher's most important units."""
        student: TextEncoder = self.candidates.family.build(self.teacher, architecture, self.importance)
        return student

    def runner(self, n_rows: int) -> Run:
        """Return what runs an artefact on up to ``n_rows`` calibration rows, all of the training split."""
        tokens = self.calibration.subset(np.arange(min(n_rows, len(self.calibration))))
        return partial(self.device.outputs, tokens=tokens, batch=CALIBRATION_BATCH)


_BENCHES: dict[str, Workbench] = {}


def workbench(bundle: Bundle) -> Workbench:
    """Return the worker's workbench for a bundle; only the latest is kept."""
    if bundle.fingerprint not in _BENCHES:
        _BENCHES.clear()
        _BENCHES[bundle.fingerprint] = Workbench(bundle)
    return _BENCHES[bundle.fingerprint]


def train_student(task: Task, bundle: Bundle) -> dict[str, Any]:
    """Train one candidate and score its artefact.

    Args:
        task: ``spec`` holds ``genes``, ``seed``, ``train`` (a `TrainSettings` as JSON) and ``deliver``: whether to
            send the weights and the artefact back and to score the test split. With ``rung``, a pair of shares of
            the training, only that part of it is done, from the blob ``checkpoint`` that the part before returned.
        bundle: What all tasks share.

    Returns:
        ``metrics`` (accuracy of the artefact on validation, size_bytes, macs, parameters, ...), ``score`` (smaller is
        better: the share of errors, or of a student that is not trained at all its distance to the teacher),
        ``curves`` per epoch, ``reports`` of the compressors, ``seconds`` per step, with ``deliver`` the bytes
        ``weights`` and ``artefact``, and after a rung that is to be continued the bytes ``checkpoint``.

    Raises:
        DivergedError: The loss became NaN or infinite.
    """
    bench, spec, clock = workbench(bundle), task.spec, Stopwatch()
    genes: Genes = spec["genes"]
    compressors = bench.candidates.compressors(genes)
    architecture = bench.candidates.architecture(genes)
    rung = Rung(*spec["rung"]) if "rung" in spec else WHOLE
    wide = _start(bench, architecture, compressors)
    if "checkpoint" in task.blobs:
        student = load_checkpoint(task.blobs["checkpoint"])
    else:
        student = bench.build(wide if rung.end else architecture)
    clock.lap("build")
    epochs = _train(student, task, bundle, compressors, rung) if rung.end else []
    clock.lap("train")
    artefact = compress(bench.device.export(student.eval()), compressors, bench.runner(CALIBRATION_ROWS))
    clock.lap("export")
    metrics = {
        "accuracy": _accuracy(bench, artefact, bundle.validation),
        "size_bytes": float(len(artefact)),
        "parameters": float(sum(p.numel() for p in student.parameters())),
    }
    if spec["deliver"]:
        metrics["accuracy_fp32"] = accuracy(predict_logits(student, bundle.validation), bundle.validation)
        if bundle.test is not None:
            metrics["test_accuracy"] = _accuracy(bench, artefact, bundle.test)
    score = 1 - metrics["accuracy"] if rung.end else untrained_score(student, bundle)
    clock.lap("score")
    result: dict[str, Any] = {
        "metrics": metrics,
        "score": score,
        "curves": _curves(epochs),
        "reports": [compressor.report().to_json() for compressor in compressors],
        "architecture": Architecture(architecture.layers, student.config).to_json(),
        "seconds": clock.laps,
    }
    if spec["deliver"]:
        result |= {"weights": save(student.state_dict()), "artefact": artefact}
    if 0 < rung.end < 1:
        result["checkpoint"] = save_checkpoint(student)
    return result


def measure_shapes(task: Task, bundle: Bundle) -> dict[str, Any]:
    """Measure artefacts on the device, interleaved with the teacher's fp32 artefact.

    Args:
        task: ``spec`` holds ``tokens``, ``quick`` and ``candidates`` (genes of untrained students to build);
            ``blobs`` holds finished artefacts by name, measured after the candidates in the order of the names.
        bundle: What all tasks share.

    Returns:
        ``measurements``: one JSON for each candidate, then one for each blob; ``environment`` of the device;
        ``reference_bytes``: size of the teacher's artefact.
    """
    bench, spec, clock = workbench(bundle), task.spec, Stopwatch()
    artefacts = _untrained(bench, spec["candidates"])
    artefacts += [task.blobs[name] for name in sorted(task.blobs)]
    clock.lap("build")
    workload = Workload(bench.recipe.device.batch, int(spec["tokens"]))
    measurements = bench.device.measure(artefacts, bench.reference, workload, quick=bool(spec["quick"]))
    clock.lap("measure")
    return {
        "measurements": [measurement.to_json() for measurement in measurements],
        "environment": dict(bench.device.environment()),
        "reference_bytes": len(bench.reference),
        "seconds": clock.laps,
    }


def compress(artefact: bytes, compressors: Sequence[Compressor], run: Run | None = None) -> bytes:
    """Return the exported model after every compressor of the artefact stage, in order; ``run`` shows activations."""
    for compressor in compressors:
        if compressor.stage == "artefact":
            artefact = cast(ArtefactCompressor, compressor).apply(artefact, run)
    return artefact


def _untrained(bench: Workbench, candidates: Sequence[Genes]) -> list[bytes]:
    """Return artefacts of candidates that were never trained: latency does not depend on the weights' values.

    Candidates of one shape, which follow each other, share its export.
    """
    artefacts: list[bytes] = []
    run = bench.runner(1)
    by_shape = itertools.groupby(candidates, key=bench.candidates.architecture)
    for architecture, alike in by_shape:
        exported = bench.device.export(bench.build(architecture))
        artefacts += [compress(exported, bench.candidates.compressors(genes), run) for genes in alike]
    return artefacts


def _start(bench: Workbench, target: Architecture, compressors: Sequence[Compressor]) -> Architecture:
    """Return the shape training begins with: the target, or a wider one that is pruned down to it on the way."""
    for compressor in compressors:
        if isinstance(compressor, StructuredPruning) and compressor.is_gradual:
            compressor.aim(target.config)
            wide: Architecture = bench.candidates.family.widen(target, bench.candidates.teacher)
            return wide
    return target


def _train(
    student: TextEncoder, task: Task, bundle: Bundle, compressors: Sequence[Compressor], rung: Rung
) -> list[Epoch]:
    """Distil the student over a part of the training; return what happened."""
    whole = TrainSettings.model_validate(task.spec["train"])
    part = whole.model_copy(update={"epochs": (rung.end - rung.begin) * whole.epochs})
    return distill(
        student,
        bundle.train,
        bundle.outputs,
        part,
        seed=int(task.spec["seed"]),
        loss=_loss(compressors),
        compressors=[cast(TrainingCompressor, c) for c in compressors if c.stage == "training"],
        live=workbench(bundle).teacher,
        n_before=math.ceil(rung.begin * whole.epochs * n_batches(len(bundle.train), whole)),
    )


def _curves(epochs: Sequence[Epoch]) -> dict[str, list[float]]:
    """Return what is drawn over the epochs; ``teacher_share`` of the time only where the teacher ran along."""
    curves = {
        "loss": [epoch.loss for epoch in epochs],
        "sentences_per_s": [epoch.sentences_per_s for epoch in epochs],
    }
    shares = [epoch.teacher_share for epoch in epochs]
    return {**curves, "teacher_share": shares} if any(shares) else curves


def _loss(compressors: Sequence[Compressor]) -> Distillation:
    """Return the recipe's distillation loss, or the default one."""
    found = [cast(Distillation, compressor) for compressor in compressors if compressor.stage == "loss"]
    return found[0] if found else Distillation()


def _accuracy(bench: Workbench, artefact: bytes, tokens: Tokens) -> float:
    """Return the share of rows the artefact labels right, run at the batch size of production."""
    logits = bench.device.predict(artefact, tokens, bench.recipe.device.batch)
    if not np.isfinite(logits).all():
        raise DivergedError(f"score: {(~np.isfinite(logits)).sum()} outputs of the artefact are not finite; lower lr.")
    return accuracy(logits, tokens)
