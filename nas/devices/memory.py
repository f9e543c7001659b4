"""The memory of a process that does nothing but load an artefact and run it: measured in a fresh process.

Run as a program, this file is that process: ``python -m nas.devices.memory MODEL THREADS ROWS TOKENS``.
"""

import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from nas.devices.base import Workload
from search_spaces.errors import DeviceError
from search_spaces.seeding import rng_for

RUNS = 10
TIMEOUT_S = 120.0
VOCABULARY = 1000  # ids of the calls when the model does not say how many words it has
STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class PeakMemory:
    """Resident memory of the process at its peak.

    Attributes:
        total_bytes: With the model loaded and run.
        idle_bytes: Before: Python, numpy and ONNX Runtime, which a service in another language would not need.
    """

    total_bytes: int
    idle_bytes: int


def peak_memory(artefact: bytes, workload: Workload, threads: int) -> PeakMemory:
    """Return the peak memory of a fresh process that loads an ONNX file and runs it ten times on the processor.

    Args:
        artefact: ONNX file.
        workload: Shape of one call.
        threads: Of the runtime.

    Raises:
        DeviceError: The process failed, or took longer than two minutes.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(artefact)
        numbers = (str(number) for number in (threads, workload.batch, workload.tokens))
        command = [sys.executable, "-m", __name__, str(path), *numbers]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, cwd=_root())
        except subprocess.TimeoutExpired:
            raise DeviceError(
                f"peak memory: {len(artefact)} bytes of model did not run within {TIMEOUT_S:g} s; "
                "wait until the machine is less busy."
            ) from None
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
        raise DeviceError(f"peak memory: the process ended with code {ended.returncode}: {last[:300]}")
    return PeakMemory(**json.loads(ended.stdout))


def _root() -> Path:
    """Return the folder that this package is imported from."""
    return Path(__file__).parents[2]


def _peak_bytes() -> int:
    """Return the peak of this process.

    What ``getrusage`` says on Linux is at least what the parent had when it started this process, a gigabyte with
    torch in it; ``VmHWM`` is of this program alone.
    """
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _measure(path: str, threads: int, shape: tuple[int, int]) -> dict[str, int]:
    """Load and run a model in this process; return its peaks."""
    idle = _peak_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    vocabulary = int(session.get_modelmeta().custom_metadata_map.get("vocab_size", VOCABULARY))
    given = {
        "input_ids": rng_for(0, "memory").integers(0, vocabulary, shape),
        "attention_mask": np.ones(shape, np.int64),
        "token_type_ids": np.zeros(shape, np.int64),
    }
    feed = {wanted.name: given[wanted.name].astype(np.int64) for wanted in session.get_inputs()}
    for _ in range(RUNS):
        session.run(None, feed)
    return {"total_bytes": _peak_bytes(), "idle_bytes": idle}


if __name__ == "__main__":
    model, *numbers = sys.argv[1:]
    n_threads, n_rows, n_tokens = map(int, numbers)
    sys.stdout.write(json.dumps(_measure(model, n_threads, (n_rows, n_tokens))))
