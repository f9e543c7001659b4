"""The report of a search: one HTML file that needs nothing else, and tables for the terminal, one a device.

Knows the figures that `ReportData` holds, and nothing of where they come from.
"""

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from launch.results import Baseline, Candidate, ReportData, Rung, Student
from launch.scatter import Point, Scatter, scatter
from launch.templates import template
from nas.files import atomic_write

FILE = "report.html"
__all__ = [
    "Baseline",
    "Candidate",
    "ReportData",
    "Rung",
    "Student",
    "terminal_table",
    "terminal_tables",
    "write_report",
]


def write_report(folder: Path, data: ReportData) -> Path:
    """Write ``report.html`` into a folder and return its path; names from data or models cannot inject anything."""
    path = folder / FILE
    atomic_write(path, render(data).encode())
    return path


def render(data: ReportData) -> str:
    """Return the report as one HTML page: no script, no network, light and dark."""
    page = template("report.html.j2", ms=milliseconds, mb=megabytes, duration=duration, score=score, plot=plot)
    return page.render(data=data, best=_best(data), compared=compared(data))


def plot(data: ReportData) -> Scatter:
    """Return the plot: candidates below, the teacher and the measured students on top, the best one last."""
    tried = [
        Point(
            c.latency_ms,
            c.accuracy,
            "front" if c.is_front else "tried" if c.is_feasible else "refused",
            "; ".join(filter(None, (f"{c.name}: {_figures(c)} predicted", c.shape, c.remark))),
        )
        for c in sorted(data.candidates, key=lambda c: c.is_front)
    ]
    teacher = data.teacher
    told = f"teacher: {_figures(teacher)}"
    measured = [
        Point(
            s.latency_ms,
            s.accuracy,
            "student",
            f"{s.name}: {_figures(s)}, {s.speedup:.1f}x; {s.shape}",
            str(rank),
            s.low_ms,
            s.high_ms,
        )
        for rank, s in enumerate(data.students, start=1)
    ]
    points = [*tried, Point(teacher.latency_ms, teacher.accuracy, "teacher", told, "teacher"), *reversed(measured)]
    return scatter(points, data.limit_ms)


def _figures(row: Baseline | Candidate | Student) -> str:
    """Return accuracy and latency as the plot says them."""
    return f"{row.accuracy:.3f}, {milliseconds(row.latency_ms)}"


def compared(data: ReportData) -> list[str]:
    """Return how the best students of several devices differ, one line a student; nothing for a single device."""
    best: dict[str, list[str]] = {}
    for view in data.each if data.others and data.students else ():
        best.setdefault(view.students[0].name, []).append(view.device)
    return [f"best on {' and '.join(devices)}: {_everywhere(name, data)}" for name, devices in best.items()]


def _everywhere(name: str, data: ReportData) -> str:
    """Return what a student is, and how it does on every device."""
    seen = {view.device: next(s for s in view.students if s.name == name) for view in data.each}
    figures = [f"{milliseconds(s.latency_ms)} ({s.speedup:.1f}x) on {device}" for device, s in seen.items()]
    return f"{name} ({seen[data.device].shape}), {', '.join(figures)}"


def terminal_tables(data: ReportData) -> RenderableType:
    """Return the finalists beside the teacher as a table of rich, one a device, and how the best ones differ."""
    where = {view.device: f" on {view.device}" if data.others else "" for view in data.each}
    tables = [terminal_table(view, where[view.device]) for view in data.each]
    return Group(*tables, *map(Text, compared(data)))


def terminal_table(data: ReportData, where: str = "") -> Table:
    """Return the finalists beside the teacher on one device as a table of rich; ``where`` ends its title."""
    title = f"{data.name}: students of {escape(data.teacher.name + where)}"
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True
    )
    table.add_column("student", no_wrap=True)
    for title in ("accuracy", "mean ± sd", "test", "latency", "speed-up", "size"):
        table.add_column(title, justify="right", no_wrap=True)
    for rank, student in enumerate(data.students):
        table.add_row(*_student_cells(student), style="bold" if rank == 0 else "")
    teacher = data.teacher
    table.add_section()
    figures = (score(teacher.accuracy), "", score(teacher.test_accuracy), milliseconds(teacher.latency_ms))
    table.add_row("teacher", *figures, "1.0x", megabytes(teacher.size_bytes), style="dim")
    notes = [f"{student.name}: {', '.join([student.shape, *_remarks(student)])}" for student in data.students]
    latency = f"latency: median on {data.device}, {data.workload}; mean ± sd over seeds; test: finalists only"
    table.caption = escape("\n".join([*notes, latency]))
    table.caption_justify = "left"
    return table


def _student_cells(student: Student) -> list[str]:
    """Return one row of the terminal's table."""
    return [
        escape(student.name),
        score(student.accuracy),
        f"{student.accuracy_mean:.3f} ± {student.accuracy_sd:.3f}",
        score(student.test_accuracy),
        milliseconds(student.latency_ms),
        f"{student.speedup:.1f}x",
        megabytes(student.size_bytes),
    ]


def _remarks(student: Student) -> tuple[str, ...]:
    """Return what a reader must know of a student."""
    return student.remarks or (() if student.is_feasible else ("misses a constraint",))


def _best(data: ReportData) -> dict[str, str]:
    """Return the headline figures of the best student; {} when there is none."""
    if not data.students:
        return {}
    student, teacher = data.students[0], data.teacher
    return {
        "faster": f"{student.speedup:.1f}x",
        "kept": f"{student.accuracy_mean / teacher.accuracy:.1%}" if teacher.accuracy else "-",
        "smaller": f"{teacher.size_bytes / student.size_bytes:.1f}x",
        "latency": milliseconds(student.latency_ms),
    }


def milliseconds(value: float) -> str:
    """Return a latency with three significant digits, e.g. ``0.652 ms``, ``12.3 ms``."""
    digits = 3 if value < 1 else 2 if value < 10 else 1
    return f"{value:.{digits}f} ms"


def megabytes(value: float) -> str:
    """Return a size in bytes as megabytes, e.g. ``21.9 MB``; less than one as kilobytes."""
    return f"{value / 1e6:.1f} MB" if value >= 1e6 else f"{value / 1e3:.0f} kB"


def score(value: float | None) -> str:
    """Return an accuracy, or a dash for none."""
    return "-" if value is None else f"{value:.3f}"


def duration(seconds: float) -> str:
    """Return seconds for people, e.g. ``3.2 s``, ``4 min 05 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"
