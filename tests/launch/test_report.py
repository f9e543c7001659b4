import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from launch.report import (
    Baseline,
    Candidate,
    ReportData,
    Rung,
    Student,
    compared,
    duration,
    megabytes,
    milliseconds,
    plot,
    terminal_table,
    terminal_tables,
    write_report,
)

TEACHER = Baseline("sst2-minilm", 0.906, 5.71, 90.9e6, 0.9061, 22.7e6)
STUDENTS = (
    Student(
        "t017", "3 layers", 0.898, 0.896, 0.002, 3, 0.652, 0.648, 0.657, 0.71, 8.76, 21.9e6, 0.66, 0.899, 0.897, 0.001
    ),
    Student(
        "t005", "2 layers", 0.877, 0.874, 0.003, 3, 0.381, 0.379, 0.384, 0.42, 14.9, 17.2e6, 0.37, is_feasible=False
    ),
)
CANDIDATES = (
    Candidate("trial 1", 0.88, 0.7, "3 layers", is_front=True),
    Candidate("trial 2", 0.84, 0.4, "2 layers", is_front=True),
    Candidate("trial 3", 0.80, 2.7, "6 layers", is_feasible=False),
)
DATA = ReportData(
    "sst2",
    "21 November 2026, 09:01",
    TEACHER,
    "train.csv.gz",
    "cpu",
    "batch 1, 16 tokens, 1 thread",
    STUDENTS,
    CANDIDATES,
    ("latency_ms <= 1",),
    1.0,
    {"students trained": 24},
    {"worker_died": 1},
    {"search": 1260.4, "finalize": 700.0},
    0.031,
    {"mape": 0.034, "spearman": 0.993, "n": 32},
    {"processor": "AMD EPYC"},
    ('folder = "runs/sst2/best"', "import nas"),
)


class Page(HTMLParser):
    """Every start tag with its attributes, and the text of the page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(path.read_text())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "link", "img", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text += data

    def marked(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.tags if attrs.get("class") == name]


def page(data: ReportData, folder: Path) -> Page:
    return Page(write_report(folder, data))


def test_the_page_is_whole_and_says_what_matters(tmp_path: Path) -> None:
    shown = page(DATA, tmp_path)
    assert shown.open == []
    for part in ("8.8x", "98.9%", "4.2x", "0.652 ms", "0.648 to 0.657", "0.896 ± 0.002", "0.899", "90.9 MB"):
        assert part in shown.text
    for part in ("latency_ms <= 1", "worker_died", "AMD EPYC", "held-out error 3.4 %", "32 min 40 s", "3.1 %"):
        assert part in shown.text


def test_the_page_needs_no_network_and_runs_no_script(tmp_path: Path) -> None:
    shown = page(DATA, tmp_path)
    assert not [tag for tag, _ in shown.tags if tag in ("script", "link", "img", "iframe")]
    assert not [name for _, attrs in shown.tags for name in attrs if name in ("src", "href") or name.startswith("on")]
    policy = next(attrs for tag, attrs in shown.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in (policy["content"] or "")


def test_names_cannot_inject_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'&{{ 7*7 }}"
    data = replace(
        DATA,
        name=evil,
        data=evil,
        teacher=replace(TEACHER, name=evil),
        students=(replace(STUDENTS[0], name=evil, shape=evil, remarks=(evil,)),),
        environment={evil: evil},
        loading=(evil, evil),
    )
    shown = page(data, tmp_path)
    assert "script" not in [tag for tag, _ in shown.tags]
    assert evil in shown.text
    assert "49" not in re.findall(r"alert\(1\).{0,40}", shown.text)[0]


def test_every_point_is_drawn_with_its_text(tmp_path: Path) -> None:
    shown = page(DATA, tmp_path)
    titles = re.findall(r"(?:trial \d|t0\d\d|teacher): 0\.\d", shown.text)
    assert len(titles) == len(CANDIDATES) + len(STUDENTS) + 1
    assert len(shown.marked("whisker")) == len(STUDENTS)
    assert len(shown.marked("limit")) == 1


def test_rungs_are_a_table_and_a_stopped_student_says_so_where_there_are_any(tmp_path: Path) -> None:
    rungs = (Rung(0.0, 12, 0.31, is_widened=True), Rung(0.25, 7, 0.8), Rung(1.0, 4))
    candidates = (*CANDIDATES, Candidate("trial 4", 0.5, 0.6, "2 layers", remark="stopped at 25 %"))
    shown = page(replace(DATA, rungs=rungs, candidates=candidates), tmp_path)
    text = " ".join(shown.text.split())
    assert "0 %12 0.31low, so fewer were stopped 25 %7 0.80 100 %4 -" in text
    assert "trial 4: 0.500, 0.600 ms predicted; 2 layers; stopped at 25 %" in text
    assert shown.open == []
    without = page(DATA, tmp_path).text
    assert "Stopped early" not in without
    assert "stopped at" not in without


def test_the_lines_that_load_the_best_student_are_shown_as_they_are(tmp_path: Path) -> None:
    shown = page(DATA, tmp_path)
    assert [line for line in shown.text.splitlines() if line in DATA.loading] == list(DATA.loading)
    assert "Load the best" not in page(replace(DATA, loading=()), tmp_path).text


def test_an_unfinished_search_says_so(tmp_path: Path) -> None:
    shown = page(ReportData("sst2", "now", TEACHER, "data", "cpu", "batch 1"), tmp_path)
    assert "No finalists yet" in shown.text
    assert "Load the best" not in shown.text


def test_writing_again_replaces_the_report(tmp_path: Path) -> None:
    write_report(tmp_path, DATA)
    write_report(tmp_path, replace(DATA, name="second"))
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert "<h1>second</h1>" in (tmp_path / "report.html").read_text()


def test_the_best_student_is_drawn_on_top() -> None:
    kinds = [mark.point.kind for mark in plot(DATA).marks]
    assert kinds == ["refused", "front", "front", "teacher", "student", "student"]
    assert plot(DATA).marks[-1].point.label == "1"


def test_the_terminal_table_has_the_same_figures() -> None:
    text = io.StringIO()
    Console(file=text, width=160).print(terminal_table(replace(DATA, teacher=replace(TEACHER, name="[red]x"))))
    for part in ("t017", "0.898", "0.896 ± 0.002", "0.652 ms", "8.8x", "21.9 MB", "[red]x", "misses a constraint"):
        assert part in text.getvalue()


def both() -> ReportData:
    """The same search on a phone, where the second student is called the best."""
    slower = [replace(s, latency_ms=10 * s.latency_ms, low_ms=10 * s.low_ms, high_ms=10 * s.high_ms) for s in STUDENTS]
    phone = replace(DATA, device="phone", limit_ms=None, students=tuple(slower[::-1]), environment={"processor": "A"})
    return replace(DATA, others=(phone,))


def test_the_best_students_of_two_devices_are_compared_on_both() -> None:
    assert compared(DATA) == []
    assert compared(both()) == [
        "best on cpu: t017 (3 layers), 0.652 ms (8.8x) on cpu, 6.52 ms (8.8x) on phone",
        "best on phone: t005 (2 layers), 0.381 ms (14.9x) on cpu, 3.81 ms (14.9x) on phone",
    ]
    same = replace(DATA, others=(replace(DATA, device="phone"),))
    assert compared(same) == [
        "best on cpu and phone: t017 (3 layers), 0.652 ms (8.8x) on cpu, 0.652 ms (8.8x) on phone"
    ]
    assert compared(replace(DATA, students=(), others=(replace(DATA, device="phone", students=()),))) == []


def test_every_device_has_its_plot_and_its_table(tmp_path: Path) -> None:
    shown = page(both(), tmp_path)
    assert shown.open == []
    for part in (
        "device cpu (batch 1",
        "and device phone",
        "Finalists on phone",
        "6.52 ms",
        "Measured on phone",
        *compared(both()),
    ):
        assert part in shown.text
    assert len(shown.marked("plot")) == 2
    assert len(shown.marked("limit")) == 1
    for name in ("cpu", "phone"):
        assert shown.text.count(f"Load the best student on {name}") == 1
    assert "on cpu" not in page(DATA, tmp_path).text
    text = io.StringIO()
    Console(file=text, width=160).print(terminal_tables(both()))
    for part in ("students of sst2-minilm on cpu", "students of sst2-minilm on phone", *compared(both())):
        assert part in text.getvalue()


@pytest.mark.parametrize(("value", "text"), [(0.65234, "0.652 ms"), (5.714, "5.71 ms"), (123.44, "123.4 ms")])
def test_latencies_have_three_digits(value: float, text: str) -> None:
    assert milliseconds(value) == text


def test_sizes_and_durations_read_well() -> None:
    assert megabytes(67_844) == "68 kB"
    assert (megabytes(21_900_000), duration(3.21), duration(245.4)) == ("21.9 MB", "3.2 s", "4 min 05 s")
