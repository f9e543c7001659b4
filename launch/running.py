"""From a command's name to what it does: imported when it runs, and an expected error is one line."""

from typing import Any

import typer
from rich.console import Console

from search_spaces.errors import ConfigError, NasError
from search_spaces.registry import Table

COMMANDS = Table(
    "command",
    {
        "search": "launch.commands:search",
        "resume": "launch.commands:resume",
        "report": "launch.commands:report",
        "export": "launch.commands:export",
        "recipe": "launch.commands:recipe",
        "compress": "launch.compress:compress",
        "merge": "launch.merge:merge",
        "compressors": "launch.methods:methods",
        "compare": "launch.compare:compare",
        "strategies": "launch.strategies:strategies",
        "devices": "launch.devices:devices",
        "devices add": "launch.devices:add",
        "devices show": "launch.devices:show",
        "devices profile": "launch.device_profile:profile",
        "devices runner": "launch.devices:runner",
        "devices runtime": "launch.devices:runtime",
        "devices remove": "launch.devices:remove",
        "measure": "launch.measure:measure",
        "doctor": "launch.doctor:doctor",
    },
)


def run_command(name: str, *arguments: Any) -> None:
    """Run a command; an expected error is one line on stderr and an exit code, never a traceback."""
    try:
        with Console(stderr=True).status("loading..."):  # torch, Ray and MLflow take seconds
            command = COMMANDS.load(name)
        code = command(*arguments)
    except NasError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    except OSError as error:
        what = f"{error.filename or name}: {error.strerror or error}"
        typer.echo(f"error: {what}; check the path, its permissions and the free disk space.", err=True)
        raise typer.Exit(ConfigError.exit_code) from None
    raise typer.Exit(code or 0)
