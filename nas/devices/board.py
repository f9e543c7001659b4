"""A board that is reached through commands: files are copied, a command runs there, its answer is fetched.

Commands are lists of arguments, never a line for a shell; each has a time limit and a scrubbed environment. Knows
processes and files; not what an answer means.
"""

import hashlib
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

KEPT = (  # of the environment: what ssh, adb and Python need, and no secrets of other programs
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT"),
    *("SSH_AUTH_SOCK", "ANDROID_HOME", "ANDROID_SERIAL"),
)
PLACE = re.compile(r"\{(\w*)\}")


class UnreachableError(Exception):
    """A command failed, took too long, or cannot be started."""


@dataclass
class Board:
    """How a board is reached.

    Attributes:
        run: Command with the places of `RUN`.
        copy: Command with ``{file}``, a file here, and ``{target}``, its path on the board; () = they share files.
        fetch: Command with ``{source}``, a file on the board, and ``{file}``, its path here.
        folder: Of the board, for what is copied.
        timeout_s: Of every command.
        sent: Names of files that the board has.
    """

    run: Sequence[str]
    copy: Sequence[str]
    fetch: Sequence[str]
    folder: str
    timeout_s: float
    sent: set[str] = field(default_factory=set)

    def ask(self, files: Mapping[str, bytes | None]) -> tuple[bytes, float]:
        """Return the answer to files, and how long the command took in ms.

        Args:
            files: Content by place; None is written as an empty argument.

        Raises:
            UnreachableError: A command failed; what the board has is sent again next time.
        """
        try:
            with tempfile.TemporaryDirectory(prefix="prentice-") as here:
                return self._ask(Path(here), files)
        except UnreachableError:
            self.sent.clear()
            raise

    def _ask(self, here: Path, files: Mapping[str, bytes | None]) -> tuple[bytes, float]:
        """Copy what is missing, run, fetch."""
        wanted = places(self.run)
        told = {place: self._path(here, place, content) for place, content in files.items() if place in wanted}
        answer = here / "answer.json"
        away = f"{self.folder.rstrip('/')}/{here.name}.json"
        told["out"] = away if self.copy else str(answer)
        start = time.monotonic()
        printed = _run(filled_in(self.run, told), self.timeout_s)
        elapsed_ms = (time.monotonic() - start) * 1e3
        if "out" not in wanted:
            return printed, elapsed_ms
        if self.copy:
            _run(filled_in(self.fetch, {"source": away, "file": str(answer)}), self.timeout_s)
        if not answer.is_file():
            raise UnreachableError(f"{self.run[0]} ended well and wrote no answer")
        return answer.read_bytes(), elapsed_ms

    def _path(self, here: Path, place: str, content: bytes | None) -> str:
        """Return where the board finds a file, after copying it there if it has not got it yet."""
        if content is None:
            return ""
        name = f"{place}-{hashlib.sha256(content).hexdigest()[:16]}"
        local = here / name
        local.write_bytes(content)
        if not self.copy:
            return str(local)
        target = f"{self.folder.rstrip('/')}/{name}"
        if name not in self.sent:
            _run(filled_in(self.copy, {"file": str(local), "target": target}), self.timeout_s)
            self.sent.add(name)
        return target


def places(template: Sequence[str]) -> set[str]:
    """Return the names of the places of a command."""
    return {name for argument in template for name in PLACE.findall(argument)}


def filled_in(template: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Return a command with its places filled in; every place has a value."""
    return [PLACE.sub(lambda place: values[place[1]], argument) for argument in template]


def _run(command: Sequence[str], timeout_s: float) -> bytes:
    """Return what a command prints; one that takes too long is ended with all that it has started."""
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=environment, start_new_session=True
        )
    except OSError as error:
        raise UnreachableError(f"{command[0]} cannot be started: {error.strerror}") from None
    try:
        printed, complaints = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise UnreachableError(f"{command[0]} took longer than {timeout_s:g} s") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode:
        last = (complaints.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        raise UnreachableError(f"{command[0]} ended with code {process.returncode}: {last[:200]}")
    return printed
