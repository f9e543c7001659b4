"""`nas measure`: one model on one device, with all that a search's measurement has, and more figures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from launch.device_files import merged, read_device
from launch.devices import read_mix
from launch.process import quiet_libraries
from nas.devices.base import FILES, Device, Measurement, PeakMemory, Workload
from nas.devices.settings import open_device, workload_of
from nas.files import MANIFEST, write_json
from nas.recipe import DeviceSettings
from nas.student import load as load_student
from search_spaces.errors import ConfigError
from search_spaces.families.encoder_hf import from_hf

TOKENS = 32  # of a call where neither the device nor the command line says how many
MANY = 32  # rows of a call for the throughput of a busy server
UNKNOWN = "not readable here"


@dataclass(frozen=True)
class Figures:
    """What is known of a model on a device.

    Attributes:
        measurement: Of calls as the device's settings say.
        rows_per_s: Throughput by rows of a call.
        memory: Of a process that does nothing else; None: cannot be known.
        energy_mj: Of one call, the whole processor; None: cannot be known.
    """

    measurement: Measurement
    rows_per_s: Mapping[int, float]
    memory: PeakMemory | None
    energy_mj: float | None


def measure(
    models: tuple[str, str | None],
    name: str,
    values: Mapping[str, Any],
    texts: tuple[str | None, Sequence[str]],
    target: Path | None,
) -> int:
    """Measure a model and print what was found; return the exit code.

    Args:
        models: What is measured, and what it is compared with: ONNX files, folders or hub ids.
        name: Of the device.
        values: Settings that differ from the device's; None ones do not.
        texts: Mix of lengths and shapes of inputs as they are written on a command line.
        target: File for the figures as JSON.

    Raises:
        ConfigError: A model, device or setting that cannot be used.
        DeviceError: The device refuses the model, or is not there.
        MissingDependencyError: The device's runtime is not installed.
    """
    told = {**values, "mix": read_mix(texts[0])}
    known = read_device(name).model_dump(exclude_unset=True)
    settings = merged(known, {key: value for key, value in told.items() if value is not None})
    workload = replace(workload_of(settings, settings.tokens or TOKENS), shapes=dict(map(_shape, texts[1])))
    device = open_device(settings)
    device.check()
    with Console(stderr=True).status("reading...") as status, quiet_libraries():
        artefact, reference = (_artefact(model, device, workload) if model else None for model in models)
        assert artefact is not None
        status.update(f"measuring on {name}...")
        found = _figures(device, artefact, reference, workload)
    environment = device.environment()
    _print(models, (settings, workload), found, environment)
    if target is not None:
        write_json(target, _facts(models, (settings, workload), found, environment))
    return 0


def _figures(device: Device, artefact: bytes, reference: bytes | None, workload: Workload) -> Figures:
    """Return the figures of an artefact."""
    (measurement,) = device.measure([artefact], reference, workload)
    n_rows, busy = device.rows(artefact, workload), replace(workload, batch=MANY)
    rows_per_s = {n_rows: 1e3 * n_rows / measurement.median_ms}
    if n_rows < device.rows(artefact, busy) == MANY:
        (many,) = device.measure([artefact], None, busy, quick=True)
        rows_per_s[MANY] = 1e3 * MANY / many.median_ms
    return Figures(
        measurement, rows_per_s, device.peak_memory(artefact, workload), device.energy_mj(artefact, workload)
    )


def _artefact(model: str, device: Device, workload: Workload) -> bytes:
    """Return what the device runs of a model: a file as it is, a student's own file, or an export."""
    path, file = Path(model), FILES[device.format]
    if path.is_file():
        if path.suffix != Path(file).suffix:
            raise ConfigError(f"measure {model}: is no {Path(file).suffix} file, which is what this device runs.")
        return path.read_bytes()
    if (path / MANIFEST).is_file() and (path / file).is_file():
        return (path / file).read_bytes()
    encoder = load_student(path) if (path / MANIFEST).is_file() else from_hf(model)[0]
    longest, most = max(length for length, _ in workload.lengths), encoder.config.n_positions
    if longest > most:
        raise ConfigError(f"measure {model}: {longest} tokens are more than its {most} positions; choose fewer.")
    return device.export(encoder)


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Return the input and shape of ``name=1,3,224,224``."""
    name, equals, sizes = text.partition("=")
    try:
        shape = tuple(int(size) for size in sizes.split(","))
    except ValueError:
        shape = ()
    if not (name and equals and shape and min(shape) >= 1):
        raise ConfigError(f"--shape {text!r}: no shape of an input; write INPUT=N,N,..., e.g. image=1,3,224,224.")
    return name, shape


def _print(
    models: tuple[str, str | None],
    calls: tuple[DeviceSettings, Workload],
    found: Figures,
    environment: Mapping[str, str],
) -> None:
    """Print the figures as a table, then how they came about."""
    (settings, workload), console = calls, Console(highlight=False)
    origin = found.measurement.origin
    title = f"{models[0]} on {settings.name}" + ("" if origin == "measured" else f" ({origin})")
    table = Table("", "", title=title, title_justify="left", box=SIMPLE_HEAD, show_header=False, show_edge=False)
    for row in _rows(models[1], workload, found):
        table.add_row(*row)
    console.print(table)
    console.print(", ".join(f"{what} {said}" for what, said in environment.items()), style="dim", markup=False)


def _rows(reference: str | None, workload: Workload, found: Figures) -> Iterator[tuple[str, str]]:
    """Yield the lines of the table."""
    seen = found.measurement
    doubts = [word for word in ("contended", "noisy") if getattr(seen, word)]
    interval = f"95 % interval {seen.low_ms:.4g} to {seen.high_ms:.4g} ms, {seen.n:,} calls"
    yield "p50", f"{seen.median_ms:.4g} ms ({', '.join([interval, *doubts])})"
    yield "p95", f"{seen.p95_ms:.4g} ms"
    yield "p99", "unknown" if seen.p99_ms is None else f"{seen.p99_ms:.4g} ms"
    if seen.speedup is not None:
        yield "reference", f"{seen.reference_ms:.4g} ms in the same rounds: {reference}"
        has_interval = seen.speedup_low is not None and seen.speedup_high is not None
        interval = f" (95 % interval {seen.speedup_low:.3g} to {seen.speedup_high:.3g})" if has_interval else ""
        yield "speed-up", f"{seen.speedup:.3g}x{interval}"
    yield "load", f"{seen.load_ms:.4g} ms"
    yield "size", f"{seen.size_bytes / 1e6:.2f} MB"
    memory = found.memory
    told = None if memory is None else f"{memory.total_bytes / 1e6:.0f} MB, {memory.idle_bytes / 1e6:.0f} MB before it"
    yield "peak memory", told or UNKNOWN
    for batch, rate in found.rows_per_s.items():
        yield "throughput", f"{rate:,.0f} rows/s at batch {batch}"
    yield "energy", UNKNOWN if found.energy_mj is None else f"{found.energy_mj:.3g} mJ a call, whole processor"
    mix = [f"{tokens} tokens {share:.0%}" for tokens, share in workload.mix]
    yield "call", f"batch {workload.batch}, {', '.join(mix) or f'{workload.tokens} tokens'}"


def _facts(
    models: tuple[str, str | None],
    calls: tuple[DeviceSettings, Workload],
    found: Figures,
    environment: Mapping[str, str],
) -> dict[str, Any]:
    """Return the figures as JSON values."""
    settings, workload = calls
    return {
        "model": models[0],
        "reference": models[1],
        "device": settings.model_dump(mode="json"),
        "workload": asdict(workload),
        "measurement": found.measurement.to_json(),
        "rows_per_s": {str(batch): rate for batch, rate in found.rows_per_s.items()},
        "peak_memory": None if found.memory is None else asdict(found.memory),
        "energy_mj": found.energy_mj,
        "environment": dict(environment),
    }
