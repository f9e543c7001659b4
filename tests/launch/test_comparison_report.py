import re

from rich.console import Console

from launch.comparison_report import Facts, html, terminal_report
from nas.compared import Row

FACTS = Facts("tiny", "train.csv", "1 epochs", "cpu")


def row(name: str, latency_ms: float, speedup: float, *remarks: str) -> Row:
    figures = {"accuracy": 0.9, "latency_ms": latency_ms, "speedup": speedup, "size_bytes": 5e5, "worst_label": 0.0}
    return Row(name, name, {**figures, "low_ms": latency_ms, "high_ms": latency_ms}, {}, 1, remarks, None)


def printed(rows: list[Row]) -> str:
    console = Console(width=80)
    with console.capture() as captured:
        for part in terminal_report(rows, FACTS):
            console.print(part)
    return captured.get()


def test_what_holds_for_all_rows_is_said_once() -> None:
    text = printed([row("teacher", 1, 1, "busy"), row("qat", 1, 1, "busy", "odd"), row("albert", 1, 1, "busy")])
    assert text.count("busy") == 1
    assert "all: busy" in text
    assert "qat: odd" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_plot_takes_a_slower_machine_out() -> None:
    page = html([row("teacher", 10.0, 1.0), row("qat", 20.0, 1.0)], FACTS)
    teacher = re.search(r'class="teacher-mark" d="M([\d.]+) [\d.]+ l', page)
    student = re.search(r'class="student" cx="([\d.]+)" cy="[\d.]+" r="26', page)
    assert teacher
    assert student
    assert teacher[1] == student[1]


def test_texts_of_marks_at_one_place_stand_below_each_other() -> None:
    page = html([row(name, 1.0, 1.0) for name in ("teacher", "qat", "albert", "movement")], FACTS)
    heights = [float(y) for y in re.findall(r'<text class="(?:in|named)" x="[\d.]+" y="([\d.]+)"', page)]
    assert len(heights) == 4
    assert all(abs(a - b) >= 12 for i, a in enumerate(heights) for b in heights[:i])
