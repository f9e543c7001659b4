import logging
import shutil
import socket
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from launch.mlflow_mirror import PARENT, TRIAL, Mirror
from launch.mlflow_tracker import MlflowTracker
from nas.tracker import TrialRun
from search_spaces.errors import ConfigError


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("empty")
    MlflowTracker(None, "elsewhere", folder).finish("finished")
    return folder / "mlflow.db"


@pytest.fixture
def folder(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, tmp_path / "mlflow.db")  # a new store takes seconds to create
    return tmp_path


def trial(number: int, **more: Any) -> TrialRun:
    fields: dict[str, Any] = {
        "state": "finished",
        "params": {"hidden": 384, "distillation.alpha": 0.1},
        "metrics": {"accuracy": 0.9, "latency_ms": 0.5, "worthless": float("inf")},
        "curves": {"loss": [0.7, 0.4, 0.3]},
    }
    return TrialRun(number, f"trial-{number:04d}", **{**fields, **more})


def open_search(folder: Path, run_id: str | None = None, **params: Any) -> tuple[MlflowTracker, str]:
    tracker = MlflowTracker(None, "prentice", folder)
    parent = tracker.start("quick", {"trials": 3, **params}, run_id)
    assert parent is not None
    return tracker, parent


def runs(folder: Path) -> list[Run]:
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("prentice")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], max_results=100))


def children(folder: Path, parent: str) -> dict[str, Run]:
    return {run.data.tags[TRIAL]: run for run in runs(folder) if run.data.tags.get(PARENT) == parent}


def test_a_search_is_one_parent_with_a_child_per_trial(folder: Path) -> None:
    tracker, parent = open_search(folder)
    tracker.log_trial(trial(0))
    tracker.log_trial(trial(1, state="failed", metrics={}, tags={"cause": "worker_died"}))
    tracker.log_summary({"hypervolume": 0.4}, [])
    tracker.finish("finished")
    found = children(folder, parent)
    assert sorted(found) == ["trial-0000", "trial-0001"]
    assert len(runs(folder)) == 3
    good, bad = found["trial-0000"], found["trial-0001"]
    assert (good.info.status, bad.info.status) == ("FINISHED", "FAILED")
    assert good.data.params == {"hidden": "384", "distillation.alpha": "0.1"}
    assert good.data.metrics == {"accuracy": 0.9, "latency_ms": 0.5, "loss": 0.3}
    assert bad.data.tags["cause"] == "worker_died"
    client = MlflowClient(tracker.uri)
    assert [m.value for m in client.get_metric_history(good.info.run_id, "loss")] == [0.7, 0.4, 0.3]
    root = client.get_run(parent)
    assert (root.info.run_name, root.info.status, root.data.metrics) == ("quick", "FINISHED", {"hypervolume": 0.4})


def test_files_and_folders_land_under_the_run_folder(folder: Path) -> None:
    student = folder / "students" / "s0"
    student.mkdir(parents=True)
    (student / "model.onnx").write_bytes(b"onnx")
    report = folder / "report.html"
    report.write_text("<p>front</p>")
    tracker, parent = open_search(folder)
    tracker.log_trial(trial(0, folder=student))
    tracker.log_summary({}, [report])
    tracker.finish("finished")
    child = children(folder, parent)["trial-0000"].info.run_id
    assert (folder / "artifacts" / child / "artifacts" / "s0" / "model.onnx").read_bytes() == b"onnx"
    assert (folder / "artifacts" / parent / "artifacts" / "report.html").exists()


def test_logging_everything_again_changes_nothing(folder: Path) -> None:
    first, parent = open_search(folder)
    for number in range(3):
        first.log_trial(trial(number))
    first.finish("killed")
    before = {name: run.to_dictionary() for name, run in children(folder, parent).items()}
    second, again = open_search(folder, parent)
    for number in range(3):
        second.log_trial(trial(number, metrics={"accuracy": 0.1}))
        second.log_trial(trial(number))
    second.finish("finished")
    assert again == parent
    assert {name: run.to_dictionary() for name, run in children(folder, parent).items()} == before
    assert MlflowClient(second.uri).get_run(parent).info.status == "FINISHED"


def test_a_parent_whose_id_was_never_saved_is_found_again(folder: Path) -> None:
    first, parent = open_search(folder)
    first.finish("killed")
    second, again = open_search(folder)
    second.finish("finished")
    assert again == parent


def test_a_parent_that_was_deleted_is_made_anew(folder: Path) -> None:
    tracker, parent = open_search(folder, run_id="0" * 32)
    tracker.finish("finished")
    assert parent != "0" * 32


def test_a_search_that_ends_before_it_starts_leaves_no_run(folder: Path) -> None:
    tracker = MlflowTracker(None, "prentice", folder)
    tracker.finish("failed")
    tracker.finish("failed")
    tracker.log_summary({"late": 1.0}, [])
    assert runs(folder) == []


def test_a_child_that_was_half_written_is_completed(folder: Path) -> None:
    tracker, parent = open_search(folder)
    client = MlflowClient(tracker.uri)
    experiment = client.get_run(parent).info.experiment_id
    client.create_run(experiment, run_name="trial-0000", tags={PARENT: parent, TRIAL: "trial-0000"})
    tracker.finish("killed")
    again, _ = open_search(folder, parent)
    again.log_trial(trial(0))
    again.finish("finished")
    assert len(runs(folder)) == 2
    assert children(folder, parent)["trial-0000"].info.status == "FINISHED"
    assert children(folder, parent)["trial-0000"].data.metrics["accuracy"] == 0.9


def test_a_changed_parameter_of_a_resumed_search_is_kept_beside_the_first(folder: Path) -> None:
    first, parent = open_search(folder)
    first.finish("killed")
    second = MlflowTracker(None, "prentice", folder)
    second.start("quick", {"trials": 9}, parent)
    second.finish("finished")
    data = MlflowClient(second.uri).get_run(parent).data
    assert (data.params["trials"], data.tags["resumed.trials"]) == ("3", "9")


def test_many_parameters_and_awkward_names_are_taken(folder: Path) -> None:
    tracker, parent = open_search(folder, **{f"gene {i}@[x]": i for i in range(250)})
    tracker.finish("finished")
    assert len(MlflowClient(tracker.uri).get_run(parent).data.params) == 251


def test_a_server_that_is_down_is_one_warning_and_holds_up_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    tracker = MlflowTracker(f"http://127.0.0.1:{port}", "prentice", tmp_path)
    with caplog.at_level(logging.WARNING, "launch.mlflow_tracker"):
        assert tracker.start("quick", {}, None) is None
        for number in range(50):
            tracker.log_trial(trial(number))
        assert len(caplog.messages) == 1
        tracker.finish("finished")
    assert "does not answer" in caplog.messages[0]
    assert caplog.messages[1].startswith("tracking: 53 entries did not reach")


def test_a_server_that_comes_back_gets_everything(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    is_down = threading.Event()
    write = Mirror.log_trial

    def flapping(self: Mirror, trial: TrialRun) -> None:
        if is_down.is_set():
            raise ConnectionError("gone")
        write(self, trial)

    monkeypatch.setattr(Mirror, "log_trial", flapping)
    tracker, parent = open_search(folder)
    is_down.set()
    tracker.log_trial(trial(0))
    tracker.log_trial(trial(1))
    is_down.clear()
    tracker.finish("finished")
    assert sorted(children(folder, parent)) == ["trial-0000", "trial-0001"]


def test_an_entry_that_mlflow_refuses_does_not_hold_up_the_rest(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker, parent = open_search(folder)
    with caplog.at_level(logging.WARNING, "launch.mlflow_tracker"):
        tracker.log_summary({}, [folder / "never-written.html"])
        tracker.log_trial(trial(0))
        tracker.finish("finished")
    assert "never-written.html" in caplog.text
    assert list(children(folder, parent)) == ["trial-0000"]


def test_a_damaged_store_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database, " * 100)
    with caplog.at_level(logging.WARNING, "launch.mlflow_tracker"):
        tracker = MlflowTracker(f"sqlite:///{tmp_path / 'mlflow.db'}", "prentice", tmp_path)
        assert tracker.start("quick", {}, None) is None
        tracker.finish("finished")
    assert any("does not answer" in message for message in caplog.messages)


def test_a_store_of_another_mlflow_is_one_line_that_names_the_file(folder: Path) -> None:
    with sqlite3.connect(folder / "mlflow.db") as store:
        store.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        store.execute("DROP TABLE trace_info")
    tracker = MlflowTracker(None, "prentice", folder)
    with pytest.raises(ConfigError, match=r"mlflow\.db is not a store of this MLflow .*ffffffffffff") as caught:
        tracker.start("quick", {}, None)
    tracker.finish("failed")
    assert len(str(caught.value).splitlines()) == 1
