"""`nas devices`: which devices there are, which of them work, and how one is added, shown and removed."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from launch.device_files import (
    device_path,
    device_yaml,
    known_devices,
    merged,
    read_device,
    remove_device,
    save_device,
)
from launch.listing import print_line, print_lines
from launch.process import quiet_libraries, short
from launch.yaml_files import assignments
from nas.devices import BACKENDS
from nas.devices.board_runner import runner_archive
from nas.devices.probing import probe
from nas.devices.runtimes import find_runtime
from nas.devices.settings import BUILT_IN, open_device
from nas.files import atomic_write
from nas.recipe import DeviceSettings
from search_spaces.errors import ConfigError, MissingDependencyError, NasError


def devices() -> int:
    """Try every device and list them, then the backends that others can be made of; return the exit code."""
    table = Table(title="devices", title_justify="left")
    for column in ("device", "backend", "", "tried here", "settings", "from"):
        table.add_column(column, overflow="fold")
    console = Console()
    with console.status("trying...") as status, quiet_libraries():
        for name in known_devices():
            status.update(f"trying {name}...")
            backend, settings, (works, words) = _tried(name)
            mark = "[green]ok[/]" if works else "[red]no[/]"
            origin = "built in" if name in BUILT_IN else short(device_path(name))
            table.add_row(name, backend, mark, words.replace("[", r"\["), settings, origin)
    console.print(table)
    rows = [(name, BACKENDS.load(name).suits) for name in BACKENDS]
    print_lines(("backend", "for whom"), rows)
    print_line("Add one with: nas devices add NAME --backend BACKEND")
    return 0


def add(
    name: str,
    backend: str,
    values: Mapping[str, Any],
    texts: tuple[str | None, str | None, Sequence[str]],
    replace: bool,
) -> int:
    """Write the file of a new device, after a check that it can be what it says; return the exit code.

    Args:
        name: Of the device.
        backend: Row of the table.
        values: Settings; None ones are left out.
        texts: Mix, affinity and options as they are written on a command line.
        replace: An existing device of this name.

    Raises:
        ConfigError: A name, option or value that is not allowed; nothing was written.
    """
    mix, affinity, options = texts
    device_path(name)
    told = {
        **values,
        "mix": read_mix(mix),
        "affinity": _read_numbers(affinity),
        "options": assignments(options, "--option"),
    }
    given = {key: value for key, value in told.items() if value is not None}
    settings = merged({"name": name, "backend": backend}, given)
    device = open_device(settings)
    path = save_device(settings, replace)
    print_line(f"added: {short(path)}")
    try:
        device.check()
    except (ConfigError, MissingDependencyError) as error:
        typer.echo(f"warning: not here: {error}", err=True)
    return 0


def show(name: str) -> int:
    """Print the settings of a device; return the exit code."""
    typer.echo(device_yaml(read_device(name)), nl=False)
    return 0


def runner(output: Path) -> int:
    """Write the program that measures on a board; return the exit code."""
    atomic_write(output, runner_archive())
    print_line(f"runner: {short(output)}; on the board: python3 {output.name} --help")
    return 0


def runtime(name: str) -> int:
    """Print the commands that make the environment of a runtime; return the exit code."""
    for command in find_runtime(name).commands():
        typer.echo(command)
    return 0


def remove(name: str) -> int:
    """Delete the file of a device; return the exit code."""
    print_line(f"removed: {short(remove_device(name))}")
    return 0


def read_mix(text: str | None) -> dict[int, float] | None:
    """Return the lengths and weights of ``16:3,64:1``.

    Raises:
        ConfigError: It is not written so.
    """
    if text is None:
        return None
    try:
        return {int(length): float(weight) for length, _, weight in (part.partition(":") for part in text.split(","))}
    except ValueError:
        raise ConfigError(f"--mix {text!r}: no lengths with weights; write N:WEIGHT,..., e.g. 16:3,64:1.") from None


def _read_numbers(text: str | None) -> tuple[int, ...] | None:
    """Return the processors of ``0,1``."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--affinity {text!r}: no processors; write their numbers, e.g. 0,1.") from None


def _tried(name: str) -> tuple[str, str, tuple[bool, str]]:
    """Return backend and settings of a device, whether it works, and how well or why not."""
    try:
        settings = read_device(name)
    except NasError as error:
        return "", "", (False, str(error))
    try:
        return settings.backend, _in_words(settings), (True, probe(settings))
    except NasError as error:
        return settings.backend, _in_words(settings), (False, str(error))


def _in_words(settings: DeviceSettings) -> str:
    """Return what is particular about a device."""
    return ", ".join(_particulars(settings))


def _particulars(settings: DeviceSettings) -> Iterator[str]:
    """Yield each setting in words."""
    yield f"{settings.threads} thread{'s' if settings.threads > 1 else ''}"
    if settings.batch > 1:
        yield f"batch {settings.batch}"
    if settings.tokens:
        yield f"{settings.tokens} tokens"
    if settings.mix:
        yield "tokens " + " ".join(f"{length}:{weight:g}" for length, weight in settings.mix.items())
    if settings.affinity:
        yield f"processors {' '.join(map(str, settings.affinity))}"
    yield from (f"{key}={value}" for key, value in settings.options.items())
    if settings.note:
        yield settings.note
