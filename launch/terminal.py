"""Shows a search on a terminal: a live display for people, plain lines for pipes and logs.

Knows when to print, `launch.live_view` what a moment looks like; news is also kept in the run's log file.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from launch.live_view import Clock, best_of, counts, live_view, time_left
from launch.process import short
from nas.progress import Snapshot

PLAIN_EVERY_S = 5.0


def make_progress(log: Path | None = None, console: Console | None = None) -> "RichProgress | PlainProgress":
    """Return a live display on a terminal, plain lines elsewhere; warnings that `launch` logs are shown in it.

    Args:
        log: File that keeps all news and warnings; None keeps none.
        console: Where to show; default standard output.
    """
    console = console or Console(highlight=False)
    return RichProgress(console, log) if console.is_terminal else PlainProgress(console, log)


def show_result(told: Mapping[str, Any], tables: Iterable[RenderableType], target: Path, as_json: bool) -> int:
    """Print what a command made, as JSON and nothing else or as tables and where it lies; return the exit code.

    Args:
        told: JSON values.
        tables: The same for people.
        target: The student's folder.
        as_json: Which of both.
    """
    console = Console()
    if as_json:
        console.print_json(json.dumps(told, allow_nan=False))
        return 0
    for table in tables:
        console.print(table)
    console.print(f"student: {short(target)}", soft_wrap=True, markup=False)
    return 0


class Relay(logging.Handler):
    """Passes warnings of our own loggers on to a display."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        """Listen to the ``launch`` and ``nas`` loggers until `detach`."""
        super().__init__(logging.WARNING)
        self._warn = warn
        for name in ("launch", "nas"):
            logging.getLogger(name).addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record."""
        self._warn(record.getMessage())

    def detach(self) -> None:
        """Stop listening."""
        for name in ("launch", "nas"):
            logging.getLogger(name).removeHandler(self)


class Display:
    """What both displays share: the console, the log file and the clock."""

    def __init__(self, console: Console, log: Path | None) -> None:
        """Open the log file for appending."""
        self.console = console
        self._log = log.open("a", buffering=1, encoding="utf-8") if log else None
        self._clock = Clock()
        self._relay = Relay(self.warn)
        self._wraps_words = False  # else the terminal wraps, and what is copied from it stays one line

    def say(self, line: str) -> None:
        """Print one line of news."""
        self._keep(line)
        self.console.print(escape(line), soft_wrap=not self._wraps_words)

    def warn(self, line: str) -> None:
        """Print one warning."""
        self._keep(f"warning: {line}")
        self.console.print(f"[yellow]warning:[/] {escape(line)}", soft_wrap=True)

    def close(self) -> None:
        """Stop listening to warnings and close the log; later news is printed only; idempotent."""
        self._relay.detach()
        if self._log is not None:
            self._log.close()
            self._log = None

    def _keep(self, line: str) -> None:
        """Append a line to the log file."""
        if self._log is not None:
            self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")


class PlainProgress(Display):
    """Prints a line when a phase begins, and then what has changed, at most every five seconds."""

    def __init__(self, console: Console, log: Path | None = None) -> None:
        """Print to this console."""
        super().__init__(console, log)
        self._last: tuple[float, str] = (0.0, "")

    def show(self, snapshot: Snapshot) -> None:
        """Print the state of the search if it is news."""
        is_new_phase = snapshot.phase != self._clock.phase
        self._clock.see(snapshot)
        when, line = self._last
        fresh = ", ".join([*counts(snapshot), *best_of(snapshot)])
        if is_new_phase or (fresh != line and time.monotonic() - when >= PLAIN_EVERY_S):
            self._last = (time.monotonic(), fresh)
            self.console.print(escape(", ".join([fresh, *time_left(snapshot, self._clock)])), soft_wrap=True)


class RichProgress(Display):
    """Keeps a phase bar and the front as a small table at the bottom of the terminal; news scrolls above."""

    def __init__(self, console: Console, log: Path | None = None) -> None:
        """Draw on this console; the display appears with the first snapshot."""
        super().__init__(console, log)
        self._wraps_words = True
        self._snapshot: Snapshot | None = None
        self._live: Live | None = Live(
            get_renderable=self._render, console=console, refresh_per_second=4, transient=True
        )

    def show(self, snapshot: Snapshot) -> None:
        """Keep the snapshot for the next refresh."""
        self._clock.see(snapshot)
        self._snapshot = snapshot
        if self._live is not None and not self._live.is_started:
            self._live.start()

    def close(self) -> None:
        """Take the display away; what was said stays."""
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()
            self._wraps_words = False
        super().close()

    def _render(self) -> RenderableType:
        """Return the display of the present moment."""
        if self._snapshot is None or self._live is None:
            return Text()
        return Constrain(live_view(self._snapshot, self._clock), self.console.width - len("^C"))  # room for its echo
