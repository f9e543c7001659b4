"""The memory of a process that does nothing but load an artefact and run it: measured in a fresh process.

Run as a program, this file is that process: ``python -m nas.devices.memory MODEL CALLS``, ``CALLS`` in JSON.
"""

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nas.devices.base import PeakMemory, Workload
from nas.devices.program import PROGRAMS, Program, filled
from search_spaces.errors import DeviceError

RUNS = 10
TIMEOUT_S = 120.0
STATUS = Path("/proc/self/status")


def peak_memory(
    artefact: bytes,
    workload: Workload,
    threads: int,
    runtime: str = "onnxruntime",
    options: Mapping[str, Any] | None = None,
) -> PeakMemory:
    """Return the peak memory of a fresh process that loads an artefact and runs it ten times.

    Args:
        artefact: What the runtime loads.
        workload: Shape of one call.
        threads: Of the runtime.
        runtime: Row of `PROGRAMS`.
        options: Of the backend, as JSON values.

    Raises:
        DeviceError: The process failed, or took longer than two minutes.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        path.write_bytes(artefact)
        calls = {"runtime": runtime, "threads": threads, "options": dict(options or {}), "workload": asdict(workload)}
        command = [sys.executable, "-m", __name__, str(path), json.dumps(calls)]
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


def peak_bytes() -> int:
    """Return the peak of this process.

    What ``getrusage`` says on Linux is at least what the parent had when it started this process, a gigabyte with
    torch in it; ``VmHWM`` is of this program alone.
    """
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _measure(path: str, calls: Mapping[str, Any]) -> dict[str, int]:
    """Load and run a model in this process; return its peaks."""
    load = PROGRAMS.load(calls["runtime"])  # imports the runtime
    idle = peak_bytes()
    program: Program = load(Path(path).read_bytes(), calls["threads"], calls["options"])
    workload = Workload(**calls["workload"])
    for tokens, _ in workload.lengths:
        call = program.call(filled(program, workload, tokens))
        for _ in range(RUNS):
            call()
    return {"total_bytes": peak_bytes(), "idle_bytes": idle}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_measure(sys.argv[1], json.loads(sys.argv[2]))))
