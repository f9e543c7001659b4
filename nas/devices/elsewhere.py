"""Devices whose runtime works in another Python on this machine: for what cannot be installed beside the project.

Answers, clocks and counters are those of that Python; see `other_python` and `elsewhere_worker`.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any, ClassVar

from pydantic import BaseModel, Field

from compressors.torch_file import to_blob
from nas.devices.base import Measurement, PeakMemory, Workload
from nas.devices.energy import mean_mj
from nas.devices.host import HostDevice
from nas.devices.measured import measurement_of
from nas.devices.other_python import FarProgram, OtherPython
from nas.devices.pinning import pinned
from nas.devices.program import RefusalError
from nas.devices.runtimes import Runtime
from nas.devices.timing import QUICK, THOROUGH, Patience, Timing
from nas.recipe import DeviceSettings, Section
from search_spaces.errors import MissingDependencyError
from search_spaces.families.encoder_model import TextEncoder

RUNS = 10  # before memory is read


class ElsewhereOptions(Section):
    """Where the runtime is."""

    python: str | None = Field(
        None, description="interpreter that has the runtime; None: this one, else that of nas devices runtime"
    )


class Elsewhere(HostDevice):
    """Runs artefacts in another Python, a fresh process for each measurement.

    Attributes:
        where: The runtime and its packages.
    """

    options_model: ClassVar[type[BaseModel]] = ElsewhereOptions
    is_fresh: ClassVar[bool] = True
    where: ClassVar[Runtime]

    def __init__(self, settings: DeviceSettings) -> None:
        """Keep the settings; nothing is started."""
        super().__init__(settings)
        self._converter: OtherPython | None = None

    @classmethod
    def why_not(cls) -> str | None:
        """Return what to install where no Python has the runtime."""
        return cls.where.why_not()

    def version(self) -> str:
        """Return the runtime's version and its Python."""
        return f"{self.where.package} {self._version} of {self._python}"

    def export(self, model: TextEncoder) -> bytes:
        """Return the artefact of a model, float32.

        Raises:
            DeviceError: The converter fails.
            MissingDependencyError: The runtime is not installed.
        """
        if self._converter is None:  # it takes seconds to start
            self._converter = self._start()
        try:
            _, (artefact,) = self._converter.ask("export", {"options": self._facts}, [to_blob(model)])
        except RefusalError as error:
            self._converter = None
            raise self._refused("a model cannot be converted", error) from error
        return artefact

    def measure(
        self, artefacts: Sequence[bytes], reference: bytes | None, workload: Workload, quick: bool = False
    ) -> list[Measurement]:
        """Return one measurement for each artefact, each in a fresh process, in turns with the reference.

        Args:
            artefacts: What `export` returned.
            reference: Artefact they are compared with.
            workload: Shape of one call; its ids are random but always the same.
            quick: Settle for a 95 % interval of +-4 % instead of +-2 %.

        Raises:
            DeviceError: The runtime refuses a file, or the machine has fewer processors than ``settings.threads``.
        """
        patience = QUICK if quick else THOROUGH
        with pinned(self.name, self._settings.threads, self._settings.affinity) as self._processors:
            return [self._measured(artefact, reference, workload, patience) for artefact in artefacts]

    def peak_memory(self, artefact: bytes, workload: Workload) -> PeakMemory | None:
        """Return the memory of a fresh process that loads and runs the artefact.

        Raises:
            DeviceError: The runtime refuses the file.
        """
        other = self._start()
        idle = self._asked(other, "peak")["bytes"]
        program = self._loaded(other, artefact)
        for feed, _share in self._accepted(program, workload):
            for _ in range(RUNS):
                self._run(program, feed)
        return PeakMemory(self._asked(other, "peak")["bytes"], idle)

    def energy_mj(self, artefact: bytes, workload: Workload) -> float | None:
        """Return the energy of one call in mJ, of a mix the mean; None where this machine does not tell.

        Raises:
            DeviceError: The runtime refuses the file.
        """
        with pinned(self.name, self._settings.threads, self._settings.affinity):
            other = self._start()
            calls = self._prepared(self._loaded(other, artefact), workload)
            return mean_mj([(self._asked(other, "energy", call=call)["mj"], share) for call, share in calls])

    @cached_property
    def _python(self) -> str:
        """Return the interpreter that has the runtime."""
        chosen: str | None = self.options.python
        if chosen is None and not self.where.is_here:
            return str(self.where.python)
        return chosen or sys.executable

    @cached_property
    def _version(self) -> str:
        """Return the version of the runtime.

        Raises:
            MissingDependencyError: It is not there.
        """
        if self.options.python is None and (why := self.why_not()) is not None:
            raise MissingDependencyError(f"device {self.name!r}: {why}")
        try:
            return self.where.version(self._python)
        except MissingDependencyError as error:
            raise MissingDependencyError(f"device {self.name!r}: {error}") from None

    @property
    def _facts(self) -> dict[str, object]:
        """Return what the other Python must know to convert and load."""
        return {"batch": self._settings.batch, **self.options.model_dump(mode="json", exclude={"python"})}

    def _check_installed(self) -> None:
        """Refuse a runtime that is not installed."""
        _ = self._version

    def _start(self) -> OtherPython:
        """Return a fresh process."""
        self._check_installed()
        return OtherPython(self._python, self.runtime)

    def _asked(self, other: OtherPython, do: str, **told: object) -> dict[str, Any]:
        """Return the answer to a request that cannot be refused, only fail."""
        try:
            return other.ask(do, told)[0]
        except RefusalError as error:
            raise self._refused(f"to {do} failed", error) from error

    def _load(self, artefact: bytes) -> FarProgram:
        """Return the artefact in a process of its own."""
        return self._loaded(self._start(), artefact)

    def _loaded(self, other: OtherPython, artefact: bytes) -> FarProgram:
        """Return the artefact in a process."""
        try:
            return FarProgram(other, artefact, self.threads, self._facts)
        except RefusalError as error:
            raise self._refused(f"{len(artefact)} bytes are no model it can run", error) from error

    def _prepared(self, program: FarProgram, workload: Workload) -> list[tuple[int, float]]:
        """Return the numbers of the calls that are timed, with their shares."""
        return [(program.prepare(feed), share) for feed, share in self._accepted(program, workload)]

    def _measured(
        self, artefact: bytes, reference: bytes | None, workload: Workload, patience: Patience
    ) -> Measurement:
        """Return the measurement of one artefact."""
        other = self._start()
        beside = [] if reference is None else self._prepared(self._loaded(other, reference), workload)
        program = self._loaded(other, artefact)
        calls = self._prepared(program, workload)
        told = self._asked(other, "time", candidate=calls, reference=beside, patience=asdict(patience))
        timing = Timing.from_json(told)
        return measurement_of(timing, patience.width, program.load_ms, len(artefact))
