"""Real faults on real parts: SIGKILL and SIGINT of a driver, then resume."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from mlflow import MlflowClient
from optuna.trial import TrialState

from launch.recipes import load_recipe
from nas.engine import open_record
from nas.run_folder import RunFolder
from tests.conftest import SIMULATED

ENTRY = [sys.executable, "-c", "from launch.cli import main; main()"]


@pytest.fixture
def recipe_file(tiny_recipe: dict[str, Any], tmp_path: Path) -> Path:
    tiny_recipe["search"] = {"trials": 8, "profile_shapes": 4, "train": {"epochs": 4}}
    tiny_recipe["finalize"] = {"finalists": 1, "seeds": 1, "starts": 1, "train": {"epochs": 0.2}}
    tiny_recipe |= {"tracking": {"mlflow": True}, "device": SIMULATED}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_recipe))
    return path


def start(*arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.Popen(
        [*ENTRY, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def wait_for_trials(run: Path, n: int, process: subprocess.Popen[str]) -> None:
    """Return once the run's log tells of n finished trials."""
    log = run / "log.txt"
    for _ in range(1200):
        if log.exists() and log.read_text().count(": accuracy ") > n:  # the teacher's line counts too
            return
        assert process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.05)
    pytest.fail("the search is too slow")


def finished(run: Path) -> dict[int, dict[str, Any]]:
    trials = open_record(RunFolder(run), load_recipe(str(run / "recipe.yaml"), {}, [])).trials((TrialState.COMPLETE,))
    return {trial.number: dict(trial.params) for trial in trials}


@pytest.mark.slow
def test_a_killed_driver_loses_and_repeats_nothing(recipe_file: Path, tmp_path: Path) -> None:
    run, rng = tmp_path / "run", np.random.default_rng()
    process = start("search", str(recipe_file), "--output", str(run))
    wait_for_trials(run, int(rng.integers(1, 4)), process)
    time.sleep(float(rng.uniform(0, 0.5)))
    process.kill()
    process.wait()
    before = finished(run)
    assert before
    resumed = start("resume", str(run))
    output, _ = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, output
    after = finished(run)
    assert len(after) == 8
    assert before.items() <= after.items()
    client = MlflowClient(f"sqlite:///{run / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "prentice"]
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    trials = [r for r in runs if r.info.run_name.startswith("trial-")]
    assert len(parents) == 1
    assert len(trials) == len({r.info.run_name for r in trials}) == 8
    assert all(r.data.tags["mlflow.parentRunId"] == parents[0].info.run_id for r in trials)
    assert parents[0].info.status == "FINISHED"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_search_cleanly_and_prints_the_resume_command(
    recipe_file: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    run = tmp_path / "run"
    process = start("search", str(recipe_file), "--output", str(run))
    wait_for_trials(run, 1, process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert "nas resume" in output
    assert "Traceback" not in output
