"""What the commands do: put recipe, folder, executor, tracker and terminal together, and run the engine."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from launch.device_files import devices_folder
from launch.export import export_student
from launch.process import Stopped, absolute_paths, quiet_libraries, short, stoppable
from launch.ray_address import check_address
from launch.ray_executor import RayExecutor
from launch.recipes import embedded, load_recipe, save_recipe
from launch.report import terminal_tables, write_report
from launch.report_data import report_data
from launch.terminal import make_progress
from nas.engine import Engine, check_names
from nas.executor import Executor
from nas.goals import on
from nas.inprocess import InProcessExecutor
from nas.recipe import Recipe
from nas.run_folder import RunFolder, fresh_folder
from nas.tracker import NullTracker, State, Tracker
from search_spaces.errors import ConfigError, MissingDependencyError
from search_spaces.registry import Table

TRACKERS = Table("tracker", {"mlflow": "launch.mlflow_tracker:MlflowTracker"})  # imported by a search that tracks


def search(
    source: str | None,
    overrides: Mapping[str, Any],
    sets: Sequence[str],
    max_latency_ms: float | None,
    output: Path | None,
) -> int:
    """Run a new search; return the exit code.

    Raises:
        ConfigError: A bad recipe, or a folder that holds a search already.
    """
    recipe = load_recipe(source, overrides, sets)
    if max_latency_ms is not None:
        limits = (*recipe.constraints, f"latency_ms <= {max_latency_ms:g}")
        recipe = recipe.model_copy(update={"constraints": limits})
    check_names(recipe)
    check_address(recipe.cluster)
    recipe = absolute_paths(recipe)
    folder = RunFolder(output) if output else fresh_folder(Path("runs"), recipe.name)
    if folder.study.exists() or (folder.teacher / "model").exists():
        raise ConfigError(
            f"run folder {folder.path}: holds a search already; continue it with: nas resume {short(folder.path)}"
        )
    folder.create()
    folder.lock()
    save_recipe(recipe, folder.recipe)
    return _drive(recipe, folder)


def resume(run: Path, trials: int | None, address: str | None) -> int:
    """Continue a search; return the exit code."""
    folder = _existing(run)
    folder.create()
    folder.lock()
    recipe = load_recipe(str(folder.recipe), {"search.trials": trials, "cluster.address": address}, [])
    check_address(recipe.cluster)
    save_recipe(recipe, folder.recipe)
    return _drive(recipe, folder)


def report(run: Path, show: bool) -> int:
    """Write the HTML report of a run and print its table."""
    folder = _existing(run)
    data = report_data(folder, load_recipe(str(folder.recipe), {}, []))
    path = write_report(folder.path, data)
    progress = make_progress(folder.log)
    if show:
        progress.console.print(terminal_tables(data))
    progress.say(f"report: {short(path)}")
    progress.close()
    return 0


def export(run: Path, student: str, output: Path | None, device: str | None = None) -> int:
    """Copy a student to a folder that can be shipped."""
    folder = _existing(run)
    target = export_student(folder, load_recipe(str(folder.recipe), {}, []), student, output, device)
    typer.echo(f"exported: {short(target)}")
    return 0


def recipe(name: str) -> int:
    """Print an embedded recipe.

    Raises:
        ConfigError: There is none of this name.
    """
    typer.echo(embedded(name).read_text(), nl=False)
    return 0


def make_executor(recipe: Recipe) -> Executor:
    """Return the executor a recipe asks for."""
    if recipe.cluster.executor == "inprocess":
        return InProcessExecutor()
    return RayExecutor(recipe.cluster, recipe.targets)


def make_tracker(recipe: Recipe, folder: RunFolder) -> Tracker:
    """Return the tracker a recipe asks for: the recipe's URI, MLFLOW_TRACKING_URI, or SQLite in the run folder.

    Raises:
        MissingDependencyError: It asks for MLflow, which is not installed.
    """
    if not recipe.tracking.mlflow:
        return NullTracker()
    uri = recipe.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
    try:
        tracker: Tracker = TRACKERS.load("mlflow")(uri, recipe.tracking.experiment, folder.path)
    except ImportError as error:
        raise MissingDependencyError(
            f"tracking.mlflow: the package mlflow cannot be imported ({error}). "
            "Install it with: pip install mlflow; or search without: --set tracking.mlflow=false"
        ) from None
    return tracker


def _drive(recipe: Recipe, folder: RunFolder) -> int:
    """Run the engine in a locked folder; say how it ended and how to go on."""
    progress = make_progress(folder.log)
    executor, tracker = make_executor(recipe), make_tracker(recipe, folder)
    progress.say(f"run folder: {short(folder.path)}")
    state: State = "failed"
    with quiet_libraries(), stoppable():
        try:
            Engine(recipe, folder, executor, tracker, progress, devices_folder()).run()
            _finish(recipe, folder, progress, tracker)
            state = "finished"
            return 0
        except KeyboardInterrupt as signalled:
            state = "killed"
            progress.warn(f"stopped; continue with: nas resume {short(folder.path)}")
            return 143 if isinstance(signalled, Stopped) else 130
        finally:
            tracker.finish(state)
            progress.close()
            executor.close()
            folder.unlock()


def _finish(recipe: Recipe, folder: RunFolder, progress: Any, tracker: Tracker) -> None:
    """Write the report, print the table, and export the best student."""
    data = report_data(folder, recipe)
    path = write_report(folder.path, data)
    tracker.log_summary({}, [path, folder.recipe])
    tracker.finish("finished")
    targets = {
        name: export_student(folder, recipe, "best", folder.path / f"best{'-' * bool(name)}{name}", settings.name)
        for name, settings in recipe.targets.items()
    }
    progress.close()
    progress.console.print(terminal_tables(data))
    progress.say(f"report: {short(path)}")
    for name, target in targets.items():
        progress.say(f"best student{on(name)}: {short(target)}")


def _existing(run: Path) -> RunFolder:
    """Return the folder of an existing run."""
    folder = RunFolder(run)
    if not folder.recipe.is_file():
        raise ConfigError(f"run folder {run}: holds no recipe.yaml; give the folder of a search, e.g. runs/quickstart.")
    return folder
