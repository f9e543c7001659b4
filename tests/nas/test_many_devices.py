"""One search for several devices: a student is trained once, known, chosen and measured on each."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState

from nas.candidates import Candidates
from nas.engine import Engine
from nas.executor import Outcome, Task
from nas.finalize import Finalize
from nas.foresight import foresight
from nas.goals import constraints_of, objectives_of
from nas.inprocess import InProcessExecutor
from nas.knowledge import Profile
from nas.pareto import pareto_front
from nas.profile import check_feasible
from nas.progress import Silent
from nas.recipe import Recipe
from nas.record import Record
from nas.run_folder import RunFolder
from nas.search import Search
from nas.strategies import make_sampler
from nas.student import manifest
from nas.students import row_on
from nas.tracker import NullTracker, TrialRun
from search_spaces.errors import ConfigError, InfeasibleError
from search_spaces.space import Genes
from tests.conftest import write_rows
from tests.nas.phases import Formula, candidates, known, latency_ms

DISTIL = {"distillation": {"alpha": 0.1, "temperature": 2.0, "hidden": 0.0, "live": False}}
CHIP = {"name": "chip", "backend": "roofline", "tokens": 6, "options": {"gflops": 0.5, "overhead_us": 0.0}}


def phone(folder: Path) -> dict[str, Any]:
    """A device that looks its latencies up: only layers cost, and not all the same."""
    table = folder / "phone.csv"
    table.write_text("depth,latency_ms\n1,1.0\n2,2.5\n3,4.0\n")
    return {"name": "phone", "backend": "lookup", "tokens": 12, "options": {"table": str(table)}}


class Noted(NullTracker):
    """A tracker that remembers what ended."""

    def __init__(self) -> None:
        self.trials: dict[str, TrialRun] = {}

    def log_trial(self, trial: TrialRun) -> None:
        self.trials[trial.name] = trial


class Interrupted(InProcessExecutor):
    """Stops the search, as Ctrl-C would, after so many tasks whose names begin in some way."""

    def __init__(self, begins: str, after: int) -> None:
        super().__init__()
        self.begins, self.left, self.seen = begins, after, list[str]()

    def submit(self, task: Task) -> None:
        super().submit(task)
        self.seen.append(task.uid)

    def wait(self, timeout_s: float) -> list[Outcome]:
        outcomes = super().wait(timeout_s)
        self.left -= sum(outcome.uid.startswith(self.begins) for outcome in outcomes)
        if self.left < 0:  # the outcome is lost with the process
            raise KeyboardInterrupt
        return outcomes


def engine(recipe: Mapping[str, Any], path: Path, executor: InProcessExecutor | None = None) -> Engine:
    folder = RunFolder(path)
    folder.create()
    return Engine(Recipe.model_validate(recipe), folder, executor or InProcessExecutor(), Noted(), Silent())


def without_time(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what a clock says: these devices have none."""
    return {key: value for key, value in row.items() if key not in ("curves", "reports")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_data: Path) -> tuple[Engine, list[Any]]:
    path = tmp_path_factory.mktemp("several")
    recipe = {
        "name": "several",
        "teacher": {"model": str(tiny_base), "finetune": {"epochs": 1}},
        "data": {"source": str(tiny_data), "validation_share": 0.2},
        "devices": [CHIP, phone(path)],
        "compress": {**DISTIL, "int8": {"enabled": True, "per_channel": True}},
        "constraints": ["latency_ms <= 90%"],
        "search": {"trials": 6, "profile_shapes": 8, "train": {"epochs": 0.5}},
        "finalize": {"finalists": 2, "seeds": 1, "train": {"epochs": 0.5}},
    }
    made = engine(recipe, path / "run")
    return made, made.run()


def test_every_device_has_its_profile_and_its_latency_is_an_objective(finished: tuple[Engine, list[Any]]) -> None:
    made, _ = finished
    assert made.record.study.metric_names == ["accuracy", "latency_ms@chip", "latency_ms@phone"]
    assert {path.name for path in made.folder.path.glob("profile*")} == {"profile-chip.json", "profile-phone.json"}
    about = made.record.attrs["devices"]
    assert (about["chip"]["n_tokens"], about["phone"]["n_tokens"]) == (6, 12)
    assert "looked up in" in about["phone"]["environment"]["runtime"]
    assert made.record.attrs["teacher"]["latency_ms@phone"] == 4.0
    assert made.record.attrs["teacher"]["latency_ms"] == made.record.attrs["teacher"]["latency_ms@chip"] < 4.0
    for trial in made.record.trials((TrialState.COMPLETE,)):
        metrics = trial.user_attrs["metrics"]
        assert trial.values == [metrics["accuracy"], metrics["latency_ms@chip"], metrics["latency_ms@phone"]]
        assert trial.user_attrs["predicted"] == ["latency_ms", "latency_ms@chip", "latency_ms@phone"]
        assert set(trial.constraints) == {"latency_ms@chip <= 90%", "latency_ms@phone <= 90%"}


def test_students_are_trained_once_and_measured_on_every_device(finished: tuple[Engine, list[Any]]) -> None:
    made, students = finished
    names = [row["name"] for row in students]
    assert len(set(names)) == len(names)
    assert set(made.record.attrs["best"]) == {"chip", "phone"}
    assert made.record.attrs["best"]["chip"] == names[0]
    assert made.record.attrs["best"]["phone"] in names
    for row in students:
        chip, other = row_on("chip", row), row_on("phone", row)
        assert (chip["measurement"]["origin"], other["measurement"]["origin"]) == ("simulated", "looked up")
        assert other["metrics"]["latency_ms"] == row["metrics"]["latency_ms@phone"] in (1.0, 2.5, 4.0)
        assert row["metrics"]["latency_ms"] == chip["metrics"]["latency_ms"] == chip["measurement"]["median_ms"]
        assert chip["metrics"]["accuracy"] == other["metrics"]["accuracy"], "they run the same file"
        assert set(other["misses"]) == {"latency_ms@phone <= 90%"}
        assert other["predicted_latency_ms"] == pytest.approx(other["metrics"]["latency_ms"], rel=0.3)
        told = manifest(made.folder.students / row["name"])
        assert told["devices"]["phone"]["measurement"] == other["measurement"]
        assert {each["artefact"] for each in told["devices"].values()} == {"model.onnx"}


def test_the_tracker_hears_of_every_device(finished: tuple[Engine, list[Any]]) -> None:
    made, students = finished
    run = made.tracker.trials[f"finalist-{students[0]['name']}"]  # type: ignore[attr-defined]
    for device in ("chip", "phone"):
        assert run.metrics[f"speedup@{device}"] == row_on(device, students[0])["measurement"]["speedup"]
        assert run.metrics[f"latency_ms@{device}"] > 0


def test_a_finished_run_resumes_to_the_same_answer_without_work(finished: tuple[Engine, list[Any]]) -> None:
    made, students = finished
    executor = Interrupted("", 0)
    assert engine(made.recipe.model_dump(mode="json"), made.folder.path, executor).run() == students
    assert executor.seen == []


@pytest.mark.parametrize(("begins", "after"), [("profile-", 9), ("trial-", 3), ("final-measure@phone", 0)])
def test_an_interrupted_search_goes_on_where_it_stopped(
    finished: tuple[Engine, list[Any]], tmp_path: Path, begins: str, after: int
) -> None:
    straight, students = finished
    recipe = straight.recipe.model_dump(mode="json")
    with pytest.raises(KeyboardInterrupt):
        engine(recipe, tmp_path / "run", Interrupted(begins, after)).run()
    resumed = engine(recipe, tmp_path / "run")
    again = resumed.run()
    ours, theirs = (e.record.trials((TrialState.COMPLETE,)) for e in (resumed, straight))
    assert [(t.params, t.values) for t in ours] == [(t.params, t.values) for t in theirs]
    assert [without_time(row) for row in again] == [without_time(row) for row in students]
    assert resumed.record.attrs["best"] == straight.record.attrs["best"]


@pytest.mark.slow
def test_devices_of_different_files_get_one_each_of_the_same_student(
    tiny_recipe: dict[str, Any], tmp_path: Path
) -> None:
    tiny_recipe["data"]["test"] = str(write_rows(tmp_path / "test.csv", 100, 1))
    settings = {"trials": 2, "profile_shapes": 4, "train": {"epochs": 0.2}}
    made = engine(
        {**tiny_recipe, "devices": ["cpu", "torch"], "compress": DISTIL, "search": settings}, tmp_path / "run"
    )
    students = made.run()
    for row in students:
        folder = made.folder.students / row["name"]
        told = manifest(folder)["devices"]
        assert {name: each["artefact"] for name, each in told.items()} == {
            "cpu": "model.onnx",
            "torch": "artefact.safetensors",
        }
        for device in ("cpu", "torch"):
            seen = row_on(device, row)
            assert seen["measurement"]["origin"] == "measured"
            assert seen["measurement"]["size_bytes"] == (folder / told[device]["artefact"]).stat().st_size
            assert seen["metrics"]["accuracy"] == pytest.approx(row["metrics"]["accuracy_fp32"], abs=0.03)
            assert seen["metrics"]["test_accuracy"] == row["metrics"][f"test_accuracy@{device}"]
        assert row_on("cpu", row)["measurement"] != row_on("torch", row)["measurement"]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"devices": ["cpu", "torch"], "compress": {**DISTIL, "int8": {}}},
            r"compress\.int8: rewrites onnxruntime and onnx files, device 'torch' runs torch files",
        ),
        ({"devices": ["cpu", "phone"]}, "'phone' is unknown; known: cpu, torch, openvino"),
        ({"devices": ["cpu", CHIP], "constraints": ["latency_ms@chop <= 1"]}, "Did you mean 'chip'"),
        ({"devices": ["cpu", {**CHIP, "tokens": 500}]}, r"devices\.chip\.tokens: 500 is more than the teacher's"),
    ],
)
def test_devices_that_do_not_fit_are_refused_before_anything_slow(
    tiny_recipe: dict[str, Any], tmp_path: Path, sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        engine({**tiny_recipe, **sections}, tmp_path / "run").run()
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "run").glob("teacher/*"))


def layers_ms(made: Candidates, genes: Genes) -> float:
    """A device on which a layer takes a millisecond, whatever its width."""
    return 0.1 + made.architecture(genes).config.depth


@pytest.fixture(scope="module")
def both() -> tuple[Recipe, Profile]:
    """A device on which width costs as much as depth does, and one on which only depth costs."""
    recipe = Recipe.model_validate(
        {"devices": ["wide", "deep"], "constraints": ["latency_ms@deep <= 2.5"], "finalize": {"finalists": 2}}
    )
    made = candidates()
    first, second = known(made), known(made, layers_ms)
    teacher = {"latency_ms@wide": first.teacher["latency_ms"], "latency_ms@deep": second.teacher["latency_ms"]}
    deep = replace(second, device="deep")
    return recipe, replace(first, device="wide", others=(deep,), teacher={**first.teacher, **teacher})


def searched(recipe: Recipe, found: Profile) -> Record:
    """A search whose students are the better the larger they are."""

    def trained(task: Task) -> dict[str, Any]:
        facts = found.candidates.known(task.spec["genes"], 8)
        metrics = {"accuracy": 1 - 1 / np.log(facts.macs), "size_bytes": 1000.0}
        return {"metrics": metrics, "curves": {}, "reports": [], "seconds": {"train": 1.0}}

    objectives, constraints = objectives_of(recipe), constraints_of(recipe)
    sampler = make_sampler("random", found.candidates.space, 0, {})
    sampler.foresee(foresight(found, objectives, constraints))  # type: ignore[attr-defined]
    record = Record.open(None, "run", [o.direction for o in objectives], sampler, [o.name for o in objectives])
    settings = recipe.search.model_copy(update={"trials": 30})
    executor = Formula(trained)
    Search(settings, objectives, constraints, found, record, executor, lambda trial: None, lambda n: None).run()
    return record


def test_a_limit_on_one_device_is_kept_by_all_that_are_trained(both: tuple[Recipe, Profile]) -> None:
    record = searched(*both)
    trials = record.trials((TrialState.COMPLETE,))
    assert len(trials) == 30
    assert {both[1].candidates.architecture(t.user_attrs["genes"]).config.depth for t in trials} <= {1, 2}
    for trial in trials:
        genes, metrics = trial.user_attrs["genes"], trial.user_attrs["metrics"]
        assert metrics["latency_ms@deep"] == pytest.approx(layers_ms(both[1].candidates, genes), rel=0.05)
        assert metrics["latency_ms@wide"] == pytest.approx(latency_ms(both[1].candidates, genes), rel=0.2)


def test_what_no_student_meets_on_one_of_the_devices_is_said_with_the_fastest_of_each(
    both: tuple[Recipe, Profile],
) -> None:
    recipe = both[0].model_copy(update={"constraints": ("latency_ms@deep <= 0.5",)})
    with pytest.raises(InfeasibleError, match=r"0\.\d+ ms on wide, 1\.100 ms on deep and the nearest"):
        check_feasible(both[1], constraints_of(recipe), 0)


def test_finalists_are_those_of_each_devices_front(both: tuple[Recipe, Profile], tmp_path: Path) -> None:
    recipe, found = both
    record = searched(recipe, found)
    finalize = Finalize(recipe, None, found, record, RunFolder(tmp_path))  # type: ignore[arg-type]
    chosen = [finalist.trial for finalist in finalize._choose()]
    assert len({trial.number for trial in chosen}) == len(chosen) in (3, 4)
    trials = record.trials((TrialState.COMPLETE,))
    for device in ("wide", "deep"):
        names = ("accuracy", f"latency_ms@{device}")
        costs = np.array([[t.user_attrs["metrics"][n] * (-1 if n == "accuracy" else 1) for n in names] for t in trials])
        front = {t.number for t, is_on in zip(trials, pareto_front(costs), strict=True) if is_on}
        assert sum(trial.number in front for trial in chosen) >= 2


def test_a_surrogate_sees_every_latency_once(both: tuple[Recipe, Profile]) -> None:
    recipe, found = both
    genes = [found.candidates.space.sample(np.random.default_rng(seed)) for seed in range(5)]
    foreseen = foresight(found, objectives_of(recipe), [])
    assert sorted(foreseen.costs) == [1, 2]
    metrics = [found.metrics(each) for each in genes]
    assert np.allclose(foreseen.costs[2](genes), [m["latency_ms@deep"] for m in metrics])
    once = [name for name in metrics[0] if name != "latency_ms"]
    expected = np.log([[m[name] for name in once] for m in metrics])
    assert np.allclose(foreseen.known_features(genes), expected)
