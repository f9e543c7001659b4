"""What one trial does, in the order it happens: inherit, compress, distil and prune, export, quantize, score.

Runs on a worker. Pure: a task and the bundle in, JSON and bytes out; the same task gives the same student.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from safetensors.torch import save
from torch import Tensor

from compressors.base import Compressor
from compressors.structured import StructuredPruning
from nas.bundle import Bundle
from nas.checkpoint import load_checkpoint, save_checkpoint, untrained_score, weights_of
from nas.data.tokens import Tokens
from nas.devices.base import Device
from nas.devices.settings import workload_of
from nas.devices.starts import measure_over_starts
from nas.distill import Epoch, Trained, distill
from nas.executor import Task
from nas.meter import Stopwatch
from nas.objectives import at
from nas.outputs import accuracy, artefact_logits, predict_logits
from nas.recipe import TrainSettings
from nas.schedule import WHOLE, Rung
from nas.spelling import tokenizer_to_json
from nas.stages import CALIBRATION_ROWS, State, compress, loss_of, training_of
from nas.workbench import Plan, Workbench, workbench
from search_spaces.families.encoder_model import TextEncoder
from search_spaces.families.text_encoder import Architecture
from search_spaces.space import Genes

Artefacts = Mapping[str, bytes]
Scores = dict[str, float]


def train_student(task: Task, bundle: Bundle) -> dict[str, Any]:
    """Train one candidate and score its artefact.

    Of several devices the search scores the first one's file. The others' are as good up to rounding: whatever rewrites
    files has to fit all of them. A student to deliver is exported, rewritten and scored in the format of each device.

    Args:
        task: ``spec`` holds ``genes``, ``seed``, ``train`` (a `TrainSettings` as JSON) and ``deliver``: whether to
            send the weights and the artefacts back and to score the test split. With ``rung``, a pair of shares of
            the training, only that part of it is done, from the blob ``checkpoint`` that the part before returned.
        bundle: What all tasks share.

    Returns:
        ``metrics`` (accuracy of the artefact on validation, size_bytes, macs, parameters, ...), ``score`` (smaller is
        better: the share of errors, or of a student that is not trained at all its distance to the teacher),
        ``curves`` per epoch, ``reports`` of the compressors, ``seconds`` per step, with ``deliver`` the bytes
        ``weights`` and those of every artefact, see `part_of`, and after a rung that is to be continued the bytes
        ``checkpoint``.

    Raises:
        DivergedError: The loss became NaN or infinite.
    """
    bench, spec, clock = workbench(bundle), task.spec, Stopwatch()
    genes: Genes = spec["genes"]
    plan, architecture = Plan.of(bench.candidates.steps(genes)), bench.candidates.architecture(genes)
    rung = Rung(*spec["rung"]) if "rung" in spec else WHOLE
    state = bench.build(_start(bench, architecture, plan) if rung.end else architecture, plan.before)
    spelled = _spelled(bundle, state)
    left = task.blobs.get("checkpoint")
    student, memory = load_checkpoint(left) if left else (copy.deepcopy(state.model), {})
    clock.lap("build")
    taught = (spelled, state.live_teacher(bench.teacher, loss_of(plan.training)))
    compressors = _aimed(plan, student, architecture)
    trained = _train(student, task, taught, compressors, rung, memory) if rung.end else None
    clock.lap("train")
    final = bench.finish(replace(state, model=student.eval()), plan)
    scored = spelled if final.spelling is state.spelling else _spelled(bundle, final)
    devices = {"": bench.device, **(bench.devices if spec["deliver"] else {})}
    artefacts = _artefacts(bench, devices, final, genes, plan)
    clock.lap("export")
    metrics = {
        **_scores(bench, devices, artefacts, "accuracy", scored.validation),
        "size_bytes": float(len(artefacts["artefact"])),
        "parameters": float(sum(p.numel() for p in final.model.parameters())),
    }
    if plan.before or plan.after:  # else the shape that the genes describe says so
        metrics["macs"] = float(bench.candidates.family.macs(final.model.config, bench.n_tokens))
    if spec["deliver"]:
        metrics["accuracy_fp32"] = accuracy(predict_logits(final.model, scored.validation), scored.validation)
        if scored.test is not None:
            metrics |= _scores(bench, devices, artefacts, "test_accuracy", scored.test)
    score = 1 - metrics["accuracy"] if rung.end else untrained_score(student, spelled)
    clock.lap("score")
    result: dict[str, Any] = {
        "metrics": metrics,
        "score": score,
        "curves": _curves(trained.epochs if trained else ()),
        "reports": [report.to_json() for report in (*final.reports, *(c.report() for c in plan.artefact))],
        "architecture": Architecture(architecture.layers, final.model.config).to_json(),
        "seconds": clock.laps,
    }
    if spec["deliver"]:
        result |= {"weights": save(weights_of(final.model)), **artefacts}
        result["tokenizer"] = None if final.spelling is None else tokenizer_to_json(final.spelling.after)
    if trained and rung.end < 1:
        result["checkpoint"] = save_checkpoint(*trained.left)
    return result


def measure_shapes(task: Task, bundle: Bundle) -> dict[str, Any]:
    """Measure artefacts on the task's device, interleaved with the teacher's fp32 artefact.

    Args:
        task: ``spec`` holds ``tokens``, ``quick`` and ``candidates`` (genes of untrained students to build), and
            ``starts`` where all is to be measured in so many processes, thoroughly; ``blobs`` holds finished artefacts
            by name, measured after the candidates in the order of the names.
        bundle: What all tasks share.

    Returns:
        ``measurements``: one JSON for each candidate, with ``n_words``, the rows of its word table, then one for each
        blob; ``environment`` of the device; ``reference_bytes``: size of the teacher's artefact.
    """
    bench, spec, clock = workbench(bundle), task.spec, Stopwatch()
    device, settings = bench.devices[task.device], bench.recipe.targets[task.device]
    untrained = _untrained(bench, device, spec["candidates"])
    artefacts = [artefact for artefact, _ in untrained] + [task.blobs[name] for name in sorted(task.blobs)]
    clock.lap("build")
    workload, reference = workload_of(settings, int(spec["tokens"])), bench.reference_on(device)
    if "starts" in spec:
        measurements, environment = measure_over_starts(settings, artefacts, reference, workload, int(spec["starts"]))
    else:
        measurements = device.measure(artefacts, reference, workload, quick=bool(spec["quick"]))
        environment = dict(device.environment())
    clock.lap("measure")
    found = [measurement.to_json() for measurement in measurements]
    for row, (_, n_words) in zip(found, untrained, strict=False):  # the blobs' rows come after those of candidates
        row["n_words"] = n_words
    return {
        "measurements": found,
        "environment": environment,
        "reference_bytes": len(reference),
        "seconds": clock.laps,
    }


def _untrained(bench: Workbench, device: Device, candidates: Sequence[Genes]) -> list[tuple[bytes, int]]:
    """Return artefacts of candidates that were never trained, with the rows of their word tables.

    Latency does not depend on the weights' values. Candidates of one shape, which follow each other, share its export.
    """
    made: list[tuple[bytes, int]] = []
    latest, exported, run = None, b"", None
    for genes in candidates:
        plan, architecture = Plan.of(bench.candidates.steps(genes)), bench.candidates.architecture(genes)
        shaping = [*plan.before, *(step for step in plan.after if step.phase != "bits")]
        if latest != (architecture, shaping):
            latest, state = (architecture, shaping), bench.build(architecture, shaping)
            exported = device.export(state.model)
            run = bench.runner(1, state, device)
        made.append((compress(exported, plan.artefact, run), state.model.config.vocab_size))
    return made


def _spelled(bundle: Bundle, state: State) -> Bundle:
    """Return the bundle with the rows as a model wants them."""
    if state.spelling is None:
        return bundle
    test = None if bundle.test is None else state.tokens(bundle.test)
    return replace(bundle, train=state.tokens(bundle.train), validation=state.tokens(bundle.validation), test=test)


def _start(bench: Workbench, target: Architecture, plan: Plan) -> Architecture:
    """Return the shape training begins with: the target, or a wider one that is pruned down to it on the way."""
    if any(isinstance(c, StructuredPruning) and c.is_gradual for c in plan.training):
        wide: Architecture = bench.candidates.family.widen(target, bench.candidates.teacher)
        return wide
    return target


def _aimed(plan: Plan, student: TextEncoder, target: Architecture) -> list[Compressor]:
    """Return the compressors of the training, those that prune to a shape with that shape."""
    for compressor in plan.training:
        if isinstance(compressor, StructuredPruning) and compressor.is_gradual:
            compressor.aim(replace(student.config, heads=target.config.heads, ffn=target.config.ffn))
    return plan.training


def _train(
    student: TextEncoder,
    task: Task,
    taught: tuple[Bundle, TextEncoder],
    compressors: Sequence[Compressor],
    rung: Rung,
    memory: Mapping[str, Tensor],
) -> Trained:
    """Distil the student over a part of the training, from rows and a teacher of its words; return what happened."""
    bundle, teacher = taught
    return distill(
        student,
        bundle.train,
        bundle.outputs,
        TrainSettings.model_validate(task.spec["train"]),
        seed=int(task.spec["seed"]),
        loss=loss_of(compressors),
        compressors=training_of(compressors),
        live=teacher,
        rung=rung,
        memory=memory,
    )


def _curves(epochs: Sequence[Epoch]) -> dict[str, list[float]]:
    """Return what is drawn over the epochs; ``teacher_share`` and ``held_out`` only where all epochs have one."""
    curves = {
        "loss": [epoch.loss for epoch in epochs],
        "sentences_per_s": [epoch.sentences_per_s for epoch in epochs],
        "learning_rate": [epoch.learning_rate for epoch in epochs],
    }
    shares = [epoch.teacher_share for epoch in epochs]
    held_out = [epoch.held_out for epoch in epochs if epoch.held_out is not None]
    curves |= {"teacher_share": shares} if any(shares) else {}
    return curves | ({"held_out": held_out} if len(held_out) == len(epochs) else {})


def part_of(device: Device, first: Device) -> str:
    """Return what a student's file for a device is called among the bytes of a trial; devices of one format share it.

    Args:
        device: Where it runs.
        first: The first device, whose file is the ``artefact``.
    """
    return "artefact" if device.format == first.format else f"artefact-{device.format}"


def _artefacts(bench: Workbench, devices: Mapping[str, Device], final: State, genes: Genes, plan: Plan) -> Artefacts:
    """Return the files of a trained student for some devices, the first one's first; see `part_of`."""
    files: dict[str, bytes] = {}
    for device in devices.values():
        part = part_of(device, bench.device)
        if part not in files:
            methods = Plan.of(bench.candidates.steps(genes)).artefact if files else plan.artefact  # each is used once
            run = bench.runner(CALIBRATION_ROWS, final, device)
            files[part] = compress(device.export(final.model), methods, run, final.reports)
    return files


def _scores(bench: Workbench, devices: Mapping[str, Device], files: Artefacts, metric: str, tokens: Tokens) -> Scores:
    """Return the share of rows that the files label right on some devices, by e.g. ``accuracy@phone``.

    A file runs at the batch size of production of the first device that has it; devices of one format share the score.
    """
    found: dict[str, float] = {}
    for name, device in devices.items():
        part = part_of(device, bench.device)
        if part not in found:
            batch = bench.recipe.targets.get(name, bench.recipe.device).batch
            found[part] = accuracy(artefact_logits(device, files[part], tokens, batch), tokens)
    return {at(metric, name): found[part_of(device, bench.device)] for name, device in devices.items()}
