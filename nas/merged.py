"""What a student of several teachers is worth: beside them, and beside students of one teacher each.

All figures are of the files themselves, scored and measured on the labs' device. Knows labs and files; not terminals.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from compressors.onnx_outputs import with_outputs
from nas.data.tokens import Tokens
from nas.devices.base import Measurement, Workload
from nas.lab import Compressed
from nas.merge import JointLab, Task
from nas.outputs import accuracy, artefact_logits
from nas.progress import Snapshot


@dataclass(frozen=True)
class Worth:
    """One file at one task.

    Attributes:
        accuracy: On validation, 0..1.
        test_accuracy: None without a test split.
        latency_ms: Median of one call with a text of the task's length.
        speedup: How many times as fast as the teacher's file, measured in turns.
        size_bytes: Of the file; that of a merged student is the same at every task.
        doubts: What a reader of the latency must know, in words.
    """

    accuracy: float
    test_accuracy: float | None
    latency_ms: float
    speedup: float
    size_bytes: int
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class AtTask:
    """Three ways to solve one task.

    Attributes:
        task: Its name.
        labels: The names of its labels.
        output: Which output of the merged file answers it.
        n_tokens: Of the texts that latency is measured with.
        teacher: Its accuracy is that of the torch model, the rest is of its float32 file.
        alone: A student of this teacher alone, made by the same steps; None where none was made.
        merged: The student of all teachers.
    """

    task: str
    labels: tuple[str, ...]
    output: str
    n_tokens: int
    teacher: Worth
    alone: Worth | None
    merged: Worth


@dataclass(frozen=True)
class Merged:
    """The report of one student of several teachers.

    Attributes:
        compressed: What `compress_model` made in the joint lab.
        artefact: The file: ``logits`` of all tasks side by side, then an output for each task.
        tasks: How it does at each.
    """

    compressed: Compressed
    artefact: bytes
    tasks: tuple[AtTask, ...]

    @property
    def alone_bytes(self) -> int | None:
        """Return the bytes of all students of one teacher together; None where none were made."""
        sizes = [task.alone.size_bytes for task in self.tasks if task.alone is not None]
        return sum(sizes) if sizes else None

    def to_json(self) -> dict[str, Any]:
        """Return everything but models and files as plain JSON values."""
        return {
            "steps": [step.to_json() for step in self.compressed.steps],
            "tasks": [asdict(task) for task in self.tasks],
            "size_bytes": len(self.artefact),
            "alone_bytes": self.alone_bytes,
            "teacher_bytes": sum(task.teacher.size_bytes for task in self.tasks),
            "reports": [report.to_json() for report in self.compressed.reports],
            "seconds": dict(self.compressed.seconds),
            "reused": list(self.compressed.reused),
        }


def judge(joint: JointLab, made: Compressed, alone: Mapping[str, Compressed]) -> Merged:
    """Score and measure a student of several teachers at every task.

    Args:
        joint: Where it was made.
        made: The student.
        alone: Students of one teacher each, by the names of their tasks; may be empty.

    Raises:
        DeviceError: The device refuses a file.
        DivergedError: A file's outputs are not finite.
    """
    artefact = with_outputs(made.artefact, {output_of(task): len(task.labels) for task in joint.tasks})
    rows = [_at_task(joint, task, (made, artefact), alone.get(task.name)) for task in joint.tasks]
    return Merged(made, artefact, tuple(rows))


def output_of(task: Task) -> str:
    """Return the name of a task's output; no name inside of a graph begins so."""
    return f"logits.{task.name}"


def _at_task(joint: JointLab, task: Task, merged: tuple[Compressed, bytes], alone: Compressed | None) -> AtTask:
    """Return the figures of one task; the files are measured in turns with the teacher's."""
    lab, n_tokens = task.lab, task.lab.prepared.n_tokens
    joint.progress.show(Snapshot(f"measuring {task.name}"))
    made, artefact = merged
    files = [artefact] if alone is None else [artefact, alone.artefact]
    measured = joint.device.measure(files, lab.reference, Workload(joint.recipe.device.batch, n_tokens))
    ours = _worth(joint, task, (made, artefact, task.columns), measured[0])
    other = None
    if alone is not None:
        whole = slice(0, len(task.labels))
        other = _worth(joint, task, (alone, alone.artefact, whole), measured[1])
    scores, reference_ms = lab.prepared.scores, measured[0].reference_ms
    assert reference_ms is not None
    teacher = Worth(scores["accuracy"], scores.get("test_accuracy"), reference_ms, 1.0, len(lab.reference))
    return AtTask(task.name, task.labels, output_of(task), n_tokens, teacher, other, ours)


def _worth(joint: JointLab, task: Task, file: tuple[Compressed, bytes, slice], measured: Measurement) -> Worth:
    """Return the figures of one file, of whose logits some columns are the task's."""
    made, artefact, columns = file

    def score(split: Tokens) -> float:
        """Return the share of rows that the file labels right."""
        rows = made.tokens(split)
        return accuracy(artefact_logits(joint.device, artefact, rows, joint.recipe.device.batch)[:, columns], rows)

    bundle = task.lab.prepared.bundle
    test = None if bundle.test is None else score(bundle.test)
    doubts = ["measured while the machine was busy"] * measured.contended + ["noisy"] * measured.noisy
    assert measured.speedup is not None
    scores = score(bundle.validation), test
    return Worth(*scores, measured.median_ms, measured.speedup, len(artefact), tuple(doubts))
