"""The joint row of a comparison: the best student of a search that chose everything together."""

from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from launch.commands import make_executor
from launch.recipes import load_recipe, save_recipe
from nas.comparison import Comparison
from nas.devices.base import FILES
from nas.engine import Engine, open_record
from nas.lab import Compressed, Lab
from nas.methods import JOINT
from nas.recipe import Recipe, TeacherSettings
from nas.run_folder import RunFolder
from nas.spelling import Spelling
from nas.student import load, manifest
from nas.students import row_on
from nas.tracker import NullTracker
from search_spaces.errors import ConfigError

DROP = "accuracy_drop <= 3%"  # what "best" means where the recipe has no constraint: the fastest that keeps 97 %
SEARCHED = 0.6  # share of the wall-clock for the search phase; profile and final training take about the rest
TRIALS = 10_000  # more than the time allows


class Joint:
    """Where the joint student comes from: a run that is given, or a search as long as all other methods took."""

    def __init__(self, recipe: Recipe, run: Path | None, minutes: float | None) -> None:
        """Check what can be checked at once.

        Args:
            recipe: Of teacher, data, device.
            run: Folder of a finished search of this teacher on this data.
            minutes: Wall-clock of a new search; None: as long as the other methods took together.

        Raises:
            ConfigError: Both or a bad one.
        """
        if run is not None and minutes is not None:
            raise ConfigError(f"--run {run} --search {minutes:g}: give one: a finished search, or minutes for one.")
        if minutes is not None and not minutes > 0:
            raise ConfigError(f"--search: {minutes:g} minutes; above 0.")
        if run is not None and not RunFolder(run).recipe.is_file():
            raise ConfigError(f"--run {run}: holds no recipe.yaml; give the folder of a search, e.g. runs/quickstart.")
        self.recipe, self.run, self.minutes = recipe, run, minutes

    def check(self, lab: Lab) -> None:
        """Look at the given run before anything slow.

        Raises:
            ConfigError: It is not finished, or of another teacher or other data.
        """
        if self.run is not None:
            _best(RunFolder(self.run), lab)

    def enter(self, comparison: Comparison) -> None:
        """Search if need be, and put the best student among the rows."""
        lab = comparison.lab
        folder = RunFolder(self.run) if self.run is not None else self._searched(comparison)
        row, seconds = _best(folder, lab)
        comparison.keep(JOINT, 0, _student(folder.students / row["name"], lab, seconds), _over_seeds(row))

    def _searched(self, comparison: Comparison) -> RunFolder:
        """Return the folder of a search of its own, which an earlier, interrupted one continues."""
        lab = comparison.lab
        folder = RunFolder(lab.folder.path / "search")
        folder.create()
        minutes = self.minutes or comparison.seconds() / 60
        recipe = self._recipe(lab, minutes, comparison.n_seeds)
        if folder.recipe.is_file():  # an earlier call began it, with the minutes of then
            recipe = load_recipe(str(folder.recipe), {}, [])
        save_recipe(recipe, folder.recipe)
        lab.progress.say(f"joint: searching for {minutes:.1f} min")
        executor = make_executor(recipe)
        try:
            Engine(recipe, folder, executor, NullTracker(), lab.progress).run()
        finally:
            executor.close()
        return folder

    def _recipe(self, lab: Lab, minutes: float, n_seeds: int) -> Recipe:
        """Return the recipe of the search: the lab's teacher, and the same budget for the final training."""
        tuned = lab.folder.teacher / "model"
        teacher = TeacherSettings(model=str(tuned)) if tuned.exists() else self.recipe.teacher
        train = lab.train.model_copy(update={"epochs": lab.train.epochs / 2})
        search = {"trials": TRIALS, "minutes": SEARCHED * minutes, "train": train}
        finalize = {"finalists": 1, "seeds": n_seeds, "train": lab.train}
        return self.recipe.model_copy(
            update={
                "teacher": teacher,
                "constraints": self.recipe.constraints or (DROP,),
                "search": self.recipe.search.model_copy(update=search),
                "finalize": self.recipe.finalize.model_copy(update=finalize),
            }
        )


def _best(folder: RunFolder, lab: Lab) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the row of a run's best student on the lab's device and the seconds of the run's phases."""
    attrs = open_record(folder, load_recipe(str(folder.recipe), {}, [])).attrs if folder.study.exists() else {}
    if not attrs.get("students"):
        raise ConfigError(f"--run {folder.path}: has no students yet; finish it with: nas resume {folder.path}")
    ours = {"teacher_fingerprint": lab.prepared.teacher.fingerprint, "data": lab.prepared.data.fingerprint}
    others = [name.split("_")[0] for name, value in ours.items() if attrs[name] != value]
    if others:
        raise ConfigError(
            f"--run {folder.path}: its {' and '.join(others)} {'is' if len(others) == 1 else 'are'} not that of this "
            "comparison; give a search of the same teacher and data, or --search MINUTES for a new one."
        )
    rows, device = attrs["students"], lab.recipe.device.name
    best = attrs.get("best", {}).get(device)
    return row_on(device, next((row for row in rows if row["name"] == best), rows[0])), dict(attrs["seconds"])


def _student(folder: Path, lab: Lab, seconds: dict[str, float]) -> Compressed:
    """Return a student of a search as what a recipe of steps would have made."""
    tokenizer, teacher = AutoTokenizer.from_pretrained(folder), lab.prepared.teacher.tokenizer
    words, known = tokenizer.get_vocab(), teacher.get_vocab()
    spelling = None
    if words != known:
        kept = np.array([known[word] for word in sorted(words, key=words.__getitem__)], np.int64)
        spelling = Spelling(kept, teacher, tokenizer, lab.recipe.data.max_length)
    file = manifest(folder).get("devices", {}).get(lab.recipe.device.name, {}).get("artefact", FILES[lab.device.format])
    artefact = (folder / file).read_bytes()
    return Compressed((), load(folder), artefact, tokenizer, reports=(), seconds=seconds, spelling=spelling)


def _over_seeds(row: dict[str, Any]) -> dict[str, Any]:
    """Return the figures that the run has of all seeds of a student."""
    known = {"accuracy": "accuracy", "test_accuracy": "test"}
    present = {name: short for name, short in known.items() if row[f"{short}_mean"] is not None}
    return {
        "mean": {name: row[f"{short}_mean"] for name, short in present.items()},
        "sd": {name: row[f"{short}_sd"] for name, short in present.items()},
        "n": row["seeds"],
    }
