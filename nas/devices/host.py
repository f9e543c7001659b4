"""What all runtimes on this machine share: loading, pinning, taking turns with a reference, answering token rows.

A runtime is a `Program` and a class that says how a model is exported for it. How calls are timed is `timing`'s
business.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel

from nas.data.tokens import Tokens, bucketed_batches
from nas.devices.base import Format, Measurement, Origin, PeakMemory, Workload
from nas.devices.energy import energy_mj, gpu_energy_mj, mean_mj
from nas.devices.machine import machine
from nas.devices.measured import measurement_of
from nas.devices.memory import peak_memory
from nas.devices.pinning import pinned
from nas.devices.program import PROGRAMS, Feed, Program, RefusalError, filled, text_feed
from nas.devices.settings import checked_options
from nas.devices.timing import QUICK, THOROUGH, Call, Mix, Patience, time_calls
from nas.recipe import DeviceSettings, Section
from search_spaces.errors import ConfigError, DeviceError, MissingDependencyError
from search_spaces.families.encoder_model import TextEncoder

MOST_TOGETHER, BYTES_TOGETHER = 16, 400_000_000  # files, and their bytes, that are loaded at once to take turns


class HostDevice:
    """Runs artefacts on this machine, ``settings.threads`` threads, one processor each while measuring.

    Attributes:
        runtime: Row of `PROGRAMS`.
        title: What the runtime is called.
    """

    suits: ClassVar[str]
    origin: ClassVar[Origin] = "measured"
    options_model: ClassVar[type[BaseModel]] = Section
    is_fresh: ClassVar[bool] = False
    runtime: ClassVar[str]
    title: ClassVar[str]
    format: Format

    def __init__(self, settings: DeviceSettings) -> None:
        """Keep the settings.

        Raises:
            ConfigError: An option is unknown or has a value that is not allowed.
        """
        self.name = settings.name
        self._settings = settings
        self.options: Any = checked_options(settings, self.options_model)
        self._processors: tuple[int, ...] = ()

    @classmethod
    def why_not(cls) -> str | None:
        """Return None: what the project itself needs is there."""
        return None

    def check(self) -> None:
        """Refuse a runtime that is not installed, more threads than processors, and processors that are not there.

        Raises:
            ConfigError: This process may use fewer processors, or others.
            MissingDependencyError: The message says what to install.
        """
        self._check_installed()
        if not hasattr(os, "sched_getaffinity"):
            return
        n_threads, allowed = self._settings.threads, os.sched_getaffinity(0)
        if n_threads > len(allowed):
            raise ConfigError(
                f"device.threads: {n_threads} is more than the {len(allowed)} processors that this process may use; "
                "choose fewer, or measure on a cluster's machine with --address."
            )
        if missing := sorted(set(self._settings.affinity or ()) - allowed):
            raise ConfigError(
                f"device.affinity: processor {missing[0]} is not one that this process may use; choose among "
                f"{', '.join(map(str, sorted(allowed)))}."
            )

    def export(self, model: TextEncoder) -> bytes:
        """Return the artefact of a model, float32."""
        raise NotImplementedError

    @property
    def gpu(self) -> int | None:
        """Return CUDA's number of the GPU that computes, None for the processor."""
        return None

    @property
    def _note(self) -> dict[str, str]:
        """Return the user's note, if there is one."""
        return {"note": self._settings.note} if self._settings.note else {}

    @property
    def threads(self) -> int:
        """Return the threads of the runtime on this machine."""
        return self._settings.threads

    @property
    def most_together(self) -> int:
        """Return how many files are loaded at once to take turns."""
        return MOST_TOGETHER

    def version(self) -> str:
        """Return the runtime with its version and what of it is used."""
        raise NotImplementedError

    def running(self) -> AbstractContextManager[object]:
        """Return what holds while the runtime works: threads that are set here are as before afterwards."""
        return nullcontext()

    def environment(self) -> dict[str, str]:
        """Return machine, threads, affinity and runtime, as they were for the last measurement."""
        processors = ",".join(str(processor) for processor in self._processors)
        return {
            **machine(),
            "threads": str(self._settings.threads),
            "affinity": processors or "not pinned",
            "runtime": self.version(),
            **self._note,
        }

    def measure(
        self, artefacts: Sequence[bytes], reference: bytes | None, workload: Workload, quick: bool = False
    ) -> list[Measurement]:
        """Return one measurement for each artefact, in turns with each other and the reference, on idle processors.

        Sixteen files at most, or 400 MB of them, take turns; more are measured after them.

        Args:
            artefacts: What `export` returned, or a compressor made of it.
            reference: Artefact they are compared with.
            workload: Shape of one call; its ids are random but always the same.
            quick: Settle for a 95 % interval of +-4 % instead of +-2 %.

        Raises:
            DeviceError: The runtime refuses a file, or the machine has fewer processors than ``settings.threads``.
        """
        patience, settings = QUICK if quick else THOROUGH, self._settings
        with pinned(self.name, settings.threads, settings.affinity) as self._processors, self.running():
            other = None if reference is None else self._calls(self._load(reference), workload)
            measurements: list[Measurement] = []
            for some in _together(artefacts, self.most_together):
                measurements += self._measure(some, other, workload, patience)
        return measurements

    def _measure(
        self, artefacts: Sequence[bytes], reference: Mix | None, workload: Workload, patience: Patience
    ) -> list[Measurement]:
        """Return the measurements of some artefacts that are loaded together and take turns."""
        calls, loads_ms = [], []
        for artefact in artefacts:
            start = time.monotonic()
            program = self._load(artefact)
            loads_ms.append((time.monotonic() - start) * 1e3)
            calls.append(self._calls(program, workload))
        timings = time_calls(calls, reference, patience)
        return [
            measurement_of(timing, patience.width, load_ms, len(artefact))
            for timing, load_ms, artefact in zip(timings, loads_ms, artefacts, strict=True)
        ]

    def peak_memory(self, artefact: bytes, workload: Workload) -> PeakMemory | None:
        """Return the memory of a fresh process that loads and runs the artefact.

        Raises:
            DeviceError: The process failed, or took longer than two minutes.
        """
        options = self.options.model_dump(mode="json")
        return peak_memory(artefact, workload, self._settings.threads, self.runtime, options)

    def rows(self, artefact: bytes, workload: Workload) -> int:
        """Return how many rows a call of this workload has: the first axis of its first input.

        Raises:
            DeviceError: The runtime refuses the file, or its inputs cannot be filled.
        """
        program = self._load(artefact)
        feed = self._filled(program, workload, workload.tokens)
        return int(next(iter(feed.values())).shape[0])

    def energy_mj(self, artefact: bytes, workload: Workload) -> float | None:
        """Return the energy of one call in mJ, of the processor or the GPU that computes; of a mix the mean.

        It is None where this machine does not tell.

        Raises:
            DeviceError: The runtime refuses the file.
        """
        with pinned(self.name, self._settings.threads, self._settings.affinity), self.running():
            calls = self._calls(self._load(artefact), workload)
            spent = [(self._spent_mj(call), share) for call, share in calls]
        return mean_mj(spent)

    def predict(self, artefact: bytes, tokens: Tokens, batch: int) -> np.ndarray:
        """Return ``(n, n_labels)`` float32 logits, rows as in ``tokens``.

        Rows of a call have equal length, so nothing is padded; a smaller batch than production's may be used for the
        last rows of a length. int8 activations are scaled per call, so ``batch`` can change the last digits.

        Args:
            artefact: What `export` returned, or a compressor made of it.
            tokens: ``n`` rows.
            batch: Rows of a call at most.

        Raises:
            DeviceError: The runtime refuses the file or an input.
        """
        with self.running():
            program = self._load(artefact)
            logits = np.empty((len(tokens), program.outputs[0].shape[1] or 0), np.float32)
            for rows, feed in self._feeds(program, tokens, batch):
                logits[rows] = self._run(program, feed)[0]
        return logits

    def outputs(self, artefact: bytes, tokens: Tokens, batch: int) -> Iterator[Mapping[str, np.ndarray]]:
        """Yield all outputs by name, call by call, in the order of the rows' lengths.

        Args:
            artefact: What `export` returned, or a compressor made of it.
            tokens: Rows; those of a call have equal length.
            batch: Rows of a call at most.

        Raises:
            DeviceError: The runtime refuses the file or an input.
        """
        program = self._load(artefact)
        names = [port.name for port in program.outputs]
        for _, feed in self._feeds(program, tokens, batch):
            with self.running():
                said = self._run(program, feed)
            yield dict(zip(names, said, strict=True))

    def _spent_mj(self, call: Call) -> float | None:
        """Return the energy of one call."""
        return energy_mj(call) if self.gpu is None else gpu_energy_mj(call, self.gpu)

    def _check_installed(self) -> None:
        """Refuse a runtime that is not installed."""
        if (why := self.why_not()) is not None:
            raise MissingDependencyError(f"device {self.name!r}: {why}")

    def _load(self, artefact: bytes) -> Program:
        """Return the artefact in its runtime."""
        self._check_installed()
        try:
            program: Program = PROGRAMS.load(self.runtime)(artefact, self.threads, self.options.model_dump())
        except RefusalError as error:
            raise self._refused(f"{len(artefact)} bytes are no model it can run", error) from error
        return program

    def _filled(self, program: Program, workload: Workload, tokens: int) -> Feed:
        """Return the inputs of a call with rows of one length."""
        try:
            return filled(program, workload, tokens)
        except RefusalError as error:
            raise self._refused("its inputs cannot be filled", error) from error

    def _calls(self, program: Program, workload: Workload) -> Mix:
        """Return the calls that are timed."""
        return [(program.call(feed), share) for feed, share in self._accepted(program, workload)]

    def _accepted(self, program: Program, workload: Workload) -> Iterator[tuple[Feed, float]]:
        """Yield the inputs of each call with its share; each has run once, so it will not be refused later."""
        for tokens, share in workload.lengths:
            feed = self._filled(program, workload, tokens)
            self._run(program, feed)
            yield feed, share

    def _feeds(self, program: Program, tokens: Tokens, batch: int) -> Iterator[tuple[np.ndarray, Feed]]:
        """Yield the rows of each call and its inputs; rows of a call have equal length."""
        lengths = tokens.lengths
        for length in np.unique(lengths):
            alike = np.flatnonzero(lengths == length)
            for part in bucketed_batches(lengths[alike], batch, None):
                rows = alike[part]
                picks = tokens.offsets[rows][:, None] + np.arange(length)
                try:
                    feed = text_feed(program, tokens.ids[picks], tokens.types[picks])
                except RefusalError as error:
                    raise self._refused("no text can be given to the model", error) from error
                yield rows, feed

    def _run(self, program: Program, feed: Feed) -> list[np.ndarray]:
        """Return the outputs of one call."""
        try:
            return program.run(feed)
        except RefusalError as error:
            shape = "x".join(str(size) for size in next(iter(feed.values())).shape)
            what = f"{shape} tokens" if "input_ids" in feed else f"shape {shape}"
            raise self._refused(f"an input of {what} failed", error) from error

    def _refused(self, what: str, error: RefusalError) -> DeviceError:
        """Return the runtime's refusal as one line."""
        reason = " ".join(str(error).split())[:300]
        return DeviceError(f"device {self.name!r}: {what}; {self.title} says: {reason}")


def _together(artefacts: Sequence[bytes], most: int) -> Iterator[Sequence[bytes]]:
    """Yield artefacts that are loaded and timed at once, in their order: so many at most, and not too many bytes."""
    some: list[bytes] = []
    for artefact in artefacts:
        if some and (len(some) == most or sum(map(len, some)) + len(artefact) > BYTES_TOGETHER):
            yield some
            some = []
        some.append(artefact)
    if some:
        yield some
