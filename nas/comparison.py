"""The comparison of methods: every one is tried with every seed, judged, measured; what is finished is kept in files.

A kept result is used again only if it was made of the same steps, teacher, data, budget and seed. Knows the lab and
the yardstick; not terminals, not reports.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from compressors.steps import Step, check_order, check_standalone, prefix_key
from nas import __version__
from nas.calm import calm_reference_ms
from nas.compared import Row, make_row
from nas.findings import Findings
from nas.lab import Compressed, Lab, compress_model
from nas.methods import METHODS, SEARCHED, TEACHER, Method
from nas.progress import Snapshot
from nas.yardstick import Yardstick
from search_spaces.errors import NasError
from search_spaces.registry import unknown_name


def choose(names: Sequence[str]) -> tuple[str, ...]:
    """Return the methods of these names in the order of the table, always with the teacher; all for no name.

    Raises:
        ConfigError: A name is unknown; the message lists the known ones.
    """
    for name in names:
        if name not in METHODS:
            raise unknown_name("--methods", name, list(METHODS))
    return tuple(name for name in METHODS if not names or name == TEACHER or name in names)


def steps_of(method: Method, n_layers: int) -> tuple[Step, ...]:
    """Return the steps of a method for a teacher of so many layers, in a possible order; none for the teacher itself.

    Raises:
        ConfigError: A step is unknown, or the order is impossible.
    """
    steps = tuple(Step.parse(text.format(half=max(1, n_layers // 2))) for text in method.steps)
    if steps:
        check_order(steps)
        check_standalone(steps)
    return steps


class Comparison:
    """One comparison in one folder; may be run again after any interruption, also with more methods or seeds."""

    def __init__(self, lab: Lab, folder: Path, names: Sequence[str], n_seeds: int) -> None:
        """Check everything that can be checked before the slow part.

        Args:
            lab: Teacher, data, device, budget.
            folder: Keeps the results; made when missing.
            names: Of methods, see `choose`; students of a search are not made by `run` but handed to `keep`.
            n_seeds: Times a method is tried; one that gives the same file with another seed is judged once.

        Raises:
            ConfigError: A method's steps are unknown or in an impossible order.
        """
        self.lab, self.names, self.n_seeds = lab, tuple(names), n_seeds
        self.steps = {name: steps_of(METHODS[name], lab.teacher.config.depth) for name in self.names}
        self.yardstick, self.findings = Yardstick(lab), Findings(folder)
        self.failures: dict[str, str] = {}

    def run(self) -> None:
        """Make and judge every method but a search with every seed; say what came out and how long is left."""
        jobs = self._jobs()
        waiting = [job for job in jobs if self._result(*job) is None]
        if len(waiting) < len(jobs):
            self.lab.progress.say(f"compare: {len(jobs) - len(waiting)} of {len(jobs)} runs are kept from before")
        began = time.monotonic()
        for done, (name, seed) in enumerate(waiting, start=1):
            if name not in self.failures:
                self._try(name, seed, f"{name}, seed {seed + 1} of {self.n_seeds} (run {done} of {len(waiting)})")
            if done < len(waiting):
                left_s = (time.monotonic() - began) / done * (len(waiting) - done)
                self.lab.progress.say(f"compare: {done} of {len(waiting)} runs, about {_in_words(left_s)} left")

    def keep(self, name: str, seed: int, compressed: Compressed, over_seeds: Mapping[str, Any] | None = None) -> None:
        """Judge one student and keep what was found.

        Args:
            name: Of the method.
            seed: That it was made with.
            compressed: The student.
            over_seeds: ``mean`` and ``sd`` of figures, and ``n``, where other seeds were judged elsewhere.
        """
        twin = self._twin(name, seed, compressed.artefact)
        figures = twin or self.yardstick.judge(compressed)
        told: dict[str, Any] = {"figures": figures, "over_seeds": over_seeds}
        told |= {"reports": [report.to_json() for report in compressed.reports]}
        self.findings.keep(name, seed, self._key(name, seed), compressed.artefact, told)
        said = "the same file as with another seed" if twin else f"{figures['size_bytes'] / 1e6:.1f} MB"
        self.lab.progress.say(f"{name}, seed {seed + 1}: accuracy {figures['accuracy']:.3f}, {said}")

    def measure(self) -> None:
        """Measure the first seed's file of every method, one after the other; nothing else should run.

        Once more where the teacher's file took longer beside it than beside others: something disturbed both.
        """
        found = [name for name in self.names if self._result(name, 0) is not None]
        self._measure([name for name in found if self._measurement(name) is None], len(found))
        beside = {name: figures["reference_ms"] for name in found if (figures := self._measurement(name))}
        longest = calm_reference_ms(list(beside.values())) if beside else 0.0
        self._measure([name for name, reference_ms in beside.items() if reference_ms > longest], len(found))

    def _measure(self, names: Sequence[str], n_all: int) -> None:
        """Measure the files of some methods, and keep what was measured beside the quicker reference."""
        for done, name in enumerate(names, start=n_all - len(names)):
            self.lab.progress.show(Snapshot("measure", done, n_all))
            before, now = self._measurement(name), self.yardstick.measure(self.findings.artefact(name, 0).read_bytes())
            if before is None or now["reference_ms"] < before["reference_ms"]:
                self.findings.keep_measurement(name, self._file_key(name), now)

    def rows(self) -> list[Row]:
        """Return one row for each method, in the order of the table; what was not measured counts as failed."""
        teacher = self._result(TEACHER, 0)
        return [self._row(name, teacher["figures"] if teacher else {}) for name in self.names]

    def seconds(self) -> float:
        """Return how long all methods but a search took to make their students, all seeds together."""
        kept = [result for job in self._jobs() if (result := self._result(*job)) is not None]
        return float(sum(result["figures"]["train_s"] for result in kept))

    def _jobs(self) -> list[tuple[str, int]]:
        """Return every method but a search with every seed; the teacher has none."""
        made = (name for name in self.names if name not in SEARCHED)
        return [(name, seed) for name in made for seed in range(self.n_seeds if self.steps[name] else 1)]

    def _try(self, name: str, seed: int, label: str) -> None:
        """Make and judge one student; a method that cannot do it is left out, and that is said."""
        progress = self.lab.progress
        progress.show(Snapshot(label))
        try:
            lab, steps = self._lab_of(METHODS[name]), self.steps[name]
            shown = lambda done, total: progress.show(Snapshot(label, done, total))  # noqa: E731
            self.keep(name, seed, compress_model(lab, steps, seed, shown))
        except NasError as error:
            self.failures[name] = str(error)
            progress.warn(f"{name}: left out, {error}")

    def _lab_of(self, method: Method) -> Lab:
        """Return the lab with the method's own learning rate; rows and passes are the same for all."""
        if method.lr is None:
            return self.lab
        return replace(self.lab, train=self.lab.train.model_copy(update={"lr": method.lr}))

    def _row(self, name: str, teacher: Mapping[str, float]) -> Row:
        """Return what is known of a method."""
        kept = [self._result(name, seed) for seed in range(self.n_seeds)]
        results = [result for result in kept if result is not None]
        measured = self._measurement(name) if results else None
        if measured is None:
            return Row(name, METHODS[name].title, remarks=(f"failed: {self.failures.get(name, 'not measured')}",))
        return make_row(METHODS[name], results, measured, teacher, self.findings.artefact(name, 0))

    def _result(self, name: str, seed: int) -> dict[str, Any] | None:
        """Return what is kept of a method and seed."""
        return self.findings.result(name, seed, self._key(name, seed))

    def _measurement(self, name: str) -> dict[str, float] | None:
        """Return the measurement that is kept of a method's first file."""
        return self.findings.measurement(name, self._file_key(name))

    def _twin(self, name: str, seed: int, artefact: bytes) -> dict[str, float] | None:
        """Return the figures of an earlier seed that gave the very same file."""
        for other in range(seed):
            told = self._result(name, other)
            if told is not None and self.findings.artefact(name, other).read_bytes() == artefact:
                return dict(told["figures"])
        return None

    def _key(self, name: str, seed: int) -> str:
        """Return what a result depends on, as a hash."""
        lab = self.lab
        basis = {
            "version": __version__,
            "teacher": lab.prepared.teacher.fingerprint,
            "data": lab.prepared.data.fingerprint,
            "max_length": lab.recipe.data.max_length,
            "train": self._lab_of(METHODS[name]).train.model_dump(mode="json"),
            "device": lab.recipe.device.model_dump(mode="json"),
            "seed": seed,
        }
        return prefix_key(self.steps[name], basis)

    def _file_key(self, name: str) -> str:
        """Return what a measurement depends on: the file and the calls, as a hash."""
        calls = f"{self.lab.recipe.device.model_dump_json()} {self.lab.prepared.n_tokens}"
        return hashlib.sha256(self.findings.artefact(name, 0).read_bytes() + calls.encode()).hexdigest()


def _in_words(seconds: float) -> str:
    """Return a time for people, e.g. ``45 s``, ``12 min``."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
