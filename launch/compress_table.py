"""The report of `nas compress` as tables of rich: the two models, the steps, the layers, and what to know."""

from collections import Counter
from collections.abc import Callable, Iterator

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from compressors.base import Report
from launch.device_words import called
from launch.report import megabytes, milliseconds, score
from nas.measures import Figures, Measures
from nas.recipe import Recipe


def tables(measures: Measures, recipe: Recipe) -> Iterator[RenderableType]:
    """Yield what is printed of a compressed model, in order."""
    yield _models(measures)
    yield _calls(measures, recipe)
    yield _steps(measures)
    yield _times(measures)
    yield _layers(measures)
    yield ""
    for remark in measures.remarks:
        yield escape(remark)


def table_of(title: str, first: str, *others: str) -> Table:
    """Return an empty table whose first column is text and whose others are figures."""
    table = Table(title=f"\n{title}", title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _models(measures: Measures) -> Table:
    """Return teacher and student side by side."""
    table = table_of("models", "", "teacher", "student", "ratio")
    for row in _rows(measures.teacher, measures.student):
        table.add_row(*row)
    return table


def _calls(measures: Measures, recipe: Recipe) -> Text:
    """Return how the latency was measured."""
    device, final = recipe.device, measures.final
    threads = f"{device.threads} thread{'s' if device.threads > 1 else ''}"
    where = f"latency: median on {called(device)}, batch {device.batch}, {threads}"
    return Text(f"{where}; 95 % interval {final.low_ms:.3f} to {final.high_ms:.3f} ms", style="dim")


def _rows(teacher: Figures, student: Figures) -> Iterator[tuple[str, ...]]:
    """Yield a line for each figure: name, teacher, student, ratio."""
    yield "accuracy", score(teacher.accuracy), score(student.accuracy), f"{_share(student, teacher):.1%}"
    if student.test_accuracy is not None:
        yield "test accuracy", score(teacher.test_accuracy), score(student.test_accuracy), ""
    yield _row("latency", teacher.latency_ms, student.latency_ms, milliseconds)
    yield _row("size", teacher.size_bytes, student.size_bytes, megabytes)
    yield _row("size zipped", teacher.compressed_bytes, student.compressed_bytes, megabytes)
    yield _row("parameters", teacher.parameters, student.parameters, _count)
    yield _row("non-zeros", teacher.nonzeros, student.nonzeros, _count)
    yield _row("bits per weight", teacher.bits_per_weight, student.bits_per_weight, "{:.1f}".format)
    yield _row("MACs per text", teacher.macs, student.macs, _count)


def _share(student: Figures, teacher: Figures) -> float:
    """Return the share of the teacher's accuracy that is left."""
    return student.accuracy / teacher.accuracy if teacher.accuracy else 0.0


def _row(name: str, before: float, after: float, words: Callable[[float], str]) -> tuple[str, ...]:
    """Return one line of the comparison; the ratio says how many times smaller."""
    return name, words(before), words(after), f"{before / after:.1f}x" if after else "-"


def _count(value: float) -> str:
    """Return a large number for people, e.g. ``22.7 M``."""
    return f"{value / 1e6:.1f} M" if value >= 1e6 else f"{value / 1e3:.1f} k"


def _steps(measures: Measures) -> Table:
    """Return what each step changed and left alone."""
    table = table_of("steps", "step", "changed", "skipped")
    table.add_column("why, and figures")
    for report in measures.compressed.reports:
        table.add_row(report.compressor, str(len(report.changed)), str(len(report.skipped)), escape(_words(report)))
    return table


def _times(measures: Measures) -> Text:
    """Return what took how long, and what did not because it was kept."""
    seconds = ", ".join(f"{name} {spent:.1f} s" for name, spent in measures.compressed.seconds.items())
    reused = measures.compressed.reused
    told = f"; kept from an earlier call, not computed again: {', '.join(reused)}" if reused else ""
    return Text(f"time: {seconds}{told}", style="dim")


def _words(report: Report) -> str:
    """Return the reasons for skips with how often they were given, and the figures of a report."""
    reasons = Counter(skip.why for skip in report.skipped)
    told = [f"{n} x {why}" if n > 1 else why for why, n in reasons.items()]
    return "; ".join([*told, *(f"{name} {_figure(value)}" for name, value in report.figures.items())])


def _figure(value: float) -> str:
    """Return a number for people: whole from a thousand on, else four digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _layers(measures: Measures) -> Table:
    """Return the layers of the file beside the teacher's."""
    table = table_of("layers", "layer", "parameters", "non-zeros", "bits", "bytes", "MACs")
    for layer in measures.layers:
        table.add_row(
            layer.name,
            _change(layer.parameters_before, layer.parameters),
            f"{layer.nonzeros:,}",
            f"{layer.bits_per_weight:.1f}",
            f"{layer.size_bytes:,}",
            _change(layer.macs_before, layer.macs),
        )
    return table


def _change(before: int | None, after: int) -> str:
    """Return a number, and what it was where it differs."""
    return f"{after:,}" if before in (None, after) else f"{before:,} -> {after:,}"
