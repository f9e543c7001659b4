"""Measuring in fresh processes: each has its own memory layout and threads, so one alone does not tell a file's speed.

Run as a program, this file is one of them: ``python -m nas.devices.starts FOLDER``, where the folder says what to do.
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nas.devices.base import Measurement, Workload
from nas.devices.measured import pooled
from nas.devices.settings import open_device
from nas.files import read_json, write_json
from nas.recipe import DeviceSettings
from search_spaces.errors import DeviceError, NasError

TIMEOUT_S = 600.0  # of one process
SPEC, ANSWER, REFERENCE = "spec.json", "answer.json", "reference"
ROOT = Path(__file__).parents[2]  # the folder that this package is imported from


def measure_over_starts(
    settings: DeviceSettings, artefacts: Sequence[bytes], reference: bytes, workload: Workload, n_starts: int
) -> tuple[list[Measurement], dict[str, str]]:
    """Return one measurement of each artefact, pooled over several processes, and what the device says of itself.

    Args:
        settings: Of the device; one whose measurements are processes of their own is asked so many times.
        artefacts: What its backend exported, or a compressor made of it.
        reference: Artefact they are compared with, in turns.
        workload: Shape of one call.
        n_starts: Processes, one after the other; 1 = this one.

    Raises:
        DeviceError: The device refuses an artefact, or a process took longer than ten minutes.
    """
    device, starts, environment = open_device(settings), list[list[Measurement]](), dict[str, str]()
    for _ in range(n_starts):
        if device.is_fresh or n_starts == 1:
            measured, environment = device.measure(artefacts, reference, workload), device.environment()
        else:
            measured, environment = measure_fresh(settings, artefacts, reference, workload)
        starts.append(measured)
    return [pooled(each) for each in zip(*starts, strict=True)], environment


def measure_fresh(
    settings: DeviceSettings, artefacts: Sequence[bytes], reference: bytes, workload: Workload
) -> tuple[list[Measurement], dict[str, str]]:
    """Return one measurement of each artefact by a new process, and what the device says of itself there.

    Arguments and errors as `measure_over_starts`.
    """
    with tempfile.TemporaryDirectory(prefix="prentice-") as place:
        folder = Path(place)
        for name, content in [(REFERENCE, reference), *((str(i), each) for i, each in enumerate(artefacts))]:
            (folder / name).write_bytes(content)
        told = {"device": settings.model_dump(mode="json"), "workload": asdict(workload), "n": len(artefacts)}
        write_json(folder / SPEC, told)
        _run([sys.executable, "-m", __name__, place], settings.name)
        answer = read_json(folder / ANSWER)
    return [Measurement.from_json(each) for each in answer["measurements"]], answer["environment"]


def _run(command: Sequence[str], name: str) -> None:
    """Run a process to its end; what it says last is why it failed."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, cwd=ROOT)
    except subprocess.TimeoutExpired:
        raise DeviceError(
            f"device {name!r}: a process that measures took longer than {TIMEOUT_S:g} s; wait until the machine is "
            "less busy."
        ) from None
    if ended.returncode:
        lines = ended.stderr.strip().splitlines()
        raise DeviceError(
            lines[-1][:500] if lines else f"device {name!r}: a process ended with code {ended.returncode}"
        )


def _measure(folder: Path) -> dict[str, Any]:
    """Return what is measured in this process, as JSON."""
    spec = read_json(folder / SPEC)
    told = spec["workload"]
    workload = Workload(told["batch"], told["tokens"], tuple(map(tuple, told["mix"])))
    device = open_device(DeviceSettings.model_validate(spec["device"]))
    artefacts = [(folder / str(i)).read_bytes() for i in range(spec["n"])]
    measured = device.measure(artefacts, (folder / REFERENCE).read_bytes(), workload)
    return {"measurements": [each.to_json() for each in measured], "environment": device.environment()}


if __name__ == "__main__":
    place = Path(sys.argv[1])
    try:
        write_json(place / ANSWER, _measure(place))
    except NasError as error:
        sys.exit(str(error))
