"""`nas merge`: several teachers, one student with an output for each task: a folder to ship and a report."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from safetensors.torch import save as to_bytes

from compressors.steps import Step
from launch.compress import lab_folder
from launch.delivery import REPORT, check_target, drafted, student_name
from launch.lab_recipe import lab_recipe
from launch.merge_report import card, tables
from launch.occupied import occupied
from launch.process import quiet_libraries, short, stoppable
from launch.step_list import wanted_steps
from launch.terminal import make_progress, show_result
from nas.checkpoint import weights_of
from nas.devices.base import FILES
from nas.devices.settings import check_fits, open_device
from nas.files import atomic_write, write_json
from nas.lab import compress_model, open_lab
from nas.merge import join
from nas.merged import Merged, judge
from nas.progress import Progress
from nas.recipe import Recipe
from nas.run_folder import RunFolder
from nas.student import save
from search_spaces.errors import ConfigError


def merge(
    sources: Sequence[str],
    settings: tuple[Mapping[str, Any], Sequence[str]],
    wanted: tuple[Sequence[str], Path | None],
    alone: bool,
    output: Path | None,
    as_json: bool,
) -> int:
    """Make one student of several teachers and print what it gives; return the exit code.

    Args:
        sources: Recipe files, one a task; the first one's device, seed and training count for all.
        settings: Keys of all recipes from options, and ``key=value`` strings.
        wanted: Steps as text, and a file with steps, which come first.
        alone: Also make a student of every teacher alone, by the same steps, to compare with.
        output: Folder of the student.
        as_json: Print the report as JSON and nothing else.

    Raises:
        ConfigError: Bad steps, recipes, data or teachers, teachers that do not go together, or a bad target.
    """
    steps = wanted_steps(*wanted)
    recipes = _by_task([lab_recipe(source, *settings) for source in sources])
    folders = {name: lab_folder(recipe) for name, recipe in recipes.items()}
    _check_different(folders)
    device = next(iter(recipes.values())).device
    check_fits(device, {step.name: step.knobs for step in steps})
    runs = open_device(device).format
    if runs not in ("onnxruntime", "onnx"):
        raise ConfigError(
            f"merge: device {device.name!r} runs {runs} files, which have one output; choose one that runs ONNX files."
        )
    words = " ".join([*recipes, *(folder.path.name for folder in folders.values())])
    own = RunFolder(Path("runs") / f"merge-{hashlib.sha256(words.encode()).hexdigest()[:8]}")
    target = output or own.students / student_name(steps)
    check_target("merge", target)
    with occupied(own, *folders.values()), quiet_libraries(), stoppable():
        progress = make_progress(own.log, Console(stderr=True, highlight=False) if as_json else None)
        try:
            made = _work(recipes, (own, folders), progress, steps, alone)
            _deliver(made, next(iter(recipes.values())), target)
        except KeyboardInterrupt:
            progress.warn(f"stopped; what was finished is in {short(own.path)}, the same command goes on from there")
            return 130
        finally:
            progress.close()
    return show_result(made.to_json(), tables(made), target, as_json)


def _work(
    recipes: Mapping[str, Recipe],
    folders: tuple[RunFolder, Mapping[str, RunFolder]],
    progress: Progress,
    steps: Sequence[Step],
    alone: bool,
) -> Merged:
    """Make and measure the student, and on request those it is compared with."""
    own, of_tasks = folders
    seed = next(iter(recipes.values())).search.seed
    labs = {}
    for name, recipe in recipes.items():
        progress.say(f"task {name}: {recipe.teacher.model}")
        labs[name] = open_lab(recipe, of_tasks[name], progress)
    joint = join(labs, steps, own)
    made = compress_model(joint, steps, seed)
    others = {}
    for name, lab in labs.items() if alone else ():
        progress.say(f"task {name}: a student of its own")
        others[name] = compress_model(lab, steps, seed)
    return judge(joint, made, others)


def _by_task(recipes: Sequence[Recipe]) -> dict[str, Recipe]:
    """Return the recipes by the names of their tasks, with one device, seed and training budget.

    Raises:
        ConfigError: There are fewer than two, or two of one name.
    """
    if len(recipes) < 2:
        raise ConfigError(f"merge: {len(recipes)} task was given; at least two. Give a recipe file for each task.")
    shared = {name: getattr(recipes[0], name) for name in ("device", "search", "finalize")}
    found: dict[str, Recipe] = {}
    for recipe in recipes:
        if recipe.name in found:
            raise ConfigError(f"merge: two tasks have the name {recipe.name!r}; give each recipe a name of its own.")
        found[recipe.name] = recipe.model_copy(update=shared)
    return found


def _check_different(folders: Mapping[str, RunFolder]) -> None:
    """Refuse a task that is given twice."""
    seen: dict[Path, str] = {}
    for name, folder in folders.items():
        other = seen.setdefault(folder.path, name)
        if other != name:
            raise ConfigError(f"merge: {name!r} is the teacher and the data of {other!r}; leave one of them out.")


def _deliver(made: Merged, recipe: Recipe, target: Path) -> None:
    """Write the student's folder."""
    config = made.compressed.model.config
    facts = {
        "name": target.name,
        "steps": [step.to_json() for step in made.compressed.steps],
        "tasks": {task.output: {"task": task.task, "labels": list(task.labels)} for task in made.tasks},
        "metrics": {
            "size_bytes": float(len(made.artefact)),
            **{f"accuracy.{task.task}": task.merged.accuracy for task in made.tasks},
        },
        "max_length": recipe.data.max_length,
        "uniform": config.is_uniform,
    }
    with drafted("merge", target) as draft:
        write_json(draft / REPORT, made.to_json())
        atomic_write(draft / "README.md", card(made, target.name).encode())
        weights = to_bytes(weights_of(made.compressed.model))
        save(draft, config, weights, {FILES["onnx"]: made.artefact}, made.compressed.tokenizer, facts)
