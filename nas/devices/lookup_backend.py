"""A device that is not there: its latencies come from a table, keyed by shapes or by the sums of files.

Answers are computed here, as for every ONNX device.
"""

import csv
import json
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, Field

from nas.devices.base import Measurement, Origin, PeakMemory, Workload
from nas.devices.onnxruntime_backend import OnnxRuntime
from nas.devices.shape_key import normalised, shape_key
from nas.recipe import Section
from search_spaces.errors import ConfigError, DeviceError

LATENCY, TAIL = "latency_ms", "p95_ms"  # the columns that are no key


class LookupOptions(Section):
    """Where the latencies are."""

    table: str = Field(min_length=1, description="csv file, or json file with a list of objects; column latency_ms")


class Lookup(OnnxRuntime):
    """Latencies of a table."""

    suits: ClassVar[str] = "a device that somebody else has measured: latency from a table, by shape or by file"
    origin: ClassVar[Origin] = "looked up"
    options_model: ClassVar[type[BaseModel]] = LookupOptions
    is_fresh: ClassVar[bool] = True

    def check(self) -> None:
        """Refuse a table that cannot be read.

        Raises:
            ConfigError: No such file, or no latencies in it.
        """
        len(self._rows)

    def environment(self) -> dict[str, str]:
        """Return where the latencies come from."""
        return {"runtime": f"looked up in {self.options.table}, {len(self._rows)} rows", **self._note}

    def measure(
        self, artefacts: Sequence[bytes], reference: bytes | None, workload: Workload, quick: bool = False
    ) -> list[Measurement]:
        """Return what the table says of each artefact and of the reference.

        Raises:
            DeviceError: The table has no row for one of them, or several.
        """
        other = None if reference is None else self._found(reference, workload)[0]
        measurements = []
        for artefact in artefacts:
            latency, tail = self._found(artefact, workload)
            speedup = None if other is None else other / latency
            known = (latency, tail, latency, latency, 0, other, speedup, False, False, 0.0, len(artefact))
            measurements.append(Measurement(*known, origin=self.origin))
        return measurements

    def peak_memory(self, artefact: bytes, workload: Workload) -> PeakMemory | None:
        """Return None: a table of latencies says nothing of it."""
        return None

    def energy_mj(self, artefact: bytes, workload: Workload) -> float | None:
        """Return None: a table of latencies says nothing of it."""
        return None

    def _found(self, artefact: bytes, workload: Workload) -> tuple[float, float]:
        """Return latency and tail of an artefact, the mean over a mix of lengths."""
        found = [(self._row(shape_key(artefact, workload.batch, n)), share) for n, share in workload.lengths]
        return sum(row[0] * share for row, share in found), max(row[1] for row, _ in found)

    def _row(self, known: dict[str, str]) -> tuple[float, float]:
        """Return latency and tail of the one row that fits."""
        fitting = [row for row in self._rows if all(known.get(key) == value for key, value in row[0].items())]
        if len(fitting) == 1:
            return fitting[0][1]
        asked = ", ".join(f"{key} {known.get(key, 'unknown')}" for key in self._rows[0][0])
        raise DeviceError(
            f"device {self.name!r}: {len(fitting)} of {len(self._rows)} rows of {self.options.table} fit {asked}; one "
            "has to."
        )

    @cached_property
    def _rows(self) -> list[tuple[dict[str, str], tuple[float, float]]]:
        """Return the keys of each row, with its latency and tail."""
        table = self.options.table
        rows = _read(Path(table).expanduser())
        if not rows:
            raise ConfigError(f"device.options.table: {table} has {len(rows)} rows; at least one is needed.")
        return [_checked(row, f"{table}, row {number}") for number, row in enumerate(rows, start=1)]


def _read(path: Path) -> list[Any]:
    """Return the rows of a table."""
    try:
        text = path.read_text(encoding="utf-8")
        rows = json.loads(text) if path.suffix == ".json" else list(csv.DictReader(text.splitlines()))
    except OSError as error:
        raise ConfigError(
            f"device.options.table: {path} cannot be read ({error.strerror}); give a csv or json."
        ) from None
    except (ValueError, csv.Error) as error:
        raise ConfigError(f"device.options.table: {path} is no table ({error}); give a csv or json.") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"device.options.table: {path} holds a {type(rows).__name__}; give a list of objects.")
    return rows


def _checked(row: dict[Any, Any], where: str) -> tuple[dict[str, str], tuple[float, float]]:
    """Return keys, latency and tail of a row; a tail that the table has not got is the latency."""
    keys = {str(key): normalised(value) for key, value in row.items() if key not in (LATENCY, TAIL)}
    latency = _milliseconds(row.get(LATENCY), f"{where}: {LATENCY}")
    if not keys:
        raise ConfigError(f"{where}: has no column but {LATENCY}; at least one has to say what it is of, e.g. sha256.")
    return keys, (latency, _milliseconds(row.get(TAIL) or latency, f"{where}: {TAIL}"))


def _milliseconds(value: Any, where: str) -> float:
    """Return a latency of a table."""
    try:
        latency = float(value)
    except (TypeError, ValueError):
        latency = math.nan
    if not 0 < latency < math.inf:
        raise ConfigError(f"{where}: {value!r} is no latency; a number above 0 is needed.")
    return latency
