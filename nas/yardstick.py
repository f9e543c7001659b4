"""One yardstick for every way of making a model smaller: which figures there are, what they mean, how they are taken.

Answers come from the exported file, run as in production; only attributions need gradients and so explain the torch
model that the file was made of. Knows a lab and one compressed model; not which methods there are.
"""

import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from compressors.sizes import ZLIB_LEVEL
from nas.attribution import attribution_agreement, attributions, explained_rows
from nas.data.splits import Split, at_most
from nas.data.tokenize import tokenize
from nas.devices.base import PeakMemory
from nas.devices.settings import workload_of
from nas.lab import Compressed, Lab
from nas.noise import with_typos, without_words
from nas.outputs import accuracy, artefact_logits
from nas.scores import agreement, calibration_error, worst_class

NOISY_ROWS = 1000  # of the validation split at most

Unit = Literal["share", "ms", "bytes", "seconds", "times"]


@dataclass(frozen=True)
class Column:
    """One figure of the table.

    Attributes:
        name: Key in JSON and MLflow.
        title: Head of the column.
        unit: Of the figure; a share is 0..1, ``attribution`` -1..1.
        is_higher_better: Which way is good.
        what: What it is, in one line.
    """

    name: str
    title: str
    unit: Unit
    is_higher_better: bool
    what: str


COLUMNS = (
    Column("accuracy", "accuracy", "share", True, "share of validation rows that the file labels right"),
    Column("test_accuracy", "test", "share", True, "the same on the test split, where there is one"),
    Column("retention", "kept", "share", True, "accuracy as a share of the teacher's"),
    Column("size_bytes", "size", "bytes", False, "the file"),
    Column("compressed_bytes", "zipped", "bytes", False, "the file after zlib: what a download costs"),
    Column("latency_ms", "p50", "ms", False, "median of a call, in turns with the teacher's file"),
    Column("p95_ms", "p95", "ms", False, "95th percentile of a call"),
    Column("memory_bytes", "memory", "bytes", False, "peak of a fresh process that loads and runs the file"),
    Column("agreement", "agrees", "share", True, "share of validation rows with the teacher's label"),
    Column("calibration_error", "ECE", "share", False, "how far confidence is from accuracy, 15 bins"),
    Column("typos", "typos", "share", True, "accuracy with a typing error in every fifth longer word"),
    Column("missing_words", "gaps", "share", True, "accuracy without every fifth word"),
    Column("attribution", "reasons", "share", True, "rank correlation of word attributions with the teacher's"),
    Column("worst_class", "worst", "share", True, "share of the least recognised label's rows that are right"),
    Column("train_s", "made in", "seconds", False, "seconds of all steps, a seed"),
)


def _memory_figures(memory: PeakMemory) -> dict[str, float]:
    """Return what is kept of a process that ran a file."""
    return {"memory_bytes": float(memory.total_bytes), "idle_bytes": float(memory.idle_bytes)}


class Yardstick:
    """Takes the figures of compressed models of one lab; every model gets the same rows and the same noise."""

    def __init__(self, lab: Lab) -> None:
        """Choose the rows; nothing slow is done."""
        self._lab, self._seed = lab, lab.recipe.search.seed
        data = lab.prepared.data
        noisy = at_most(data.validation, NOISY_ROWS, self._seed)
        self._typos = with_typos(noisy, self._seed)
        self._gaps = without_words(noisy, self._seed)
        self._explained = explained_rows(lab.prepared.bundle.validation, self._seed)

    def judge(self, compressed: Compressed) -> dict[str, float]:
        """Return the figures that do not need a quiet machine, by the names of `COLUMNS`.

        Besides, ``worst_label`` is the position of the least recognised label.

        Raises:
            DivergedError: The file's answers are not finite.
        """
        data = self._lab.prepared.data
        logits, labels = self._answers(compressed, data.validation), data.validation.labels
        worst, recall = worst_class(logits, labels)
        figures = {
            "accuracy": accuracy(logits, data.validation),
            "agreement": agreement(logits, self.teacher_logits),
            "calibration_error": calibration_error(logits, labels),
            "worst_class": recall,
            "worst_label": float(worst),
            "typos": accuracy(self._answers(compressed, self._typos), self._typos),
            "missing_words": accuracy(self._answers(compressed, self._gaps), self._gaps),
            "attribution": self._attribution(compressed),
            "size_bytes": float(len(compressed.artefact)),
            "train_s": float(sum(compressed.seconds.values())),
        }
        if data.test is not None:
            figures["test_accuracy"] = accuracy(self._answers(compressed, data.test), data.test)
        return figures

    def measure(self, artefact: bytes) -> dict[str, float]:
        """Return latency, memory and compressed size of a file; nothing else should run meanwhile.

        Besides `COLUMNS`: ``low_ms`` to ``high_ms``, the 95 % interval of the median; ``speedup`` over the teacher's
        file in the same rounds, which took ``reference_ms``; ``idle_bytes``, what the process took before it loaded the
        file; ``contended`` and ``noisy``, 1 where the measurement is not to be trusted. A device whose memory cannot be
        known has none.
        """
        settings = self._lab.recipe.device
        workload = workload_of(settings, self._lab.prepared.n_tokens)
        timed = self._lab.device.measure([artefact], self._lab.reference, workload)[0]
        memory = self._lab.device.peak_memory(artefact, workload)
        assert timed.speedup is not None  # there is a reference
        assert timed.reference_ms is not None
        return {
            "latency_ms": timed.median_ms,
            "low_ms": timed.low_ms,
            "high_ms": timed.high_ms,
            "p95_ms": timed.p95_ms,
            "speedup": timed.speedup,
            "reference_ms": timed.reference_ms,
            "contended": float(timed.contended),
            "noisy": float(timed.noisy),
            "compressed_bytes": float(len(zlib.compress(artefact, ZLIB_LEVEL))),
            **({} if memory is None else _memory_figures(memory)),
        }

    @cached_property
    def teacher_logits(self) -> np.ndarray:
        """Return ``(n, labels)`` what the teacher's fp32 file says of the validation rows."""
        lab = self._lab
        return lab.device.predict(lab.reference, lab.prepared.bundle.validation, lab.recipe.device.batch)

    @cached_property
    def _teacher_attributions(self) -> list[np.ndarray]:
        """Return the attributions of the teacher's answers."""
        rows = self._lab.prepared.bundle.validation.subset(self._explained)
        teacher = self._lab.teacher
        return attributions(teacher, rows, self._targets, teacher.config.pad_token_id)

    @property
    def _targets(self) -> np.ndarray:
        """Return the teacher's answers to the rows that are explained."""
        answers: np.ndarray = self.teacher_logits[self._explained].argmax(axis=1)
        return answers

    def _attribution(self, compressed: Compressed) -> float:
        """Return how alike student and teacher rank the words of a row; 0 where no row can be compared.

        Where only the file was changed, the model is the teacher itself. A row that a smaller vocabulary spells with
        more pieces has no common words to rank, so it is left out.
        """
        if compressed.model is self._lab.teacher and len(self._explained):
            return 1.0
        rows = self._lab.prepared.bundle.validation.subset(self._explained)
        spelled = compressed.tokens(rows)
        same = np.flatnonzero(spelled.lengths == rows.lengths)
        if not len(same):
            return 0.0
        padding = compressed.model.config.pad_token_id
        found = attributions(compressed.model, spelled.subset(same), self._targets[same], padding)
        return attribution_agreement(found, [self._teacher_attributions[i] for i in same])

    def _answers(self, compressed: Compressed, split: Split) -> np.ndarray:
        """Return ``(n, labels)`` what a file says of texts, with the tokenizer that ships with it."""
        recipe = self._lab.recipe
        tokens = tokenize(compressed.tokenizer, split, recipe.data.max_length)
        return artefact_logits(self._lab.device, compressed.artefact, tokens, recipe.device.batch)
