"""What runs on a board: loads a model in ONNX Runtime, times it in turns with a reference, writes JSON.

It needs Python 3.11, numpy and onnxruntime there, and nothing of this project: `runner_archive` packs this file with
the few that it imports, the very ones that time calls on this machine, into one that Python runs::

    python3 prentice-runner.pyz --spec spec.json --model model.onnx --reference teacher.onnx --out answer.json

The specification is what `specification` returns, the answer what `nas.devices.answer` reads.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nas.devices.archive import archive
from nas.devices.base import Workload
from nas.devices.machine import machine
from nas.devices.memory import peak_bytes
from nas.devices.program import PROGRAMS, Program, RefusalError, filled
from nas.devices.timing import Mix, Patience, time_call

MODULES = (
    *(f"nas/{name}.py" for name in ("__init__", "devices/__init__")),
    *(
        f"nas/devices/{name}.py"
        for name in ("archive", "base", "board_runner", "machine", "memory", "program", "timing")
    ),
    "nas/devices/onnxruntime_program.py",
    *(f"search_spaces/{name}.py" for name in ("__init__", "errors", "registry", "seeding")),
)
RUNTIME = "onnxruntime"


def specification(workload: Workload, patience: Patience, threads: int, affinity: Sequence[int] | None) -> bytes:
    """Return what a board is to do, as JSON."""
    told = {"workload": asdict(workload), "patience": asdict(patience), "threads": threads, "affinity": affinity}
    return json.dumps(told).encode()


def runner_archive() -> bytes:
    """Return the runner as one file, which Python runs."""
    return archive(MODULES, "nas.devices.board_runner")


def main() -> None:
    """Do what the command line says; a refusal of the runtime is an answer, too."""
    parser = argparse.ArgumentParser(description="Times an ONNX model in ONNX Runtime, in turns with a reference.")
    for name, what in (("spec", "what to do, JSON"), ("model", "ONNX file"), ("out", "answer, JSON; - prints it")):
        parser.add_argument(f"--{name}", required=True, help=what)
    parser.add_argument("--reference", default="", help="ONNX file to compare with; empty: none")
    given = parser.parse_args()
    try:
        answer = _answer(json.loads(Path(given.spec).read_text()), given.model, given.reference)
    except RefusalError as error:
        answer = {"error": " ".join(str(error).split())[:500]}
    text = json.dumps(answer, allow_nan=False)
    sys.stdout.write(text) if given.out == "-" else Path(given.out).write_text(text)


def _answer(spec: dict[str, Any], model: str, reference: str) -> dict[str, Any]:
    """Return what was seen."""
    workload = Workload(**{**spec["workload"], "mix": tuple(map(tuple, spec["workload"]["mix"]))})
    patience = Patience.from_json(spec["patience"])
    processors = _pin(spec["threads"], spec["affinity"])
    load = PROGRAMS.load(RUNTIME)
    idle = peak_bytes()
    start = time.monotonic()
    program = load(Path(model).read_bytes(), spec["threads"], {})
    load_ms = (time.monotonic() - start) * 1e3
    calls = _calls(program, workload)
    for call, _ in calls:
        call()
    total = peak_bytes()
    other = _calls(load(Path(reference).read_bytes(), spec["threads"], {}), workload) if reference else None
    timing = time_call(calls, other, patience)
    return {
        **timing.to_json(),
        "load_ms": load_ms,
        "total_bytes": total,
        "idle_bytes": idle,
        "environment": {**machine(), "threads": str(spec["threads"]), "affinity": processors, "runtime": _version()},
    }


def _calls(program: Program, workload: Workload) -> Mix:
    """Return the calls that are timed; each has run once."""
    feeds = [(filled(program, workload, tokens), share) for tokens, share in workload.lengths]
    for feed, _ in feeds:
        program.run(feed)
    return [(program.call(feed), share) for feed, share in feeds]


def _pin(n_threads: int, affinity: Sequence[int] | None) -> str:
    """Stay on the processors named, else on the last ones, which have the fewest interrupts; return them in words."""
    if not hasattr(os, "sched_setaffinity"):
        return "not pinned"
    allowed = sorted(os.sched_getaffinity(0))
    if n_threads > len(allowed) or not set(affinity or ()) <= set(allowed):
        raise RefusalError(f"{n_threads} threads on processors {affinity or 'of its choice'}: it has {allowed}")
    chosen = list(affinity or allowed[-n_threads:])
    os.sched_setaffinity(0, chosen)
    return ",".join(map(str, chosen))


def _version() -> str:
    """Return the runtime with its version."""
    return f"{RUNTIME} {sys.modules[RUNTIME].__version__} CPUExecutionProvider"
