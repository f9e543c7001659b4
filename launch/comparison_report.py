"""The reports of a comparison: tables for the terminal, markdown, JSON, a picture, and one HTML file with both.

Knows rows and their columns; nothing of where they come from.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from launch.report import duration, megabytes, milliseconds
from launch.scatter import Mark, Point, Scatter, scatter
from launch.templates import template
from nas.compared import Row
from nas.files import atomic_write
from nas.methods import METHODS, TEACHER
from nas.yardstick import COLUMNS, Column, Unit

PLAIN = ("accuracy", "test_accuracy", "retention", "size_bytes", "latency_ms", "speedup")
COSTS = ("compressed_bytes", "memory_bytes", "p95_ms", "train_s")
BEHAVIOUR = ("agreement", "calibration_error", "typos", "missing_words", "attribution", "worst_class")
ALL = (*PLAIN, *COSTS, *BEHAVIOUR)
LINE = 13.0  # pixels from one line of text to the next
SMALLEST, LARGEST = 5.0, 26.0  # radius in pixels of the smallest and of the largest file
SPEEDUP = Column("speedup", "faster", "times", True, "than the teacher's file, in the same rounds")
FORMS: Mapping[Unit, Callable[[float], str]] = {
    "share": "{:.3f}".format,
    "times": "{:.1f}x".format,
    "ms": milliseconds,
    "bytes": megabytes,
    "seconds": duration,
}
SHOWN = {column.name: column for column in (*COLUMNS, SPEEDUP)}
NOTES = (
    "All figures are those of the exported file in the runtime that ships, but the attributions: those are of the "
    "torch model that the file was made of, so rounding by the file's own steps is not in them.",
    "All methods get the same rows and as many passes over them; lr differs where a method keeps the teacher's shape.",
    "Latency and memory are those of the first seed's file; latency in turns with the teacher's fp32 file.",
    "Memory counts Python and ONNX Runtime, too.",
)


@dataclass(frozen=True)
class Facts:
    """What all rows share, in words.

    Attributes:
        teacher: Its name.
        data: Source and rows.
        budget: Of one training run, and seeds.
        device: Name and calls.
        labels: Their names.
        environment: What the device says of itself.
    """

    teacher: str
    data: str
    budget: str
    device: str
    labels: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def write_reports(folder: Path, rows: Sequence[Row], facts: Facts) -> list[Path]:
    """Write compare.md, .json, .html and, where something was measured, .svg into a folder; return their paths."""
    told = {"facts": asdict(facts), "columns": [asdict(c) for c in SHOWN.values()], "rows": [r.to_json() for r in rows]}
    contents = {
        "compare.md": markdown(rows, facts),
        "compare.json": json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "compare.html": html(rows, facts),
    }
    if any(row.figures for row in rows):
        contents["compare.svg"] = picture(rows)
    for name, text in contents.items():
        atomic_write(folder / name, text.encode())
    return [folder / name for name in contents]


def terminal_report(rows: Sequence[Row], facts: Facts) -> Iterator[RenderableType]:
    """Yield tables, each at most 80 wide, and what to know: what students score, what they cost, how they behave."""
    heads = {
        f"{facts.teacher} on {facts.data}; {facts.budget}": PLAIN,
        f"costs; {facts.device}": COSTS,
        "behaviour": BEHAVIOUR,
    }
    for title, listed in heads.items():
        names = _present(listed, rows)
        yield Text(f"\n{title}", style="bold")
        yield _table(names, rows)
        yield Text("; ".join(f"{SHOWN[name].title}: {SHOWN[name].what}" for name in names), style="dim")
    yield Text("\n".join(["", *_remarks(rows)]))


def _remarks(rows: Sequence[Row]) -> Iterator[str]:
    """Yield what a reader must know of the rows; what holds for all that were measured is said once."""
    measured = [set(row.remarks) for row in rows if row.figures]
    common = set.intersection(*measured) if len(measured) > 1 else set()
    yield from (f"all: {remark}" for remark in sorted(common))
    for row in rows:
        own = [remark for remark in row.remarks if remark not in common]
        if own:
            yield f"{row.name}: {'; '.join(own)}"


def markdown(rows: Sequence[Row], facts: Facts) -> str:
    """Return everything as one markdown table with notes."""
    names = _present(ALL, rows)
    lines = [
        f"Methods on {facts.teacher}: {facts.data}. Budget: {facts.budget}. Device: {facts.device}.",
        "",
        "| method | " + " | ".join(SHOWN[name].title for name in names) + " |",
        "|---|" + "---:|" * len(names),
    ]
    lines += ["| " + " | ".join([row.name, *(cell(row, name) for name in names)]) + " |" for row in rows]
    lines += ["", *(f"- {SHOWN[name].title}: {SHOWN[name].what}" for name in names)]
    lines += [f"- {row.name}: {row.title}; {'; '.join([METHODS[row.name].source, *row.remarks])}" for row in rows]
    return "\n".join([*lines, "", *NOTES, ""])


def html(rows: Sequence[Row], facts: Facts) -> str:
    """Return the report as one HTML page: no script, no network, light and dark."""
    names = _present(ALL, rows)
    return _rendered(
        "compare.html.j2",
        rows,
        rows=rows,
        facts=facts,
        columns=[SHOWN[name] for name in names],
        cell=cell,
        best=_best(names, rows),
        methods=METHODS,
        notes=NOTES,
        is_alone=False,
        names=(),
    )


def picture(rows: Sequence[Row]) -> str:
    """Return the plot of rows of which at least one was measured as an SVG file, light and dark."""
    names = [f"{number} {row.name}" for number, row in enumerate(rows, start=1) if row.figures]
    return _rendered("compare.svg.j2", rows, names=names, is_alone=True)


def _rendered(name: str, rows: Sequence[Row], /, **values: Any) -> str:
    """Return a page or picture with the plot of the rows."""
    drawn, radii = _plot(rows)
    labels = _labels(drawn.marks) if drawn else []
    return template(name).render(plot=drawn, radii=radii, labels=labels, **values)


def cell(row: Row, name: str) -> str:
    """Return a figure as the tables say it, with its spread over the seeds where it has one; a dash for none."""
    value = row.figures.get(name)
    if value is None:
        return "-"
    text = _written(value, SHOWN[name])
    spread = row.spread.get(name)
    return text if spread is None or row.n_seeds < 2 else f"{text} ± {_written(spread, SHOWN[name])}"


def _written(value: float, column: Column) -> str:
    """Return a figure with its unit."""
    if column.name == "retention":
        return f"{value:.1%}"
    return FORMS[column.unit](value)


def _present(names: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """Return the names of the figures that any row has."""
    return [name for name in names if any(name in row.figures for row in rows)]


def _table(names: Sequence[str], rows: Sequence[Row]) -> Table:
    """Return a table of some columns."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column("method", no_wrap=True)
    for name in names:
        table.add_column(SHOWN[name].title, justify="right", no_wrap=True)
    for row in rows:
        style = "dim" if row.name == TEACHER else ""
        table.add_row(row.name, *(cell(row, name) for name in names), style=style)
    return table


def _best(names: Sequence[str], rows: Sequence[Row]) -> dict[str, float]:
    """Return the best figure of each column among the students."""
    best = {}
    for name in names:
        values = [row.figures[name] for row in rows if name in row.figures and row.name != TEACHER]
        if values:
            best[name] = max(values) if SHOWN[name].is_higher_better else min(values)
    return best


def _plot(rows: Sequence[Row]) -> tuple[Scatter | None, list[float]]:
    """Return the plot and the radius of each of its marks, whose area stands for the size; small files on top.

    A file's latency is the teacher's over how much faster the file was in the same rounds, so that a machine that was
    slower for some of the files does not move them.
    """
    shown = sorted(
        (row for row in rows if row.figures), key=lambda row: (row.name == TEACHER, -row.figures["size_bytes"])
    )
    if not shown:
        return None, []
    numbers = {row.name: str(number) for number, row in enumerate(rows, start=1)}
    pace = next((row.figures["latency_ms"] for row in shown if row.name == TEACHER), None)
    return scatter([_point(row, numbers[row.name], pace) for row in shown]), _radii(shown)


def _labels(marks: Sequence[Mark]) -> list[tuple[float, float]]:
    """Return where the texts of marks begin to stand: in their middle, else below what stands there already."""
    placed: list[tuple[float, float]] = []
    for mark in marks:
        is_teacher = mark.point.kind == "teacher"
        reach, y = (34, mark.y + 25) if is_teacher else (18, mark.y + 4)
        while any(abs(mark.x - x) < reach and abs(y - other) < LINE for x, other in placed):
            y += LINE
        placed.append((mark.x, round(y, 1)))
    return placed


def _radii(rows: Sequence[Row]) -> list[float]:
    """Return circles whose areas are proportional to the files, but for a least one that can be seen."""
    largest = max(row.figures["size_bytes"] for row in rows)
    return [max(SMALLEST, LARGEST * math.sqrt(row.figures["size_bytes"] / largest)) for row in rows]


def _point(row: Row, number: str, pace: float | None) -> Point:
    """Return a row as a mark; ``pace`` is the teacher's latency."""
    told: dict[str, Any] = {name: cell(row, name) for name in ("accuracy", "latency_ms", "size_bytes")}
    kind = "teacher" if row.name == TEACHER else "student"
    figures = row.figures
    latency_ms = figures["latency_ms"] if pace is None else pace / figures["speedup"]
    return Point(latency_ms, figures["accuracy"], kind, f"{row.name}: {', '.join(told.values())}", number)
