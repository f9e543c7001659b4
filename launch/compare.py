"""`nas compare`: known ways of making a model smaller, side by side on one teacher, one data set, one device."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.commands import make_tracker
from launch.comparison_report import Facts, terminal_report, write_reports
from launch.device_words import called, calls
from launch.joint import Joint
from launch.lab_recipe import is_bare, lab_recipe
from launch.process import quiet_libraries, short, stoppable
from launch.recipes import save_recipe
from launch.terminal import make_progress
from nas.compared import Row
from nas.comparison import Comparison, choose
from nas.devices.settings import check_fits
from nas.lab import open_lab
from nas.methods import METHODS, SEARCHED
from nas.recipe import Recipe
from nas.run_folder import RunFolder
from nas.tracker import State, Tracker, TrialRun
from search_spaces.errors import ConfigError

SMALL = 0.3  # passes over the data that is used where none is named: the default comparison is to take minutes
RESULTS = "results"  # in the run folder


def compare(
    source: str | None,
    settings: tuple[Mapping[str, Any], Sequence[str]],
    wanted: tuple[str | None, int],
    joint: tuple[Path | None, float | None],
    output: Path | None,
) -> int:
    """Compare methods, print the tables, write the reports; return the exit code.

    Args:
        source: Recipe file or embedded recipe; None: see `lab_recipe`.
        settings: Keys of the recipe from options, and ``key=value`` strings.
        wanted: Names of methods with commas between them, None for all; and the number of seeds.
        joint: Run folder of a finished search whose students are the joint rows, or the minutes to search for.
        output: Run folder; an unfinished comparison in it goes on.

    Raises:
        ConfigError: A bad name, recipe, teacher, data or run, in one line, before anything slow.
    """
    names, n_seeds = choose([name.strip() for name in wanted[0].split(",")] if wanted[0] else []), wanted[1]
    if n_seeds < 1:
        raise ConfigError(f"--seeds: {n_seeds} is out of range; 1 or more.")
    recipe = _recipe(source, *settings)
    _check_methods(recipe, names)
    rival = Joint(recipe, *joint) if set(SEARCHED) & set(names) else None
    folder = RunFolder(output or Path("runs") / f"compare-{recipe.name}")
    folder.create()
    folder.lock()
    save_recipe(recipe, folder.recipe)
    return _drive(recipe, folder, names, n_seeds, rival)


def _recipe(source: str | None, overrides: Mapping[str, Any], sets: Sequence[str]) -> Recipe:
    """Return the recipe of teacher, data, device and training; with nothing named that of the quickstart, shorter."""
    small = SMALL if is_bare(source, overrides) else None
    return lab_recipe(source, {**overrides, "finalize.train.epochs": overrides["finalize.train.epochs"] or small}, sets)


def _check_methods(recipe: Recipe, names: Sequence[str]) -> None:
    """Refuse methods whose files the device does not run."""
    for name in names:
        for step in METHODS[name].steps:
            try:
                check_fits(recipe.device, {step.partition(":")[0]: {}})
            except ConfigError as error:
                raise ConfigError(f"--methods: {name}: {error}") from None


def _drive(recipe: Recipe, folder: RunFolder, names: Sequence[str], n_seeds: int, rival: Joint | None) -> int:
    """Run the comparison in a locked folder; say how it ended and how to go on."""
    progress, tracker = make_progress(folder.log), make_tracker(recipe, folder)
    progress.say(f"run folder: {short(folder.path)}")
    state: State = "failed"
    with quiet_libraries(), stoppable():
        try:
            lab = open_lab(recipe, folder, progress)
            if rival is not None:
                rival.check(lab)
            comparison = Comparison(lab, folder.path / RESULTS, names, n_seeds)
            tracker.start(f"compare-{recipe.name}", _params(recipe, n_seeds), None)
            comparison.run()
            if rival is not None:
                rival.enter(comparison)
            comparison.measure()
            _report(comparison, progress, tracker)
            state = "finished"
            return 0
        except KeyboardInterrupt:
            state = "killed"
            progress.warn(f"stopped; what was finished is in {short(folder.path)}, the same command goes on from there")
            return 130
        finally:
            tracker.finish(state)
            progress.close()
            folder.unlock()


def _report(comparison: Comparison, progress: Any, tracker: Tracker) -> None:
    """Write the reports, mirror the figures, print the tables."""
    rows, facts, folder = comparison.rows(), _facts(comparison), comparison.lab.folder.path
    paths = write_reports(folder, rows, facts)
    for number, row in enumerate(rows):
        tracker.log_trial(_child(number, row, facts))
    tracker.log_summary({f"{row.name}/accuracy": row.figures.get("accuracy", 0.0) for row in rows}, paths)
    progress.close()
    for part in terminal_report(rows, facts):
        progress.console.print(part)
    progress.say("reports: " + ", ".join(short(path) for path in paths))


def _facts(comparison: Comparison) -> Facts:
    """Return what all rows share."""
    lab, device = comparison.lab, comparison.lab.recipe.device
    train, data = lab.train, lab.prepared.data
    return Facts(
        teacher=lab.recipe.teacher.model.rstrip("/").rsplit("/", 1)[-1],
        data=f"{lab.recipe.data.source}, {len(data.train):,} training and {len(data.validation):,} validation rows",
        budget=f"{train.epochs:g} epochs, batch {train.batch_size}, {comparison.n_seeds} seeds",
        device=f"{called(device)}, {calls(device, lab.prepared.n_tokens)}",
        labels=tuple(data.labels),
        environment=dict(lab.device.environment()),
    )


def _child(number: int, row: Row, facts: Facts) -> TrialRun:
    """Return a row as the tracker sees it."""
    method = METHODS[row.name]
    spread = {f"{name}_sd": value for name, value in row.spread.items()}
    params = {"steps": "; ".join(method.steps) or "-", "source": method.source, "budget": facts.budget}
    return TrialRun(
        number,
        f"{row.name}, {facts.budget}",
        "finished" if row.figures else "failed",
        params,
        {**row.figures, **spread},
        tags={"remarks": "; ".join(row.remarks)} if row.remarks else {},
    )


def _params(recipe: Recipe, n_seeds: int) -> dict[str, Any]:
    """Return what the parent run is about."""
    return {
        "teacher": recipe.teacher.model,
        "data": recipe.data.source,
        "device": recipe.device.name,
        "epochs": recipe.finalize.train.epochs,
        "seeds": n_seeds,
    }
