"""The geometry of the report's plot: accuracy over latency on a logarithmic axis, as coordinates for SVG.

Knows points and pixels; not what a student is, nor how the plot is drawn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 760.0, 400.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 22.0, 30.0, 46.0


@dataclass(frozen=True)
class Point:
    """One mark in data coordinates.

    Attributes:
        latency_ms: Positive.
        accuracy: In [0, 1].
        kind: CSS class of the mark, e.g. ``tried``, ``front``, ``student``, ``teacher``.
        title: Text shown when the pointer rests on the mark.
        label: Short text beside or in the mark.
        low_ms, high_ms: Confidence interval of the latency; equal to it when there is none.
    """

    latency_ms: float
    accuracy: float
    kind: str
    title: str
    label: str = ""
    low_ms: float | None = None
    high_ms: float | None = None


@dataclass(frozen=True)
class Mark:
    """One point in pixels; ``x_low`` to ``x_high`` is its confidence interval."""

    x: float
    y: float
    x_low: float
    x_high: float
    point: Point


@dataclass(frozen=True)
class Tick:
    """One grid line: its pixel and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Scatter:
    """A plot ready to be drawn; a line is the ``points`` attribute of a polyline, empty for less than two points."""

    marks: tuple[Mark, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    measured_line: str
    predicted_line: str
    limit_x: float | None
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP
    bottom: float = HEIGHT - BOTTOM


class Axis:
    """Maps values to pixels, after a function that makes the axis linear."""

    def __init__(self, low: float, high: float, start: float, end: float, is_log: bool = False) -> None:
        """Map ``low`` to pixel ``start`` and ``high`` to ``end``."""
        self._scale = math.log10 if is_log else float
        self._low = self._scale(low)
        self._span = self._scale(high) - self._low
        self._start, self._length = start, end - start

    def __call__(self, value: float) -> float:
        """Return the pixel of a value, to a tenth."""
        return round(self._start + (self._scale(value) - self._low) / self._span * self._length, 1)


def scatter(points: Sequence[Point], limit_ms: float | None = None) -> Scatter:
    """Return the plot of the points, in the order in which they are to be drawn.

    Args:
        points: At least one; those of kind ``student`` are joined by a line, and so are those of kind ``front``.
        limit_ms: A latency to mark, e.g. a hard constraint; left out where it lies outside the plot.
    """
    latencies = [p.latency_ms for p in points]
    low_ms, high_ms = min(latencies) / 1.25, max(latencies) * 1.25
    low, high = _padded([p.accuracy for p in points])
    x = Axis(low_ms, high_ms, LEFT, WIDTH - RIGHT, is_log=True)
    y = Axis(low, high, HEIGHT - BOTTOM, TOP)
    marks = tuple(
        Mark(x(p.latency_ms), y(p.accuracy), x(p.low_ms or p.latency_ms), x(p.high_ms or p.latency_ms), p)
        for p in points
    )
    return Scatter(
        marks,
        tuple(Tick(x(value), f"{value:g}") for value in log_ticks(low_ms, high_ms)),
        tuple(Tick(y(value), f"{value:.{_digits(high - low)}f}") for value in linear_ticks(low, high)),
        _front_line([p for p in points if p.kind == "student"], x, y),
        _front_line([p for p in points if p.kind == "front"], x, y),
        x(limit_ms) if limit_ms is not None and low_ms < limit_ms < high_ms else None,
    )


def log_ticks(low: float, high: float) -> list[float]:
    """Return the values 1, 2 and 5 times a power of ten within the bounds; where these are few, at equal distances."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**power for power in powers for step in (1, 2, 5) if low <= step * 10.0**power <= high]
    return ticks if len(ticks) > 2 else linear_ticks(low, high)


def linear_ticks(low: float, high: float) -> list[float]:
    """Return three to seven round values within the bounds."""
    raw = (high - low) / 7
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """Return bounds around accuracies with some air, never flat."""
    low, high = min(values), max(values)
    air = max(0.08 * (high - low), 0.005)
    return low - air, high + air


def _digits(span: float) -> int:
    """Return the decimals that tell ticks of an axis apart."""
    return 2 if span > 0.1 else 3


def _front_line(points: Sequence[Point], x: Axis, y: Axis) -> str:
    """Return a front as steps: what accuracy is to be had at a latency."""
    best = -math.inf
    corners: list[str] = []
    for point in sorted(points, key=lambda p: (p.latency_ms, -p.accuracy)):
        if point.accuracy <= best:
            continue
        if corners:
            corners.append(f"{x(point.latency_ms)},{y(best)}")
        corners.append(f"{x(point.latency_ms)},{y(point.accuracy)}")
        best = point.accuracy
    return " ".join(corners) if len(corners) > 1 else ""
