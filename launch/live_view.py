"""What a moment of a search looks like: a bar with words, and the front as a small table, for any width.

Knows `nas.progress` only; not when or where it is printed.
"""

import math
import time

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nas.progress import FrontRow, Snapshot

FRONT_ROWS = 8
UNITS = {"teacher outputs": "rows", "profile": "measurements", "search": "trials", "finalize": "training runs"}


class Clock:
    """Guesses how long a phase still takes, from the pace since its steps began to be counted here."""

    def __init__(self) -> None:
        """Begin with no phase."""
        self.phase = ""
        self._began = self._counted_from = 0.0
        self._total, self._done_before = 0, 0

    def see(self, snapshot: Snapshot) -> None:
        """Notice the beginning of a phase and of its counting.

        What was done before, by an earlier process or uncounted, says nothing of the pace.
        """
        now, is_new = time.monotonic(), snapshot.phase != self.phase
        if is_new:
            self.phase, self._began = snapshot.phase, now
        if is_new or snapshot.total != self._total:
            self._counted_from, self._total, self._done_before = now, snapshot.total, snapshot.done

    @property
    def elapsed_s(self) -> float:
        """Return the seconds since the phase began."""
        return time.monotonic() - self._began

    def left_s(self, snapshot: Snapshot) -> float | None:
        """Return the seconds the phase still takes, at most those it was given; None when nobody can know."""
        done, left_s = snapshot.done - self._done_before, math.inf
        if snapshot.done >= snapshot.total:
            return None
        if done > 0:
            left_s = (time.monotonic() - self._counted_from) / done * (snapshot.total - snapshot.done)
        least_s = min(left_s, max(0.0, snapshot.left_s))
        return None if math.isinf(least_s) else least_s


def live_view(snapshot: Snapshot, clock: Clock) -> RenderableType:
    """Return the display of one moment: one line for the phase, then the front if there is one."""
    return Group(_phase_line(snapshot, clock), *_front_parts(snapshot))


def counts(snapshot: Snapshot) -> list[str]:
    """Return how far a phase is in words, e.g. ``search: 7/24 trials``, ``2 running``, ``1 failed``."""
    head = snapshot.phase
    if snapshot.total:
        head += f": {snapshot.done}/{snapshot.total} {UNITS.get(snapshot.phase, 'steps')}"
    words = [head]
    if snapshot.running:
        words.append(f"{snapshot.running} running")
    if snapshot.failed:
        words.append(f"{snapshot.failed} failed")
    return words


def best_of(snapshot: Snapshot) -> list[str]:
    """Return the front in words, for where there is no table; nothing while it is empty."""
    if not snapshot.front:
        return []
    best = snapshot.front[0]
    return [f"best accuracy {best.accuracy:.3f} at {_latency(best)}", f"{len(snapshot.front)} on the front"]


def time_left(snapshot: Snapshot, clock: Clock) -> list[str]:
    """Return how long the phase may still take in words; nothing while that is unknown."""
    left_s = clock.left_s(snapshot)
    return [] if left_s is None else [f"about {duration(left_s)} left"]


def _phase_line(snapshot: Snapshot, clock: Clock) -> RenderableType:
    """Return the bar of a phase with its words, always one line; a bar that pulses when the total is unknown."""
    bar = ProgressBar(
        total=snapshot.total or None,
        completed=snapshot.done,
        width=24,
        pulse=not snapshot.total,
        complete_style="cyan",
        finished_style="green",
    )
    head, *rest = [*counts(snapshot), *time_left(snapshot, clock)]
    words = Text.assemble((head, "bold"), *(f" · {word}" for word in rest), no_wrap=True, overflow="ellipsis")
    words.append(f" · {duration(clock.elapsed_s)} so far", style="dim")
    grid = Table.grid(padding=(0, 1))
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
    table.add_column("shape")  # the one column that gives way, see `_cells`
    for row in snapshot.front[:FRONT_ROWS]:
        table.add_row(*_cells(row, snapshot.teacher))
    if len(snapshot.front) > FRONT_ROWS:
        table.add_row(f"and {len(snapshot.front) - FRONT_ROWS} more", style="dim")
    if snapshot.teacher is not None:
        table.add_row(*_cells(snapshot.teacher, None), style="dim")
    return [table]


def _cells(row: FrontRow, teacher: FrontRow | None) -> list[str | Text]:
    """Return one row of the front; ``~`` marks a predicted latency; a long shape is cut off."""
    speedup = f"{teacher.latency_ms / row.latency_ms:.1f}x" if teacher else ""
    return [
        escape(row.name),
        f"{row.accuracy:.3f}",
        _latency(row),
        speedup,
        f"{row.size_bytes / 1e6:.1f} MB",
        Text(row.shape, no_wrap=True, overflow="ellipsis"),
    ]


def _latency(row: FrontRow) -> str:
    """Return a latency with its unit; ``~`` marks a predicted one."""
    return f"{'' if row.measured else '~'}{row.latency_ms:.2f} ms"


def duration(seconds: float) -> str:
    """Return seconds for people, e.g. ``45 s``, ``3:07 min``, ``1:02 h``."""
    if seconds < 60:
        return f"{int(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"
