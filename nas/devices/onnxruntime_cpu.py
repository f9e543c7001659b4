"""The CPU of the machine that runs this code, with ONNX Runtime.

Knows sessions, threads and affinity; how a graph is written is `onnx_text_encoder`'s business, how calls are timed is
`timing`'s.
"""

import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import psutil
from onnxruntime.capi import onnxruntime_pybind11_state as refusal

from nas.data.tokens import Tokens, bucketed_batches
from nas.devices.base import Measurement, Workload
from nas.devices.onnx_text_encoder import build_onnx
from nas.devices.timing import QUICK, THOROUGH, Call, Timing, median_interval, time_call
from nas.recipe import DeviceSettings
from search_spaces.errors import DeviceError
from search_spaces.families.encoder_model import TextEncoder
from search_spaces.seeding import rng_for

REFUSALS = (
    refusal.Fail,
    refusal.InvalidArgument,
    refusal.InvalidGraph,
    refusal.InvalidProtobuf,
    refusal.NoModel,
    refusal.NotImplemented,
    refusal.RuntimeException,
)
FATAL_ONLY = 4  # what ONNX Runtime may print itself; refusals reach the user as errors
VOCABULARY = 16  # ids to draw from for a file that does not say how many it has


class OnnxRuntimeCpu:
    """Runs artefacts on this machine's processor, ``settings.threads`` threads, one processor each while measuring."""

    name = "cpu"

    def __init__(self, settings: DeviceSettings) -> None:
        """Keep the settings."""
        self._settings = settings
        self._processors: tuple[int, ...] = ()

    def environment(self) -> dict[str, str]:
        """Return processor, threads, affinity, governor, runtime and system, as they were for the last measurement."""
        processors = ",".join(str(processor) for processor in self._processors)
        return {
            "processor": _processor_name(),
            "processors": str(os.cpu_count()),
            "threads": str(self._settings.threads),
            "affinity": processors or "not pinned",
            "governor": _first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            "runtime": f"onnxruntime {onnxruntime.__version__} CPUExecutionProvider",
            "system": platform.platform(),
            "python": platform.python_version(),
        }

    def export(self, model: TextEncoder) -> bytes:
        """Return the model as an ONNX file, float32."""
        return build_onnx(model)

    def measure(
        self, artefacts: Sequence[bytes], reference: bytes | None, workload: Workload, quick: bool = False
    ) -> list[Measurement]:
        """Return one measurement for each artefact, each in turns with the reference, pinned to idle processors.

        Args:
            artefacts: ONNX files.
            reference: ONNX file they are compared with.
            workload: Shape of one call; its ids are random but always the same.
            quick: Settle for a 95 % interval of +-4 % instead of +-2 %.

        Raises:
            DeviceError: ONNX Runtime refuses a file, or the machine has fewer processors than ``settings.threads``.
        """
        patience = QUICK if quick else THOROUGH
        with self._pinned():
            other = None if reference is None else self._call(self._load(reference), workload)
            measurements = []
            for artefact in artefacts:
                start = time.monotonic()
                session = self._load(artefact)
                load_ms = (time.monotonic() - start) * 1e3
                timing = time_call(self._call(session, workload), other, patience)
                measurements.append(_measurement(timing, patience.width, load_ms, len(artefact)))
        return measurements

    def predict(self, artefact: bytes, tokens: Tokens, batch: int) -> np.ndarray:
        """Return ``(n, n_labels)`` float32 logits, rows as in ``tokens``.

        Rows of a call have equal length, so nothing is padded; a smaller batch than production's may be used for the
        last rows of a length. int8 activations are scaled per call, so ``batch`` can change the last digits.

        Args:
            artefact: ONNX file.
            tokens: ``n`` rows.
            batch: Rows of a call at most.

        Raises:
            DeviceError: ONNX Runtime refuses the file or an input.
        """
        session = self._load(artefact)
        logits = np.empty((len(tokens), session.get_outputs()[0].shape[1]), np.float32)
        for rows, feed in _feeds(session, tokens, batch):
            logits[rows] = self._run(session, feed)[0]
        return logits

    def outputs(self, artefact: bytes, tokens: Tokens, batch: int) -> Iterator[Mapping[str, np.ndarray]]:
        """Yield all outputs by name, call by call, in the order of the rows' lengths.

        Args:
            artefact: ONNX file.
            tokens: Rows; those of a call have equal length.
            batch: Rows of a call at most.

        Raises:
            DeviceError: ONNX Runtime refuses the file or an input.
        """
        session = self._load(artefact)
        names = [output.name for output in session.get_outputs()]
        for _, feed in _feeds(session, tokens, batch):
            yield dict(zip(names, self._run(session, feed), strict=True))

    def _load(self, artefact: bytes) -> onnxruntime.InferenceSession:
        """Return a session on the file."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._settings.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = FATAL_ONLY
        try:
            return onnxruntime.InferenceSession(artefact, options, providers=["CPUExecutionProvider"])
        except REFUSALS as error:
            raise self._refused(f"{len(artefact)} bytes are no model it can run", error) from error

    def _call(self, session: onnxruntime.InferenceSession, workload: Workload) -> Call:
        """Return the call that is timed; it has run once, so it will not be refused later."""
        vocabulary = int(session.get_modelmeta().custom_metadata_map.get("vocab_size", VOCABULARY))
        shape = (workload.batch, workload.tokens)
        ids = rng_for(0, "workload", *shape).integers(0, vocabulary, shape)
        feed = _feed(session, ids, np.zeros(shape))
        self._run(session, feed)
        return lambda: session.run(None, feed)

    def _run(self, session: onnxruntime.InferenceSession, feed: dict[str, np.ndarray]) -> Any:
        """Return the outputs of one call."""
        try:
            return session.run(None, feed)
        except REFUSALS as error:
            shape = "x".join(str(size) for size in feed["input_ids"].shape)
            raise self._refused(f"an input of {shape} tokens failed", error) from error

    def _refused(self, what: str, error: Exception) -> DeviceError:
        """Return ONNX Runtime's refusal as one line."""
        reason = " ".join(str(error).split())[:300]
        return DeviceError(f"device {self.name!r}: {what}; ONNX Runtime says: {reason}")

    @contextmanager
    def _pinned(self) -> Iterator[None]:
        """Keep this thread, and the threads its sessions start, on the idlest processors; restore afterwards."""
        if not hasattr(os, "sched_setaffinity"):
            yield
            return
        allowed = os.sched_getaffinity(0)
        if self._settings.threads > len(allowed):
            raise DeviceError(
                f"device {self.name!r}: {self._settings.threads} threads; this process may use {len(allowed)} "
                "processors. Lower device.threads."
            )
        busy = psutil.cpu_percent(interval=0.05, percpu=True)
        self._processors = tuple(sorted(sorted(allowed, key=lambda each: busy[each])[: self._settings.threads]))
        os.sched_setaffinity(0, self._processors)
        try:
            yield
        finally:
            os.sched_setaffinity(0, allowed)


def _feed(session: onnxruntime.InferenceSession, ids: np.ndarray, types: np.ndarray) -> dict[str, np.ndarray]:
    """Return the inputs the session wants, of ``(rows, tokens)`` ids without padding."""
    given = {"input_ids": ids, "attention_mask": np.ones(ids.shape), "token_type_ids": types}
    return {wanted.name: given[wanted.name].astype(np.int64) for wanted in session.get_inputs()}


def _feeds(
    session: onnxruntime.InferenceSession, tokens: Tokens, batch: int
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Yield the rows of each call and its inputs; rows of a call have equal length."""
    lengths = tokens.lengths
    for length in np.unique(lengths):
        alike = np.flatnonzero(lengths == length)
        for part in bucketed_batches(lengths[alike], batch, None):
            rows = alike[part]
            picks = tokens.offsets[rows][:, None] + np.arange(length)
            yield rows, _feed(session, tokens.ids[picks], tokens.types[picks])


def _measurement(timing: Timing, width: float, load_ms: float, size_bytes: int) -> Measurement:
    """Return a timing as the measurement of one artefact."""
    low, high = median_interval(timing.medians_ms)
    has_reference = len(timing.reference_ms) > 0
    return Measurement(
        median_ms=float(np.median(timing.medians_ms)),
        p95_ms=float(np.percentile(timing.calls_ms, 95)),
        low_ms=low,
        high_ms=high,
        n=len(timing.calls_ms),
        reference_ms=float(np.median(timing.reference_ms)) if has_reference else None,
        speedup=float(np.median(timing.reference_ms / timing.medians_ms)) if has_reference else None,
        contended=timing.is_contended,
        noisy=timing.width > width,
        load_ms=load_ms,
        size_bytes=size_bytes,
    )


def _processor_name() -> str:
    """Return the processor's model name where Linux tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _first_line(path: str) -> str:
    """Return what a system file says; ``unknown`` where there is no such file."""
    file = Path(path)
    return file.read_text().strip() if file.exists() else "unknown"
