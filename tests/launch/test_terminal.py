import io
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from launch import live_view, terminal
from launch.live_view import Clock, duration
from launch.terminal import PlainProgress, RichProgress, make_progress
from nas.progress import FrontRow, Snapshot
from tests.launch.screen import Screen

TEACHER = FrontRow("teacher", 0.906, 5.7, 90e6, "", True)
FRONT = [
    FrontRow("t3", 0.898, 0.65, 22e6, "3 layers (0,2,5), hidden 384, ffn 768, int8", False),
    FrontRow("t9", 0.877, 0.38, 17e6, "2 layers (0,5), hidden 384, ffn 512, int8", True),
]
SEARCH = Snapshot("search", 7, 24, 2, 1, FRONT, TEACHER)


def screen(is_terminal: bool) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=is_terminal, width=120, highlight=False), text


def test_a_pipe_gets_plain_lines_and_a_terminal_a_live_display() -> None:
    assert isinstance(make_progress(None, screen(False)[0]), PlainProgress)
    assert isinstance(make_progress(None, screen(True)[0]), RichProgress)


def test_plain_lines_come_with_a_phase_and_not_for_every_snapshot() -> None:
    console, text = screen(False)
    progress = PlainProgress(console)
    for done in range(50):
        progress.show(Snapshot("profile", done, 50))
    progress.show(SEARCH)
    progress.close()
    lines = text.getvalue().splitlines()
    assert lines == [
        "profile: 0/50 measurements",
        "search: 7/24 trials, 2 running, 1 failed, best accuracy 0.898 at ~0.65 ms, 2 on the front",
    ]


def test_a_changed_state_is_printed_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    console, text = screen(False)
    progress = PlainProgress(console)
    monkeypatch.setattr(terminal, "PLAIN_EVERY_S", 0.0)
    progress.show(Snapshot("profile", 0, 8))
    progress.show(Snapshot("profile", 0, 8))
    progress.show(Snapshot("profile", 4, 8))
    progress.close()
    assert len(text.getvalue().splitlines()) == 2
    assert "4/8 measurements, about 0 s left" in text.getvalue()


def test_the_live_display_shows_phase_counts_and_front() -> None:
    console, text = screen(True)
    progress = RichProgress(console)
    progress.show(SEARCH)
    with console.capture() as capture:
        console.print(progress._render())
    progress.say("trial 7: accuracy 0.898")
    progress.close()
    shown = capture.get()
    for part in ("search: 7/24 trials", "2 running", "1 failed", "0.898", "~0.65 ms", "8.8x", "22.0 MB", "teacher"):
        assert part in shown
    assert "trial 7: accuracy 0.898" in text.getvalue()


@pytest.mark.parametrize("width", [80, 100])
def test_a_person_sees_one_line_for_the_phase_and_one_for_each_student(width: int) -> None:
    text, seen = io.StringIO(), Screen(width)
    progress = RichProgress(Console(file=text, force_terminal=True, width=width, height=24, highlight=False))
    progress.say("space: 480 students")
    shape = "3 layers (0,2,5), hidden 384, ffn 768, int8(per_channel=True)"
    front = [replace(FRONT[0], name=f"trial {i}", shape=shape) for i in range(10)]
    for done in range(3):
        progress.show(replace(SEARCH, done=done, front=front))
        assert progress._live is not None
        progress._live.refresh()
        progress.say(f"trial {done}: accuracy 0.565, ~0.06 ms, 21.1 MB, {shape}")
    seen.feed(text.getvalue())
    news, live = seen.lines[:-12], seen.lines[-12:]
    assert "search: 2/24 trials · 2 running · 1 failed · about" in live[0]
    assert live[1].split() == ["student", "accuracy", "latency", "speed-up", "size", "shape"]
    assert [line[:7] for line in live[2:10]] == [f"trial {i}" for i in range(8)]
    assert all(line.endswith("…") for line in live[2:10])
    assert live[10].startswith("and 2 more")
    assert live[11].startswith("teacher")
    assert news[0] == "space: 480 students"
    assert sum("search:" in line for line in seen.lines) == 1
    assert not seen.has_cursor
    seen.feed("^C")  # the echo of the terminal
    text.truncate(0)
    text.seek(0)
    progress.close()
    seen.feed(text.getvalue())
    assert seen.has_cursor
    assert seen.lines == news


def test_what_is_not_counted_has_no_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(live_view.time, "monotonic", lambda: now)
    clock = Clock()
    clock.see(Snapshot("prepare"))
    now = 110.0  # loading, uncounted
    clock.see(Snapshot("prepare", 1, 101))
    now = 112.0
    clock.see(Snapshot("prepare", 21, 101))
    assert clock.elapsed_s == pytest.approx(12.0)
    assert clock.left_s(Snapshot("prepare", 21, 101)) == pytest.approx(8.0)
    assert clock.left_s(Snapshot("prepare", 101, 101)) is None
    assert clock.left_s(Snapshot("prepare", 21, 101, left_s=5.0)) == 5.0
    assert clock.left_s(Snapshot("prepare", 21, 101, left_s=-1.0)) == 0.0


def test_names_cannot_inject_markup() -> None:
    console, text = screen(False)
    PlainProgress(console).say("[bold]label[/bold] [/]")
    assert "[bold]label[/bold] [/]" in text.getvalue()


def test_news_and_warnings_are_kept_in_the_log(tmp_path: Path) -> None:
    progress = PlainProgress(screen(False)[0], tmp_path / "log.txt")
    progress.say("teacher: accuracy 0.906")
    progress.warn("trial 3 failed (timeout)")
    progress.close()
    progress.close()
    progress.say("after the end")
    first, second = (tmp_path / "log.txt").read_text().splitlines()
    assert first.endswith(" teacher: accuracy 0.906")
    assert second.endswith(" warning: trial 3 failed (timeout)")


def test_warnings_of_our_loggers_reach_the_display_until_it_closes() -> None:
    console, text = screen(False)
    progress = make_progress(None, console)
    logging.getLogger("launch.mlflow_tracker").warning("tracking: %s does not answer", "http://x")
    progress.close()
    logging.getLogger("launch.mlflow_tracker").warning("too late")
    assert text.getvalue() == "warning: tracking: http://x does not answer\n"


def test_time_left_counts_only_what_this_process_did(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(live_view.time, "monotonic", lambda: now)
    clock = Clock()
    clock.see(Snapshot("search", 10, 20))
    assert clock.left_s(Snapshot("search", 10, 20)) is None
    now = 130.0
    assert clock.left_s(Snapshot("search", 15, 20)) == pytest.approx(30.0)
    assert clock.left_s(Snapshot("search", 15, 0)) is None


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.4, "59 s"), (187, "3:07 min"), (3725, "1:02 h"), (86400, "24:00 h")]
)
def test_durations_read_well(seconds: float, words: str) -> None:
    assert duration(seconds) == words
