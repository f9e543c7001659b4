from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState
from transformers import BertForSequenceClassification

import nas
from nas.engine import Engine, check_names
from nas.executor import Outcome, Task
from nas.files import read_json
from nas.inprocess import InProcessExecutor
from nas.objectives import Constraint
from nas.prepare import prepare
from nas.progress import Silent
from nas.recipe import Recipe
from nas.record import Record
from nas.run_folder import RunFolder
from nas.sensitivity import of_rows
from nas.student import manifest
from nas.tracker import NullTracker, TrialRun
from search_spaces.errors import ConfigError, InfeasibleError, StateError
from tests.conftest import SIMULATED, tiny_config, tiny_tokenizer, write_rows


class Notes(NullTracker):
    """A tracker that remembers what it was told."""

    def __init__(self) -> None:
        self.trials: dict[str, TrialRun] = {}

    def log_trial(self, trial: TrialRun) -> None:
        self.trials[trial.name] = trial


class Heard(Silent):
    """A progress that remembers its warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, line: str) -> None:
        self.warnings.append(line)


class Interrupted(InProcessExecutor):
    """Stops the search, as Ctrl-C would, when the given number of trials has ended."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def wait(self, timeout_s: float) -> list[Outcome]:
        outcomes = super().wait(timeout_s)
        if any(outcome.uid.startswith("trial-") for outcome in outcomes):
            self.left -= 1
            if self.left < 0:  # the outcome is lost with the process
                raise KeyboardInterrupt
        return outcomes


class Disturbed(InProcessExecutor):
    """A device beside which the reference takes twice as long in the first measurements of finalists."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times, self.names = times, list[list[str]]()

    def submit(self, task: Task) -> None:
        super().submit(task)
        if task.uid == "final-measure":
            self.names.append(sorted(task.blobs))

    def wait(self, timeout_s: float) -> list[Outcome]:
        outcomes = super().wait(timeout_s)
        for outcome in outcomes:
            rows = (outcome.value or {}).get("measurements", [])
            for i, row in enumerate(rows):
                is_final = outcome.uid == "final-measure"
                is_slow = is_final and len(self.names) <= self.times and i == len(rows) - 1
                row |= {"reference_ms": 2.0 if is_slow else 1.0, "contended": False, "n": len(self.names)}
        return outcomes


def engine(recipe: Mapping[str, Any], path: Path, executor: InProcessExecutor | None = None) -> Engine:
    folder = RunFolder(path)
    folder.create()
    return Engine(Recipe.model_validate(recipe), folder, executor or InProcessExecutor(), Notes(), Silent())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_data: Path) -> tuple[Engine, list[Any]]:
    path = tmp_path_factory.mktemp("runs") / "tiny"
    test = write_rows(tmp_path_factory.mktemp("more") / "test.csv", 100, 1)
    recipe = {
        "name": "tiny",
        "teacher": {"model": str(tiny_base), "finetune": {"epochs": 1}},
        "data": {"source": str(tiny_data), "validation_share": 0.2, "test": str(test)},
        "constraints": ["accuracy_drop <= 60%"],
        "search": {"trials": 6, "profile_shapes": 6, "train": {"epochs": 0.5}},
        "finalize": {"finalists": 2, "seeds": 2, "starts": 2, "train": {"epochs": 0.5}},
    }
    made = engine(recipe, path)
    return made, made.run()


def test_a_search_trains_its_budget_and_delivers_measured_students(finished: tuple[Engine, list[Any]]) -> None:
    made, students = finished
    complete = made.record.trials((TrialState.COMPLETE,))
    assert len(complete) == 6
    assert 1 <= len(students) <= 2
    for row in students:
        assert row["seeds"] == 2
        assert row["metrics"]["latency_ms"] == row["measurement"]["median_ms"] > 0
        assert row["measurement"]["starts"] == 2
        assert 0 <= row["test_mean"] <= 1
    assert made.recipe.name == "tiny"
    assert {"prepare", "profile", "search", "finalize"} <= set(made.record.attrs["seconds"])


def test_equal_students_are_never_trained_twice(finished: tuple[Engine, list[Any]]) -> None:
    trials = finished[0].record.trials((TrialState.COMPLETE,))
    assert len({str(sorted(t.user_attrs["genes"].items())) for t in trials}) == len(trials)


def test_a_briefly_trained_student_may_miss_a_bound_on_accuracy_by_the_tolerance(
    finished: tuple[Engine, list[Any]],
) -> None:
    made, _ = finished
    (text,) = made.recipe.constraints
    limit = Constraint.parse(text).limit(made.record.attrs["teacher"])
    for trial in made.record.trials((TrialState.COMPLETE,)):
        miss = (limit - trial.user_attrs["metrics"]["accuracy"]) / limit
        assert trial.constraints[text] == pytest.approx(miss - made.recipe.search.tolerance)


def test_every_trial_and_finalist_is_mirrored(finished: tuple[Engine, list[Any]]) -> None:
    made, students = finished
    names = made.tracker.trials  # type: ignore[attr-defined]
    assert sum(name.startswith("trial-") for name in names) == 6
    assert sum(name.startswith("finalist-") for name in names) == len(students)


def test_a_delivered_student_loads_and_its_artefact_gives_the_reported_accuracy(
    finished: tuple[Engine, list[Any]],
) -> None:
    made, students = finished
    folder = made.folder.students / students[0]["name"]
    model = nas.load_student(str(folder))
    assert model.config.to_json() == manifest(folder)["config"]
    assert (folder / "model.onnx").stat().st_size == students[0]["metrics"]["size_bytes"]


def test_a_finished_run_resumes_to_the_same_answer_without_work(finished: tuple[Engine, list[Any]]) -> None:
    made, students = finished
    again = engine(made.recipe.model_dump(), made.folder.path, Interrupted(after=0))
    assert again.run() == students


def test_an_interrupted_search_goes_on_where_it_stopped(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    tiny_recipe["device"] = SIMULATED
    straight = engine(tiny_recipe, tmp_path / "straight")
    straight.run()
    for after in (2, 1):
        with pytest.raises(KeyboardInterrupt):
            engine(tiny_recipe, tmp_path / "broken", Interrupted(after)).run()
    resumed = engine(tiny_recipe, tmp_path / "broken")
    resumed.run()
    ours, theirs = (e.record.trials((TrialState.COMPLETE,)) for e in (resumed, straight))
    assert len(ours) == 6
    assert [t.params for t in ours] == [t.params for t in theirs]


@pytest.mark.parametrize("times", [0, 1, 9])
def test_students_are_measured_again_where_something_disturbed_the_device(
    tiny_recipe: dict[str, Any], tmp_path: Path, times: int
) -> None:
    tiny_recipe["search"] = {"trials": 4, "profile_shapes": 5, "train": {"epochs": 0.1}}
    tiny_recipe["finalize"] = {"finalists": 3, "seeds": 1, "starts": 1, "train": {"epochs": 0.1}}
    tiny_recipe["device"] = SIMULATED
    executor = Disturbed(times)
    students = engine(tiny_recipe, tmp_path / "run", executor).run()
    names = executor.names[0]
    assert executor.names[1:] == [names[-1:]] * {0: 0, 1: 1, 9: 1}[times]
    seen = {row["name"]: row["measurement"] for row in students}
    assert [seen[name]["contended"] for name in names] == [*[False] * (len(names) - 1), times == 9]
    assert [seen[name]["n"] for name in names] == [*[1] * (len(names) - 1), {0: 1, 1: 2, 9: 1}[times]]


def test_knapsack_seeds_follow_the_warm_start_once_also_after_interruptions(
    tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_recipe["search"] = {"trials": 9, "profile_shapes": 10, "train": {"epochs": 0.1}, "knapsack": True}
    tiny_recipe["finalize"] = {"finalists": 1, "seeds": 1, "starts": 1, "train": {"epochs": 0.1}}
    tiny_recipe["data"]["max_train"] = 100
    tiny_recipe["device"] = SIMULATED
    straight, broken = (engine(tiny_recipe, tmp_path / name, Interrupted(0)) for name in ("straight", "broken"))
    with pytest.raises(KeyboardInterrupt):
        straight.run()
    seeds, n_first = straight.record.attrs["knapsack"], straight.record.attrs["warm_start"]
    enqueue, left = Record.enqueue, iter(range(n_first + 1))

    def enqueue_some(record: Record, params: Mapping[str, Any]) -> None:
        if next(left, None) is None:  # the machine stops between two seeds
            raise KeyboardInterrupt
        enqueue(record, params)

    with monkeypatch.context() as patched:
        patched.setattr(Record, "enqueue", enqueue_some)
        with pytest.raises(KeyboardInterrupt):
            broken.run()
    for executor in (Interrupted(1), None):
        resumed = engine(tiny_recipe, tmp_path / "broken", executor)
        with pytest.raises(KeyboardInterrupt) if executor else nullcontext():
            resumed.run()
    for made in (straight, resumed):
        enqueued = [t.system_attrs["fixed_params"] for t in made.record.trials() if "fixed_params" in t.system_attrs]
        assert len(seeds) >= 2
        assert enqueued[n_first:] == made.record.attrs["knapsack"] == seeds
    assert resumed.record.trials()[n_first].params == seeds[0]
    damages = of_rows(straight.record.attrs["damages"])
    assert of_rows(resumed.record.attrs["damages"]) == damages
    assert max(damages["hidden"].values()) > damages["hidden"][max(damages["hidden"])] == 0.0


@pytest.mark.parametrize(
    "changes", [{"knapsack": False}, {"warm_start": False}, {"trials": 2}], ids=["off", "cold", "no turn left"]
)
def test_no_knapsack_is_solved_whose_seeds_nobody_asks_for(
    tiny_recipe: dict[str, Any], tmp_path: Path, changes: dict[str, Any]
) -> None:
    search = {"trials": 8, "profile_shapes": 4, "train": {"epochs": 0.1}, "knapsack": True}
    tiny_recipe |= {"search": {**search, **changes}, "device": SIMULATED}
    made = engine(tiny_recipe, tmp_path / "run", Interrupted(0))
    with pytest.raises(KeyboardInterrupt):
        made.run()
    assert "knapsack" not in made.record.attrs


def test_a_diverging_search_stops_early_with_the_shared_cause(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    tiny_recipe["search"] = {"trials": 50, "profile_shapes": 4, "train": {"lr": 1e30}}
    tiny_recipe["device"] = SIMULATED
    made = engine(tiny_recipe, tmp_path / "run")
    with pytest.raises(StateError, match="trials all failed alike"):
        made.run()
    failed = made.record.trials((TrialState.FAIL,))
    assert len(failed) == 5
    assert failed[0].user_attrs["cause"] == "diverged"


def test_a_trial_that_raises_is_recorded_and_the_search_goes_on(
    tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(1000))
    import nas.trial as trial

    real = trial.train_student

    def sometimes(task: Task, bundle: Any) -> dict[str, Any]:
        if next(calls) == 1:
            raise ValueError("bad luck")
        return real(task, bundle)

    monkeypatch.setattr(trial, "train_student", sometimes)
    tiny_recipe["device"] = SIMULATED
    made = engine(tiny_recipe, tmp_path / "run")
    made.run()
    assert len(made.record.trials((TrialState.COMPLETE,))) == 5
    (failed,) = made.record.trials((TrialState.FAIL,))
    assert failed.user_attrs["cause"] == "error"
    assert "bad luck" in failed.user_attrs["message"]


def test_an_infeasible_constraint_ends_with_the_fastest_student(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    tiny_recipe["constraints"] = ["latency_ms <= 0.000001"]
    with pytest.raises(InfeasibleError, match=r"the fastest student is \d+\.\d+ ms"):
        engine(tiny_recipe, tmp_path / "run").run()


def test_a_space_smaller_than_the_budget_is_exhausted_and_says_so(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    tiny_recipe["space"] = {
        "genes": {"keep_1": [False], "keep_2": [False], "hidden": [16], "ffn": [32, 64], "int8.enabled": [True]}
    }
    tiny_recipe["compress"] = {
        "distillation": {"alpha": 0.1, "temperature": 2.0, "hidden": 0.0, "live": False},
        "structured_pruning": {"schedule": "oneshot"},
        "int8": {"per_channel": True},
    }
    tiny_recipe["device"] = SIMULATED
    for what in ("search", "resumption"):
        made = engine(tiny_recipe, tmp_path / "run")
        made.progress = heard = Heard()
        made.run()
        assert len(made.record.trials((TrialState.COMPLETE,))) == 2, what
        assert heard.warnings == ["space exhausted: all 2 students were tried; 2 of 6 trials used"]


def test_a_budget_that_is_spent_is_no_exhausted_space(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    tiny_recipe["search"] = {"trials": 2, "profile_shapes": 4, "train": {"epochs": 0.2}}
    tiny_recipe["device"] = SIMULATED
    made = engine(tiny_recipe, tmp_path / "run")
    made.progress = heard = Heard()
    made.run()
    assert heard.warnings == []


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("objectives", ["acuracy"], "Did you mean 'accuracy'"),
        ("constraints", ["latency_ms <= fast"], "latency_ms <= fast"),
        ("constraints", ["latency_ms <= 1", "latency_ms >= 2"], "latency_ms"),
        ("search", {"strategy": "evolutoin"}, "Did you mean 'evolution'"),
        ("device", {"name": "cpuu"}, "Did you mean 'cpu'"),
        ("device", {"threads": 4096}, r"device\.threads: 4096 is more than the \d+ processors"),
        ("space", {"family": "text_encodr"}, "Did you mean 'text_encoder'"),
        ("space", {"genes": {"ffn": [4000]}}, "4000"),
        ("space", {"genes": {"ffn": []}}, "ffn"),
        ("space", {"genes": {"fnn": [64]}}, "Did you mean 'ffn'"),
        ("compress", {"int9": {}}, "Did you mean 'int8'"),
        ("compress", {"int8": {"enabeld": True}}, "Did you mean 'enabled'"),
        ("teacher", {"model": "/nowhere"}, "/nowhere"),
    ],
)
def test_a_bad_recipe_is_refused_before_any_worker_starts(
    tiny_recipe: dict[str, Any], tmp_path: Path, section: str, value: Any, message: str
) -> None:
    executor = InProcessExecutor()
    with pytest.raises(ConfigError, match=message) as caught:
        engine({**tiny_recipe, section: value}, tmp_path / "run", executor).run()
    assert len(str(caught.value).splitlines()) == 1
    assert executor._bundle is None


def test_only_a_cluster_may_have_more_processors_than_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    many = {"device": {"threads": 4096}}
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    check_names(Recipe.model_validate({**many, "cluster": {"address": "192.0.2.1:6379"}}))
    with pytest.raises(ConfigError, match=r"device\.threads: 4096"):
        check_names(Recipe.model_validate(many))
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    check_names(Recipe.model_validate(many))
    with pytest.raises(ConfigError, match=r"device\.threads: 4096"):
        check_names(Recipe.model_validate({**many, "cluster": {"executor": "inprocess"}}))


def named_teacher(folder: Path, **config: Any) -> Path:
    BertForSequenceClassification(tiny_config(**config)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("config", "labels"),
    [({"id2label": {0: "NEGATIVE", 1: "POSITIVE"}}, ("NEGATIVE", "POSITIVE")), ({"num_labels": 2}, ("0", "1"))],
)
@pytest.mark.parametrize("finetune", [None, {"epochs": 1}])
def test_a_trained_teacher_lends_its_label_names_also_when_resumed(
    tiny_recipe: dict[str, Any], tmp_path: Path, config: Any, labels: Any, finetune: Any
) -> None:
    tiny_recipe["teacher"] = {"model": str(named_teacher(tmp_path / "teacher", **config)), "finetune": finetune}
    made = engine(tiny_recipe, tmp_path / "run")
    for what in ("search", "resumption"):
        prepared = prepare(made.recipe, made.folder, Silent())
        assert prepared.data.labels == tuple(prepared.bundle.teacher_config["labels"]) == labels, what
    assert set(prepared.bundle.train.labels.tolist()) == {0, 1}


def test_a_teacher_of_other_labels_is_refused_with_both_counts(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    names = {0: "NO", 1: "MAYBE", 2: "YES"}
    tiny_recipe["teacher"] = {"model": str(named_teacher(tmp_path / "teacher", id2label=names))}
    message = r"has 2 labels \(0, 1\), the teacher tells 3 apart \(NO, MAYBE, YES\)"
    with pytest.raises(ConfigError, match=message):
        engine(tiny_recipe, tmp_path / "run").run()


def test_finalists_are_foretold_with_an_interval_and_their_measurements_kept(
    finished: tuple[Engine, list[Any]],
) -> None:
    made, students = finished
    for row in students:
        assert row["predicted_low_ms"] <= row["predicted_latency_ms"] <= (row["predicted_high_ms"] or np.inf)
    calm = [row["genes"] for row in students if not row["measurement"]["contended"]]
    assert [row["genes"] for row in read_json(made.folder.profile)["later"]] == calm


def test_the_profile_covers_the_space(finished: tuple[Engine, list[Any]]) -> None:
    from nas.design import design

    made, _ = finished
    candidates = prepare(made.recipe, made.folder, Silent()).candidates
    shapes = design(candidates, 12, 0)
    assert len({candidates.space.key(genes) for genes in shapes}) == 12
    codes = np.stack([candidates.space.encode(genes) for genes in shapes])
    assert (np.ptp(codes, axis=0) > 0).mean() > 0.8
