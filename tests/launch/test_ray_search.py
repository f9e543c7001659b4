"""A whole search on a real local Ray, with a worker killed in the middle of a trial."""

import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from optuna.trial import TrialState

from launch.commands import make_executor
from nas.engine import Engine
from nas.progress import Silent
from nas.recipe import Recipe
from nas.run_folder import RunFolder
from nas.tracker import NullTracker


def kill_one_trial(killed: list[int], over: threading.Event) -> None:
    """Kill the first worker seen in a trial."""
    while not over.is_set() and not killed:
        for process in psutil.Process().children(recursive=True):
            try:
                command = process.cmdline()  # asked once: a process that ends has none
                if command and command[0].startswith("ray::trial-"):
                    process.kill()
                    killed.append(process.pid)
                    return
            except psutil.Error:
                continue
        time.sleep(0.02)


@pytest.mark.slow
def test_a_search_on_ray_survives_the_death_of_a_worker(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    tiny_recipe["cluster"] = {"executor": "ray"}
    tiny_recipe["search"] = {"trials": 5, "profile_shapes": 4, "train": {"epochs": 4}}
    tiny_recipe["finalize"] = {"finalists": 1, "seeds": 1, "starts": 1, "train": {"epochs": 0.5}}
    recipe = Recipe.model_validate(tiny_recipe)
    folder = RunFolder(tmp_path / "run")
    folder.create()
    executor = make_executor(recipe)
    killed: list[int] = []
    over = threading.Event()
    assassin = threading.Thread(target=kill_one_trial, args=(killed, over))
    assassin.start()
    try:
        engine = Engine(recipe, folder, executor, NullTracker(), Silent())
        students = engine.run()
    finally:
        over.set()
        assassin.join()
        executor.close()
    assert killed
    assert len(engine.record.trials((TrialState.COMPLETE,))) == 5
    assert not engine.record.trials((TrialState.FAIL,))
    assert students[0]["measurement"]["median_ms"] > 0
