"""Shows a search on a terminal: a live display for people, plain lines for pipes and logs.

Knows `nas.progress` only; news also goes to the run's log file with the time of day.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nas.progress import FrontRow, Snapshot

PLAIN_EVERY_S = 5.0
FRONT_ROWS = 8
UNITS = {"profile": "shapes", "search": "trials", "finalize": "training runs"}


def make_progress(log: Path | None = None, console: Console | None = None) -> "RichProgress | PlainProgress":
    """Return a live display on a terminal, plain lines elsewhere; warnings that `launch` logs are shown in it.

    Args:
        log: File that keeps all news and warnings; None keeps none.
        console: Where to show; default standard output.
    """
    console = console or Console(highlight=False)
    return RichProgress(console, log) if console.is_terminal else PlainProgress(console, log)


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


class Clock:
    """Guesses how long a phase still takes, from the pace since the phase began here."""

    def __init__(self) -> None:
        """Begin with no phase."""
        self.phase = ""
        self._began, self._done_before = 0.0, 0

    def see(self, snapshot: Snapshot) -> None:
        """Notice the beginning of a phase; what was done before, by an earlier process, says nothing of the pace."""
        if snapshot.phase != self.phase:
            self.phase, self._began, self._done_before = snapshot.phase, time.monotonic(), snapshot.done

    @property
    def elapsed_s(self) -> float:
        """Return the seconds since the phase began."""
        return time.monotonic() - self._began

    def left_s(self, snapshot: Snapshot) -> float | None:
        """Return the seconds the phase still takes; None when nobody can know."""
        done = snapshot.done - self._done_before
        if done <= 0 or not snapshot.total:
            return None
        return self.elapsed_s / done * max(0, snapshot.total - snapshot.done)


class Display:
    """What both displays share: the console, the log file and the clock."""

    def __init__(self, console: Console, log: Path | None) -> None:
        """Open the log file for appending."""
        self.console = console
        self._log = log.open("a", buffering=1, encoding="utf-8") if log else None
        self._clock = Clock()
        self._relay = Relay(self.warn)

    def say(self, line: str) -> None:
        """Print one line of news."""
        self._keep(line)
        self.console.print(escape(line), soft_wrap=True)

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
        fresh = ", ".join(_words(snapshot))
        if is_new_phase or (fresh != line and time.monotonic() - when >= PLAIN_EVERY_S):
            self._last = (time.monotonic(), fresh)
            self.console.print(escape(fresh + _left(snapshot, self._clock)), soft_wrap=True)


class RichProgress(Display):
    """Keeps a phase bar and the front as a small table at the bottom of the terminal; news scrolls above."""

    def __init__(self, console: Console, log: Path | None = None) -> None:
        """Draw on this console; the display appears with the first snapshot."""
        super().__init__(console, log)
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
        super().close()

    def _render(self) -> RenderableType:
        """Return the display of the present moment."""
        if self._snapshot is None or self._live is None:
            return Text()
        return Group(_phase_line(self._snapshot, self._clock), *_front_parts(self._snapshot))


def _words(snapshot: Snapshot) -> list[str]:
    """Return the state of a search in words, e.g. ``search: 7/24 trials``, ``2 running``, ``best 0.912``."""
    head = snapshot.phase
    if snapshot.total:
        unit = UNITS.get(snapshot.phase, "steps")
        head += f": {snapshot.done}/{snapshot.total} {unit}"
    words = [head]
    if snapshot.running:
        words.append(f"{snapshot.running} running")
    if snapshot.failed:
        words.append(f"{snapshot.failed} failed")
    if snapshot.front:
        best = snapshot.front[0]
        words.append(f"best accuracy {best.accuracy:.3f} at {_latency(best)}")
        words.append(f"{len(snapshot.front)} on the front")
    return words


def _left(snapshot: Snapshot, clock: Clock) -> str:
    """Return how long the phase may still take, as the end of a line; nothing while that is unknown."""
    left_s = clock.left_s(snapshot)
    return "" if left_s is None else f", about {_duration(left_s)} left"


def _phase_line(snapshot: Snapshot, clock: Clock) -> RenderableType:
    """Return the bar of a phase with its words; a bar that pulses when the total is unknown."""
    bar = ProgressBar(
        total=snapshot.total or None,
        completed=snapshot.done,
        width=24,
        pulse=not snapshot.total,
        complete_style="cyan",
        finished_style="green",
    )
    grid = Table.grid(padding=(0, 1))
    head, *rest = _words(snapshot)
    words = Text.assemble((head, "bold"), "".join(f" · {word}" for word in rest) + _left(snapshot, clock))
    words.append(f" · {_duration(clock.elapsed_s)}", style="dim")
    grid.add_row(bar, words)
    return grid


def _front_parts(snapshot: Snapshot) -> list[RenderableType]:
    """Return the front as a small table, nothing while it is empty."""
    if not snapshot.front:
        return []
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("student", no_wrap=True)
    for title in ("accuracy", "latency", "speed-up", "size"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("shape", overflow="ellipsis", no_wrap=True)
    for row in snapshot.front[:FRONT_ROWS]:
        table.add_row(*_cells(row, snapshot.teacher))
    if len(snapshot.front) > FRONT_ROWS:
        table.add_row(f"and {len(snapshot.front) - FRONT_ROWS} more", style="dim")
    if snapshot.teacher is not None:
        table.add_row(*_cells(snapshot.teacher, None), style="dim")
    return [table]


def _cells(row: FrontRow, teacher: FrontRow | None) -> list[str]:
    """Return one row of the front; ``~`` marks a predicted latency."""
    speedup = f"{teacher.latency_ms / row.latency_ms:.1f}x" if teacher else ""
    return [
        escape(row.name),
        f"{row.accuracy:.3f}",
        _latency(row),
        speedup,
        f"{row.size_bytes / 1e6:.1f} MB",
        escape(row.shape),
    ]


def _latency(row: FrontRow) -> str:
    """Return a latency with its unit; ``~`` marks a predicted one."""
    return f"{'' if row.measured else '~'}{row.latency_ms:.2f} ms"


def _duration(seconds: float) -> str:
    """Return seconds for people, e.g. ``45 s``, ``3:07 min``, ``1:02 h``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"
