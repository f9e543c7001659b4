"""What runs in another Python: it converts models, loads artefacts, answers, and times calls, one request at a time.

Runtimes are imported here, never by who asks; calls are timed here, so no message lies between two of them. It ends
when nobody can ask any more. Knows programs and clocks; what is asked, and by whom, is `elsewhere`'s business.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

from nas.devices.energy import energy_mj
from nas.devices.memory import peak_bytes
from nas.devices.messages import Message, receive, send, to_arrays, to_files
from nas.devices.program import PROGRAMS, Port, Program, RefusalError
from nas.devices.timing import Call, Mix, Patience, time_call
from search_spaces.registry import Table

EXPORTERS = Table(
    "exporter",
    {
        "executorch": "nas.devices.executorch_export:export",
        "litert": "nas.devices.litert_export:export",
    },
)
"""Functions from a safetensors file of `compressors.torch_file` and options to an artefact."""


class Worker:
    """The artefacts and calls of this process, by number."""

    def __init__(self, runtime: str) -> None:
        """Begin with nothing; ``runtime`` is a row of `PROGRAMS`."""
        self._runtime = runtime
        self._programs: list[Program] = []
        self._calls: list[Call] = []

    def answer(self, told: dict[str, Any], files: list[bytes]) -> Message:
        """Return the answer to one request, or why the runtime refuses it."""
        try:
            return REQUESTS[told["do"]](self, told, files)
        except RefusalError as error:
            return {"refused": str(error)}, []

    def export(self, told: dict[str, Any], files: list[bytes]) -> Message:
        """Return the artefact of a model."""
        return {}, [EXPORTERS.load(self._runtime)(files[0], told["options"])]

    def peak(self, _told: dict[str, Any], _files: list[bytes]) -> Message:
        """Return the peak memory so far, with the runtime imported."""
        PROGRAMS.load(self._runtime)
        return {"bytes": peak_bytes()}, []

    def load(self, told: dict[str, Any], files: list[bytes]) -> Message:
        """Load an artefact; return its number, its inputs and outputs, and how long it took."""
        load = PROGRAMS.load(self._runtime)  # imports the runtime
        start = time.monotonic()
        program: Program = load(files[0], told["threads"], told["options"])
        load_ms = (time.monotonic() - start) * 1e3
        self._programs.append(program)
        inputs, outputs = ([_described(port) for port in ports] for ports in (program.inputs, program.outputs))
        known = {"inputs": inputs, "outputs": outputs, "vocabulary": program.vocabulary, "load_ms": load_ms}
        return {"program": len(self._programs) - 1, **known}, []

    def run(self, told: dict[str, Any], files: list[bytes]) -> Message:
        """Return the outputs of one call."""
        feed = dict(zip(told["inputs"], to_arrays(files), strict=True))
        return {}, to_files(self._programs[told["program"]].run(feed))

    def prepare(self, told: dict[str, Any], files: list[bytes]) -> Message:
        """Keep a call that will be timed; return its number."""
        feed = dict(zip(told["inputs"], to_arrays(files), strict=True))
        self._calls.append(self._programs[told["program"]].call(feed))
        return {"call": len(self._calls) - 1}, []

    def time(self, told: dict[str, Any], _files: list[bytes]) -> Message:
        """Return how long calls take, in turns with those of a reference."""
        candidate, reference = (self._mix(told[name]) for name in ("candidate", "reference"))
        return time_call(candidate, reference or None, Patience.from_json(told["patience"])).to_json(), []

    def energy(self, told: dict[str, Any], _files: list[bytes]) -> Message:
        """Return the energy of one call."""
        return {"mj": energy_mj(self._calls[told["call"]])}, []

    def _mix(self, numbers: list[tuple[int, float]]) -> Mix:
        """Return calls with their shares."""
        return [(self._calls[number], share) for number, share in numbers]


REQUESTS: dict[str, Callable[[Worker, dict[str, Any], list[bytes]], Message]] = {
    "export": Worker.export,
    "peak": Worker.peak,
    "load": Worker.load,
    "run": Worker.run,
    "prepare": Worker.prepare,
    "time": Worker.time,
    "energy": Worker.energy,
}


def main() -> None:
    """Answer until nobody asks any more: ``RUNTIME HANDLE``, a row of `PROGRAMS` and an open socket."""
    runtime, handle = sys.argv[1:]
    worker, line = Worker(runtime), Connection(int(handle))
    while True:
        try:
            told, files = receive(line)
        except EOFError:
            return
        send(line, *worker.answer(told, files))


def _described(port: Port) -> dict[str, Any]:
    """Return a port as plain values."""
    return {**asdict(port), "dtype": port.dtype.str}
