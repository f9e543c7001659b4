"""A runtime in another Python: a process that this one asks, and the artefacts that it has loaded.

A process of its own also keeps a runtime's threads on the processors that it was started on, and a runtime that gives
up altogether, as C++ does, ends that process and not the search. Knows processes and messages; not devices.
"""

import os
import signal
import subprocess
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from nas.devices.archive import archive
from nas.devices.messages import Message, receive, send, to_arrays, to_files
from nas.devices.program import Feed, Port, refuse

MODULES = (
    *(f"nas/{name}.py" for name in ("__init__", "devices/__init__")),
    *(f"nas/devices/{name}.py" for name in ("base", "elsewhere_worker", "energy", "memory", "messages", "nvml")),
    *(f"nas/devices/{name}.py" for name in ("onnxruntime_program", "portable_encoder", "program", "timing")),
    *(f"nas/devices/{name}.py" for name in ("executorch_export", "executorch_program", "padding")),
    *(f"nas/devices/{name}.py" for name in ("litert_export", "litert_program")),
    *(f"compressors/{name}.py" for name in ("__init__", "torch_file")),
    *(f"search_spaces/{name}.py" for name in ("__init__", "errors", "registry", "seeding")),
    *(f"search_spaces/families/{name}.py" for name in ("__init__", "attention", "encoder_model", "factored")),
)
FOREIGN = ("PYTHONPATH", "PYTHONHOME")  # what they name is of this Python
PATIENCE_S = 600.0  # for one answer
FAREWELL_S = 2.0


class OtherPython:
    """A process of another Python, which ends when nobody holds this object any more."""

    def __init__(self, python: str, runtime: str) -> None:
        """Start it; it stays on the processors that this thread is on.

        Args:
            python: Interpreter.
            runtime: Row of `nas.devices.program.PROGRAMS`.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="prentice-")
        program = Path(self._folder.name) / "worker.pyz"
        program.write_bytes(archive(MODULES, "nas.devices.elsewhere_worker"))
        self._said = Path(self._folder.name) / "said.txt"
        self._line, theirs = Pipe()
        with theirs, self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [python, str(program), runtime, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for this process
                stdout=said,
                stderr=said,
                cwd=self._folder.name,
                env={name: value for name, value in os.environ.items() if name not in FOREIGN},
            )
        self.close = weakref.finalize(self, _end, self._line, self._process)

    def ask(self, do: str, told: Mapping[str, Any] | None = None, files: list[bytes] | None = None) -> Message:
        """Return the answer to a request.

        Raises:
            RefusalError: The runtime refuses; or the process ended, or takes too long and is ended.
        """
        try:
            send(self._line, {"do": do, **(told or {})}, files or [])
            if not self._line.poll(PATIENCE_S):
                self.close()
                refuse(f"no answer within {PATIENCE_S:g} s")
            answer, content = receive(self._line)
        except (EOFError, OSError):
            refuse(self._last_words())
        if "refused" in answer:
            refuse(answer["refused"])
        return answer, content

    def _last_words(self) -> str:
        """Return why the process is gone."""
        self.close()
        code = self._process.returncode
        how = f"with {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
        lines = self._said.read_text(errors="replace").strip().splitlines() or ["nothing"]
        return f"its process ended {how} after saying: {lines[-1][:200]}"


class FarProgram:
    """An artefact that another Python has loaded.

    Attributes:
        inputs: What it wants, in order.
        outputs: What it gives, in order.
        vocabulary: Ids that a text model knows; None where the artefact does not say.
        load_ms: From bytes to ready, there.
    """

    def __init__(self, other: OtherPython, artefact: bytes, threads: int, options: Mapping[str, Any]) -> None:
        """Have it loaded.

        Raises:
            RefusalError: The runtime refuses it.
        """
        known, _ = other.ask("load", {"threads": threads, "options": dict(options)}, [artefact])
        self._other, self._number = other, known["program"]
        self.inputs: Sequence[Port] = [_port(told) for told in known["inputs"]]
        self.outputs: Sequence[Port] = [_port(told) for told in known["outputs"]]
        self.vocabulary: int | None = known["vocabulary"]
        self.load_ms: float = known["load_ms"]

    def run(self, feed: Feed) -> list[np.ndarray]:
        """Return the outputs of one call.

        Raises:
            RefusalError: The runtime refuses an input.
        """
        return to_arrays(self._ask("run", feed)[1])

    def call(self, feed: Feed) -> Callable[[], object]:
        """Return the call for whoever wants it here; `prepare` is for clocks."""
        return partial(self.run, feed)

    def prepare(self, feed: Feed) -> int:
        """Return the number, there, of the call that production would make again and again."""
        number: int = self._ask("prepare", feed)[0]["call"]
        return number

    def _ask(self, do: str, feed: Feed) -> Message:
        """Return the answer to a request with inputs."""
        return self._other.ask(do, {"program": self._number, "inputs": list(feed)}, to_files(feed.values()))


def _end(line: Connection, process: "subprocess.Popen[bytes]") -> None:
    """End a process, kindly first: it ends when nobody can ask it any more."""
    line.close()
    try:
        process.wait(FAREWELL_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _port(told: Mapping[str, Any]) -> Port:
    """Return an input or output as the worker describes it."""
    return Port(told["name"], tuple(told["shape"]), np.dtype(told["dtype"]))
