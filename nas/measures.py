"""What a compressed model is worth beside its teacher: accuracy, bytes, multiply-accumulates, latency, layer by layer.

All figures are of the files themselves, scored and measured on the lab's device. Knows labs and files; not terminals.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from compressors.sizes import Sizes, TensorSize, sizes_of_artefact
from compressors.steps import Step
from nas.data.tokens import Tokens
from nas.devices.base import Measurement
from nas.devices.settings import workload_of
from nas.devices.verdict import verdict
from nas.lab import Compressed, Lab
from nas.outputs import accuracy, artefact_logits, predict_logits
from nas.progress import Snapshot
from search_spaces.families.encoder_costs import layer_macs
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder

FEW = 0.05  # share of weights or time whose loss nobody feels
_LAYER = re.compile(r"layers\.\d+")


@dataclass(frozen=True)
class Figures:
    """One model as a file.

    Attributes:
        accuracy: On validation, 0..1.
        test_accuracy: None without a test split.
        latency_ms: Median of one call.
        size_bytes: Of the file.
        compressed_bytes: Of the file after zlib at level 6.
        parameters: Weights in the file; what layers share counts once.
        nonzeros: Of these.
        bits_per_weight: All constants, scales and zero points included, over the weights.
        macs: Multiply-accumulates of one text of the lab's length.
    """

    accuracy: float
    test_accuracy: float | None
    latency_ms: float
    size_bytes: int
    compressed_bytes: int
    parameters: int
    nonzeros: int
    bits_per_weight: float
    macs: int


@dataclass(frozen=True)
class LayerFigures:
    """One layer of the file, ``embeddings`` or ``head``; what was before is None where layers have other numbers now.

    Attributes:
        name: E.g. ``layers.3``.
        parameters_before: In the teacher's file.
        parameters: Weights in the file.
        nonzeros: Of these.
        bits_per_weight: As `Figures`.
        size_bytes: Of the layer's constants in the file.
        macs_before: Of the teacher's layer.
        macs: Of one text of the lab's length.
    """

    name: str
    parameters_before: int | None
    parameters: int
    nonzeros: int
    bits_per_weight: float
    size_bytes: int
    macs_before: int | None
    macs: int


@dataclass(frozen=True)
class Measures:
    """The report of one compressed model.

    Attributes:
        compressed: What is measured.
        teacher: Its fp32 file; its accuracy is that of the torch model.
        student: The compressed file.
        accuracy_torch: Of the model in torch on validation, simulated where a step simulates.
        layers: From the embeddings to the head.
        plain: The exported model before the artefact steps, measured; the same as ``final`` without such steps.
        final: The file, measured in turns with the teacher's.
        environment: What the device says of itself.
        remarks: What a reader must know, in words.
    """

    compressed: Compressed
    teacher: Figures
    student: Figures
    accuracy_torch: float
    layers: tuple[LayerFigures, ...]
    plain: Measurement
    final: Measurement
    environment: Mapping[str, str]
    remarks: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return everything but models and files as plain JSON values."""
        made = self.compressed
        return {
            "steps": [step.to_json() for step in made.steps],
            "teacher": asdict(self.teacher),
            "student": {**asdict(self.student), "accuracy_torch": self.accuracy_torch},
            "layers": [asdict(layer) for layer in self.layers],
            "reports": [report.to_json() for report in made.reports],
            "measurement": self.final.to_json(),
            "measurement_before_artefact_steps": self.plain.to_json(),
            "environment": dict(self.environment),
            "remarks": list(self.remarks),
            "seconds": dict(made.seconds),
            "reused": list(made.reused),
        }


def measure(lab: Lab, compressed: Compressed, quick: bool = False) -> Measures:
    """Score and measure a compressed model on the lab's device.

    Args:
        lab: Where it was made.
        compressed: The model and its file.
        quick: Settle for a wider confidence interval of the latency.

    Raises:
        DeviceError: The device refuses the file.
        DivergedError: The file's outputs are not finite.
    """
    bundle = lab.prepared.bundle
    lab.progress.show(Snapshot("accuracy"))
    scores = [_accuracy(lab, compressed, split) if split else None for split in (bundle.validation, bundle.test)]
    in_torch = compressed.tokens(bundle.validation)
    accuracy_torch = accuracy(predict_logits(compressed.model, in_torch), in_torch)
    lab.progress.show(Snapshot("latency"))
    plain, final = _latencies(lab, compressed, quick)
    before, after = sizes_of_artefact(lab.reference), sizes_of_artefact(compressed.artefact)
    known = lab.prepared.scores
    assert final.reference_ms is not None
    assert scores[0] is not None
    told = (known["accuracy"], known.get("test_accuracy"), final.reference_ms)
    teacher = _figures(lab, lab.teacher.config, before, told)
    student = _figures(lab, compressed.model.config, after, (scores[0], scores[1], final.median_ms))
    return Measures(
        compressed,
        teacher,
        student,
        accuracy_torch,
        _layers(lab, compressed, before, after),
        plain,
        final,
        lab.device.environment(),
        (*pruning_remarks(lab.teacher, compressed.model, plain), *bits_remarks(compressed.steps, plain, final)),
    )


def _accuracy(lab: Lab, compressed: Compressed, split: Tokens) -> float:
    """Return the share of rows that the file labels right, run at the batch size of production."""
    tokens = compressed.tokens(split)
    return accuracy(artefact_logits(lab.device, compressed.artefact, tokens, lab.recipe.device.batch), tokens)


def _latencies(lab: Lab, compressed: Compressed, quick: bool) -> tuple[Measurement, Measurement]:
    """Return the measurements before and after the artefact steps, in turns with the teacher."""
    workload = workload_of(lab.recipe.device, lab.prepared.n_tokens)
    artefacts = [compressed.artefact]
    if any(step.stage == "artefact" for step in compressed.steps):
        artefacts.insert(0, lab.device.export(compressed.model))
    measured = lab.device.measure(artefacts, lab.reference, workload, quick=quick)
    return measured[0], measured[-1]


def _figures(lab: Lab, config: EncoderConfig, sizes: Sizes, told: tuple[float, float | None, float]) -> Figures:
    """Return the figures of a file; ``told`` are accuracy, test accuracy and latency."""
    score, test_score, latency_ms = told
    return Figures(
        score,
        test_score,
        latency_ms,
        sizes.size_bytes,
        sizes.compressed_bytes,
        sizes.parameters,
        sizes.nonzeros,
        sizes.bits_per_weight,
        lab.prepared.candidates.family.macs(config, lab.prepared.n_tokens),
    )


def _layers(lab: Lab, compressed: Compressed, before: Sizes, after: Sizes) -> tuple[LayerFigures, ...]:
    """Return the figures of every layer of the file."""
    now, then = compressed.model.config, lab.teacher.config
    is_aligned = now.depth == then.depth
    old, new = _grouped(before.tensors), _grouped(after.tensors)
    old_macs, new_macs = _macs(lab, then), _macs(lab, now)
    rows = []
    for name in new_macs:
        sizes = Sizes(tuple(new[name]), sum(tensor.size_bytes for tensor in new[name]), 0)
        was = sum(tensor.parameters for tensor in old[name])
        is_known = is_aligned or not _LAYER.match(name)
        rows.append(
            LayerFigures(
                name,
                was if is_known else None,
                sizes.parameters,
                sizes.nonzeros,
                sizes.bits_per_weight,
                sizes.size_bytes,
                old_macs[name] if is_known else None,
                new_macs[name],
            )
        )
    return tuple(rows)


def _grouped(tensors: Iterable[TensorSize]) -> dict[str, list[TensorSize]]:
    """Return the constants of a file by layer; what is of no layer and not of the head belongs to the embeddings."""
    groups: dict[str, list[TensorSize]] = defaultdict(list)
    for tensor in tensors:
        layer = _LAYER.match(tensor.name)
        groups[layer[0] if layer else "head" if tensor.name.startswith("head.") else "embeddings"].append(tensor)
    return groups


def _macs(lab: Lab, config: EncoderConfig) -> dict[str, int]:
    """Return the multiply-accumulates by layer, in the order of the forward pass."""
    n_tokens = lab.prepared.n_tokens
    layers = {f"layers.{i}": layer_macs(config, i, n_tokens) for i in range(config.depth)}
    head = config.hidden * (config.hidden + len(config.labels))
    rest = lab.prepared.candidates.family.macs(config, n_tokens) - sum(layers.values()) - head
    return {"embeddings": rest, **layers, "head": head}


def pruning_remarks(teacher: TextEncoder, model: TextEncoder, plain: Measurement) -> list[str]:
    """Return in words that fewer or zero weights did not make the float model faster; nothing where they did.

    Args:
        teacher: The model before all steps.
        model: The model after the torch stages.
        plain: Of the model's float32 file, in turns with the teacher's.
    """
    assert plain.reference_ms is not None
    (n_before, zeros_before), (n_after, zeros_after) = _counted(teacher), _counted(model)
    zeros, gone = zeros_after / n_after - zeros_before / n_before, 1 - n_after / n_before
    is_faster = plain.high_ms < (1 - FEW) * plain.reference_ms
    if is_faster or max(zeros, gone) <= FEW:
        return []
    figures = f"{plain.reference_ms:.3g} -> {plain.median_ms:.3g} ms in float32"
    if zeros > FEW:
        return [f"pruned but not faster: {zeros:.0%} more weights are zero, {figures}; zeros are computed like others"]
    return [f"smaller but not faster: {gone:.0%} of the weights are gone, {figures}"]


def _counted(model: TextEncoder) -> tuple[int, int]:
    """Return the number of weights of a model and how many of them are zero; shared ones count once."""
    parameters = list(model.parameters())
    n = sum(parameter.numel() for parameter in parameters)
    return n, n - sum(int(parameter.count_nonzero()) for parameter in parameters)


def bits_remarks(steps: Sequence[Step], plain: Measurement, final: Measurement) -> list[str]:
    """Return in words what fewer bits did to the latency, and which of them are only simulated.

    Args:
        steps: The recipe.
        plain: Of the file before the artefact steps.
        final: Of the file after them.
    """
    last = [step.name for step in steps if step.stage == "artefact"]
    if last:
        return [f"{'+'.join(last)}: {verdict(plain, final)}"]
    simulated = [step.name for step in steps if step.phase == "bits"]
    return [f"{name}: simulated; the file holds its values as float32, which are as fast as any" for name in simulated]
