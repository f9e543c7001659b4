import shutil
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState

from launch.report import render
from launch.report_data import report_data
from nas.bundle import Bundle
from nas.engine import Engine
from nas.executor import Outcome, Task
from nas.files import read_json, write_json
from nas.inprocess import InProcessExecutor
from nas.progress import Silent, Snapshot
from nas.recipe import Recipe
from nas.run_folder import RunFolder
from nas.rungs import CONTINUES, Rungs, latest, student_of, trained_in_full
from nas.tracker import NullTracker
from nas.trial import train_student

FIDELITY = {"rungs": [0.0, 0.25, 1.0], "eta": 2.0, "buckets": 1}


class Watched(InProcessExecutor):
    """Remembers the training tasks of trials; stops, as Ctrl-C would, after some outcomes or before the finals."""

    def __init__(self, after: int, has_finals: bool) -> None:
        super().__init__()
        self.left, self.has_finals, self.tasks = after, has_finals, list[Task]()

    def submit(self, task: Task) -> None:
        if task.uid.startswith("final-") and not self.has_finals:
            raise KeyboardInterrupt
        if task.uid.startswith("trial-"):
            self.tasks.append(task)
        super().submit(task)

    def wait(self, timeout_s: float) -> list[Outcome]:
        outcomes = super().wait(timeout_s)
        if any(outcome.uid.startswith("trial-") for outcome in outcomes):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        return outcomes


class Heard(Silent):
    """Remembers what was said and shown."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.fronts: list[list[str]] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def show(self, snapshot: Snapshot) -> None:
        self.fronts.append([f"{row.name} {row.shape}" for row in snapshot.front])


def engine(recipe: Mapping[str, Any], path: Path, after: int = 1000, has_finals: bool = False) -> Engine:
    folder = RunFolder(path)
    folder.create()
    return Engine(Recipe.model_validate(recipe), folder, Watched(after, has_finals), NullTracker(), Heard())


@pytest.fixture(scope="module")
def recipe(tiny_teacher: Path, tiny_data: Path) -> dict[str, Any]:
    return {
        "name": "tiny",
        "teacher": {"model": str(tiny_teacher)},
        "data": {"source": str(tiny_data), "validation_share": 0.2},
        "search": {"trials": 8, "profile_shapes": 4, "train": {"epochs": 1, "lr": 1e-3}, "fidelity": FIDELITY},
        "finalize": {"finalists": 1, "seeds": 1, "starts": 1, "train": {"epochs": 0.1}},
    }


def run(made: Engine) -> list[Task]:
    """Return the training tasks of a search that was run, to its end or to its interruption."""
    watched = made.executor
    assert isinstance(watched, Watched)
    with suppress(KeyboardInterrupt):
        made.run()
    return watched.tasks


def tasks_of(made: Engine) -> list[Task]:
    """Return the training tasks of a search that has ended; the engine has wrapped its executor."""
    inner: Any = made.executor
    while not isinstance(inner, Watched):
        inner = inner._inner
    return inner.tasks


def student(made: Engine, uid: str) -> int:
    """Return the first trial of the student that a task trains."""
    return student_of(made.record.trial(int(uid.split(".")[0].removeprefix("trial-"))))


def spans(tasks: list[Task]) -> list[tuple[str, float, float]]:
    return [(task.uid.split(".")[0], *task.spec["rung"]) for task in tasks]


def told(made: Engine) -> list[dict[str, Any]]:
    """Return what was told of every trial, without how long it took."""
    return [
        {
            "params": trial.params,
            "values": trial.values,
            "rung": trial.user_attrs["rung"],
            "rungs": [{**row, "seconds": 0} for row in trial.user_attrs["rungs"]],
            "steps": trial.user_attrs["steps"],
        }
        for trial in made.record.trials((TrialState.COMPLETE,))
    ]


@pytest.fixture(scope="module")
def straight(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Engine:
    made = engine(recipe, tmp_path_factory.mktemp("runs") / "straight", has_finals=True)
    run(made)
    return made


def test_a_search_by_rungs_trains_less_and_only_the_best_to_the_end(straight: Engine) -> None:
    taken = spans(tasks_of(straight))
    trials = latest(straight.record.trials((TrialState.COMPLETE,)))
    assert len(trials) == 8
    assert sum(end - begin for _, begin, end in taken) <= 6  # of the 8 that training all in full takes
    for trial in trials:
        rows = trial.user_attrs["rungs"]
        assert [row["rung"] for row in rows] == [
            end for uid, _, end in taken if student(straight, uid) == student_of(trial)
        ]
        assert rows[-1]["rung"] == trial.user_attrs["rung"]
        assert rows[-1]["accuracy"] == trial.user_attrs["metrics"]["accuracy"] == trial.values[0]
        assert trial.user_attrs["steps"] == [[row["rung"], row["accuracy"]] for row in rows]
        assert trial.user_attrs["seconds"]["train"] == pytest.approx(sum(row["seconds"]["train"] for row in rows))
    reached = Counter(trial.user_attrs["rung"] for trial in trials)
    assert reached[0.0] > 0 < reached[1.0] < 8
    assert not straight.folder.checkpoints.exists()


def test_a_stopped_student_that_is_among_the_best_later_goes_on_as_another_trial(straight: Engine) -> None:
    trials = straight.record.trials((TrialState.COMPLETE,))
    again = [trial for trial in trials if CONTINUES in trial.user_attrs]
    assert again
    for trial in again:
        first = straight.record.trial(student_of(trial))
        assert trial.params == first.params
        assert first.user_attrs["rung"] < trial.user_attrs["rung"]
        n_before = len(first.user_attrs["rungs"])
        assert trial.user_attrs["rungs"][:n_before] == first.user_attrs["rungs"]
    numbers = [trial.number for trial in latest(trials)]
    assert len({student_of(trial) for trial in trials}) == len(numbers) == 8
    data = report_data(straight.folder, straight.recipe)
    assert [candidate.name for candidate in data.candidates] == [f"trial {number}" for number in numbers]


def test_only_students_trained_in_full_reach_the_front_and_the_finalists(straight: Engine) -> None:
    for row in straight.record.attrs["students"]:
        assert straight.record.trial(row["trial"]).user_attrs["rung"] == 1.0
    heard = straight.progress
    assert isinstance(heard, Heard)
    assert heard.fronts[-1] == []  # of another phase
    last = next(front for front in reversed(heard.fronts) if front)
    assert not any("stopped at" in row for row in last)
    data = report_data(straight.folder, straight.recipe)
    stopped = [candidate for candidate in data.candidates if candidate.remark]
    assert {candidate.remark for candidate in stopped} >= {"stopped at 0 %"}
    assert not any(candidate.is_front for candidate in stopped)
    assert any(candidate.is_front for candidate in data.candidates)


def test_the_teacher_of_the_report_was_timed_in_turns_with_the_finalists(straight: Engine) -> None:
    timed = [row["measurement"]["reference_ms"] for row in straight.record.attrs["students"]]
    assert report_data(straight.folder, straight.recipe).teacher.latency_ms == pytest.approx(np.median(timed))


def test_where_nobody_reached_the_last_rung_all_may_be_on_the_front(straight: Engine) -> None:
    trials = straight.record.trials((TrialState.COMPLETE,))
    stopped = [trial for trial in trials if trial.user_attrs["rung"] < 1]
    assert trained_in_full(stopped) == stopped
    assert trained_in_full(trials) == [trial for trial in trials if trial not in stopped]


def test_a_search_by_rungs_says_what_they_did(straight: Engine) -> None:
    rows = straight.record.attrs["fidelity"]
    assert [row["rung"] for row in rows] == FIDELITY["rungs"]
    assert rows[0]["reached"] == 8 > rows[2]["reached"]
    heard = straight.progress
    assert isinstance(heard, Heard)
    for row, line in zip(rows, heard.lines[-3:], strict=True):
        assert line.startswith(f"rung {100 * row['rung']:g} %: {row['reached']} trials reached it")
    assert any(", stopped at 0 %, " in line for line in heard.lines)
    page = render(report_data(straight.folder, straight.recipe))
    assert "Stopped early" in page
    assert f"<td>25 %</td><td>{rows[1]['reached']}</td>" in page
    assert "; stopped at 0 %" in page


def begun(straight: Engine, recipe: dict[str, Any], path: Path, after: int = 1000) -> Engine:
    """Return a search that has measured what another one had, so that it must decide alike."""
    made = engine(recipe, path, after)
    shutil.copytree(straight.folder.teacher, made.folder.teacher, dirs_exist_ok=True)
    stored = read_json(straight.folder.profile)  # without what its finalists told later
    write_json(made.folder.profile, {key: value for key, value in stored.items() if key != "later"})
    return made


@pytest.mark.parametrize("after", [2, 5])
def test_an_interrupted_search_goes_on_from_the_last_rung_of_what_ran(
    straight: Engine, recipe: dict[str, Any], tmp_path: Path, after: int
) -> None:
    before = spans(run(begun(straight, recipe, tmp_path / "run", after)))
    assert len(before) == after + 1
    resumed = engine(recipe, tmp_path / "run")
    tasks = run(resumed)
    assert before[:-1] + spans(tasks) == spans(tasks_of(straight))  # one rung was lost with the process
    assert told(resumed) == told(straight)


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_who_lost_its_checkpoint_climbs_in_one_go_to_where_it_was_going(
    straight: Engine, recipe: dict[str, Any], tmp_path: Path, damage: str
) -> None:
    place = next(i for i, (_, begin, _) in enumerate(spans(tasks_of(straight))) if begin == 0.25)
    broken = begun(straight, recipe, tmp_path / "run", after=place)  # while somebody is on its last rung
    uid, *span = spans(run(broken))[-1]
    assert span == [0.25, 1.0]
    path = broken.folder.checkpoints / f"t{student(broken, uid)}.safetensors"
    path.write_bytes(path.read_bytes()[:-1]) if damage == "cut" else path.unlink()
    resumed = engine(recipe, tmp_path / "run", after=1)
    assert spans(run(resumed))[0] == (uid, 0.0, 1.0)  # a stopped student that is worse than before would be a loss
    n_told = len(told(broken))
    assert told(resumed)[: n_told + 1] == told(straight)[: n_told + 1]


def test_only_the_checkpoints_of_the_last_few_stopped_students_are_kept(
    straight: Engine, recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.rungs.KEPT", 1)
    fidelity = {"rungs": [0.1, 0.25, 1.0], "eta": 3.0, "buckets": 1}
    search = {**recipe["search"], "fidelity": fidelity}
    made = begun(straight, {**recipe, "search": search}, tmp_path / "run", after=5)
    n_kept = []
    settle = Rungs.settle

    def watched(rungs: Rungs, *arguments: Any) -> bool:
        goes_on = settle(rungs, *arguments)
        n_kept.append(len(list(made.folder.checkpoints.iterdir())))
        return goes_on

    monkeypatch.setattr(Rungs, "settle", watched)
    run(made)
    assert len(n_kept) == 5
    assert max(n_kept) <= 2  # of the one that stopped last and of the one that runs


def test_other_rungs_take_what_runs_back_to_the_first_one(
    straight: Engine, recipe: dict[str, Any], tmp_path: Path
) -> None:
    place = next(i for i, (_, begin, _) in enumerate(spans(tasks_of(straight))) if begin == 0.25)
    uid, *_ = spans(run(begun(straight, recipe, tmp_path / "run", after=place)))[-1]
    fidelity = {**FIDELITY, "rungs": [0.0, 0.5, 1.0]}
    resumed = engine({**recipe, "search": {**recipe["search"], "fidelity": fidelity}}, tmp_path / "run", after=2)
    assert spans(run(resumed))[:2] == [(uid, 0.0, 0.0), (uid, 0.0, 0.5)]


def test_a_trial_that_fails_on_its_way_is_one_failed_trial(
    straight: Engine, recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = tasks_of(straight)
    place = next(i for i, task in enumerate(tasks) if task.uid.endswith(".1"))
    unlucky_one = int(tasks[place].uid.split(".")[0].removeprefix("trial-"))

    def unlucky(task: Task, bundle: Bundle) -> dict[str, Any]:
        if task.uid == f"trial-{unlucky_one}.1":
            raise ValueError("bad luck")
        return train_student(task, bundle)

    monkeypatch.setattr("nas.trial.train_student", unlucky)
    made = begun(straight, recipe, tmp_path / "run", after=place + 1)
    run(made)
    (failed,) = made.record.trials((TrialState.FAIL,))
    assert [row["rung"] for row in failed.user_attrs["rungs"]] == [0.0]
    assert failed.number == unlucky_one
    assert not (made.folder.checkpoints / f"t{student_of(failed)}.safetensors").exists()


def test_without_rungs_nothing_of_them_is_kept(straight: Engine, recipe: dict[str, Any], tmp_path: Path) -> None:
    search = {key: value for key, value in recipe["search"].items() if key != "fidelity"}
    made = begun(straight, {**recipe, "search": {**search, "trials": 2}}, tmp_path / "run")
    tasks = run(made)
    assert [(task.uid, "rung" in task.spec) for task in tasks] == [("trial-0", False), ("trial-1", False)]
    kept = {key for trial in made.record.trials() for key in trial.user_attrs}
    assert not {"rung", "rungs", "steps"} & kept
    assert "fidelity" not in made.record.attrs
