"""Any board that a command reaches: ssh, adb, a serial line. Latency is measured there, answers are computed here.

What a model answers does not depend on where ONNX Runtime runs it, up to the last digits, so the board is kept for what
only it can say.
"""

import hashlib
import logging
import os
import shlex
import shutil
import time
from collections.abc import Sequence
from typing import ClassVar

from pydantic import BaseModel, Field, field_validator, model_validator

from nas.devices.answer import AbsurdError, Answer, BoardRefusalError, read_answer
from nas.devices.base import Measurement, Origin, PeakMemory, Workload
from nas.devices.board import Board, UnreachableError, places
from nas.devices.board_runner import runner_archive, specification
from nas.devices.measured import measurement_of
from nas.devices.onnxruntime_backend import OnnxRuntime
from nas.devices.timing import QUICK, THOROUGH
from nas.recipe import DeviceSettings, Section
from search_spaces.errors import ConfigError, DeviceError, UnansweredError

log = logging.getLogger(__name__)

PLACES = {
    "run": {"model", "reference", "spec", "out", "runner"},
    "copy": {"file", "target"},
    "fetch": {"source", "file"},
}
PAUSE_S = 0.5  # before a command is tried again


class CommandOptions(Section):
    """How a board is reached; every command is a list of arguments, or one line that is split like a shell's."""

    run: tuple[str, ...] = Field(min_length=1, description="with {model}, {reference}, {spec}, {out}, {runner}")
    copy_file: tuple[str, ...] = Field((), alias="copy", description="with {file} and {target}, a path on the board")
    fetch: tuple[str, ...] = Field((), description="with {source}, a path on the board, and {file}")
    folder: str = Field("/tmp", description="of the board, for what is copied")
    timeout_s: float = Field(120.0, gt=0, description="of every command")
    retries: int = Field(2, ge=0, le=10, description="times that a failed measurement is tried again")

    @field_validator("run", "copy_file", "fetch", mode="before")
    @classmethod
    def _split(cls, command: object) -> object:
        """Split a line into arguments, before its places are filled in; no shell ever sees it."""
        if not isinstance(command, str):
            return command
        try:
            return shlex.split(command)
        except ValueError as error:
            raise ConfigError(f"{error}") from None

    @model_validator(mode="after")
    def _check_places(self) -> "CommandOptions":
        """Refuse commands with places that have no meaning, or without the ones that they need."""
        commands = {"run": self.run, "copy": self.copy_file, "fetch": self.fetch}
        for name, command in commands.items():
            if unknown := sorted(places(command) - PLACES[name]):
                raise ConfigError(f"{name}: {{{unknown[0]}}} means nothing; write {_shown(PLACES[name])}")
            needed = {"model", "spec"} if name == "run" else PLACES[name] if command else set()
            if missing := sorted(needed - places(command)):
                raise ConfigError(f"{name}: {{{missing[0]}}} is missing; it holds {_shown(places(command)) or 'none'}")
        if self.copy_file and "out" in places(self.run) and not self.fetch:
            raise ConfigError("fetch: missing; {out} is on the board. Fetch it, or have the answer printed: --out -")
        return self


class Command(OnnxRuntime):
    """ONNX files on a board that a command reaches."""

    suits: ClassVar[str] = "any board that ssh, adb or another command reaches, with ONNX Runtime or a runner of yours"
    origin: ClassVar[Origin] = "measured"
    options_model: ClassVar[type[BaseModel]] = CommandOptions
    is_fresh: ClassVar[bool] = True

    def __init__(self, settings: DeviceSettings) -> None:
        """Keep the settings; nothing is sent."""
        super().__init__(settings)
        told = self.options
        self._board = Board(told.run, told.copy_file, told.fetch, told.folder, told.timeout_s)
        self._memory: dict[str, PeakMemory | None] = {}
        self._told: dict[str, str] = {"runtime": "not asked yet"}

    def check(self) -> None:
        """Refuse commands whose program is not installed here.

        Raises:
            DeviceError: A program is missing.
        """
        for command in (self._board.run, self._board.copy, self._board.fetch):
            if command and shutil.which(command[0]) is None:
                raise DeviceError(f"device {self.name!r}: {command[0]!r} is not installed here; install it.")

    @property
    def threads(self) -> int:
        """Return the threads that answers are computed with here: the board's, as far as there are processors."""
        return min(self._settings.threads, os.cpu_count() or 1)

    def environment(self) -> dict[str, str]:
        """Return what the board said of itself with its last answer."""
        return {**self._told, "reached by": self._board.run[0], **self._note}

    def measure(
        self, artefacts: Sequence[bytes], reference: bytes | None, workload: Workload, quick: bool = False
    ) -> list[Measurement]:
        """Return one measurement for each artefact, taken on the board in turns with the reference.

        Args:
            artefacts: ONNX files.
            reference: ONNX file they are compared with.
            workload: Shape of one call.
            quick: Settle for a 95 % interval of +-4 % instead of +-2 %.

        Raises:
            DeviceError: The board's runtime refuses a file.
            UnansweredError: It gave no answer that can be true, however often it was asked.
        """
        patience = QUICK if quick else THOROUGH
        spec = specification(workload, patience, self._settings.threads, self._settings.affinity)
        measurements = []
        for artefact in artefacts:
            answer = self._answer(artefact, reference, spec)
            self._memory[_key(artefact)], self._told = answer.memory, answer.environment
            measurements.append(measurement_of(answer.timing, patience.width, answer.load_ms, len(artefact)))
        return measurements

    def peak_memory(self, artefact: bytes, workload: Workload) -> PeakMemory | None:
        """Return what the board said when the artefact was measured; None where it says nothing."""
        return self._memory.get(_key(artefact))

    def energy_mj(self, artefact: bytes, workload: Workload) -> float | None:
        """Return None: the runner does not tell."""
        return None

    def _answer(self, artefact: bytes, reference: bytes | None, spec: bytes) -> Answer:
        """Return an answer that can be true, asked for again where there is none."""
        has_reference = reference is not None and "reference" in places(self._board.run)
        files = {"model": artefact, "reference": reference, "spec": spec, "runner": runner_archive()}
        tries, why = 1 + self.options.retries, ""
        for attempt in range(tries):
            try:
                content, elapsed_ms = self._board.ask(files)
                return read_answer(content, has_reference, elapsed_ms)
            except BoardRefusalError as error:
                raise DeviceError(f"device {self.name!r}: {len(artefact)} bytes are refused there: {error}") from None
            except (UnreachableError, AbsurdError) as error:
                why = str(error)
                log.warning("device %r: attempt %d of %d failed: %s", self.name, attempt + 1, tries, why)
                time.sleep(PAUSE_S)
        raise UnansweredError(f"device {self.name!r}: no answer in {tries} attempts; the last: {why}. Check the board.")


def _key(artefact: bytes) -> str:
    """Return the name of an artefact's content."""
    return hashlib.sha256(artefact).hexdigest()


def _shown(names: set[str]) -> str:
    """Return places as they are written."""
    return ", ".join(f"{{{name}}}" for name in sorted(names))
