"""The joint rows of a comparison: students of a search that chose everything together."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from launch.commands import make_executor
from launch.recipes import load_recipe, save_recipe
from nas.cached_outputs import share_outputs
from nas.comparison import Comparison
from nas.devices.base import FILES
from nas.engine import Engine, open_record
from nas.lab import Compressed, Lab
from nas.methods import JOINT, JOINT_ACCURATE, SEARCHED
from nas.recipe import Recipe, TeacherSettings
from nas.run_folder import RunFolder
from nas.spelling import Spelling
from nas.student import load, manifest
from nas.students import row_on
from nas.tracker import NullTracker
from search_spaces.errors import ConfigError

DROP = "accuracy_drop <= 3%"  # what "best" means where the recipe has no constraint: the fastest that keeps 97 %
SEARCH_SHARE = 0.6  # of the wall-clock for the search phase; profile and final training take about the rest
TRIALS = 10_000  # more than the time allows


class Joint:
    """Where the joint students come from: a run that is given, or a search as long as all other methods took."""

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
            _students(RunFolder(self.run), lab)

    def enter(self, comparison: Comparison) -> None:
        """Search if need be, and put the students that are asked for among the rows; one may be both."""
        lab = comparison.lab
        folder = RunFolder(self.run) if self.run is not None else self._searched(comparison)
        rows, seconds = _students(folder, lab)
        picked = {JOINT: rows[0], JOINT_ACCURATE: max(rows, key=lambda row: float(row["accuracy_mean"]))}
        for name in _wanted(comparison):
            path = folder.students / picked[name]["name"]
            student = as_compressed(path, lab, _artefact(path, lab), seconds)
            comparison.keep(name, 0, student, _over_seeds(picked[name]))

    def _searched(self, comparison: Comparison) -> RunFolder:
        """Return the folder of a search of its own, which an earlier, interrupted one continues.

        It begins with what the teacher said of the training rows, if one of the other methods asked.
        """
        lab = comparison.lab
        folder = RunFolder(lab.folder.path / "search")
        folder.create()
        share_outputs(lab.folder.teacher, folder.teacher)
        minutes = self.minutes or comparison.seconds() / 60
        n_finalists = len(SEARCHED) if JOINT_ACCURATE in comparison.names else 1
        recipe = self._recipe(lab, minutes, (n_finalists, comparison.n_seeds))
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

    def _recipe(self, lab: Lab, minutes: float, finals: tuple[int, int]) -> Recipe:
        """Return the recipe of a search: the lab's teacher and its budget, for so many finalists with so many seeds."""
        tuned = lab.folder.teacher / "model"
        teacher = TeacherSettings(model=str(tuned)) if tuned.exists() else self.recipe.teacher
        train = lab.train.model_copy(update={"epochs": lab.train.epochs / 2})
        search = {"trials": TRIALS, "minutes": SEARCH_SHARE * minutes, "train": train}
        finalize = {"finalists": finals[0], "seeds": finals[1], "train": lab.train}
        return self.recipe.model_copy(
            update={
                "teacher": teacher,
                "constraints": self.recipe.constraints or (DROP,),
                "search": self.recipe.search.model_copy(update=search),
                "finalize": self.recipe.finalize.model_copy(update=finalize),
            }
        )


def _wanted(comparison: Comparison) -> list[str]:
    """Return which students of the search are to be rows."""
    return [name for name in SEARCHED if name in comparison.names]


def _students(folder: RunFolder, lab: Lab) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return a run's students as the lab's device sees them, the best one first, and the seconds of its phases."""
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
    device = lab.recipe.device.name
    best = attrs.get("best", {}).get(device)
    rows = sorted(attrs["students"], key=lambda row: row["name"] != best)
    return [row_on(device, row) for row in rows], dict(attrs["seconds"])


def as_compressed(folder: Path, lab: Lab, artefact: bytes, seconds: Mapping[str, float]) -> Compressed:
    """Return a student of a search as what a recipe of steps would have made.

    Args:
        folder: Of the student.
        lab: Of the same teacher and data.
        artefact: The student in a format that the lab's device runs.
        seconds: How long the search took, by phase.
    """
    tokenizer, teacher = AutoTokenizer.from_pretrained(folder), lab.prepared.teacher.tokenizer
    words, known = tokenizer.get_vocab(), teacher.get_vocab()
    spelling = None
    if words != known:
        kept = np.array([known[word] for word in sorted(words, key=words.__getitem__)], np.int64)
        spelling = Spelling(kept, teacher, tokenizer, lab.recipe.data.max_length)
    return Compressed((), load(folder), artefact, tokenizer, reports=(), seconds=seconds, spelling=spelling)


def _artefact(folder: Path, lab: Lab) -> bytes:
    """Return the file of a student that was searched for the lab's device."""
    made = manifest(folder).get("devices", {}).get(lab.recipe.device.name, {})
    file: str = made.get("artefact", FILES[lab.device.format])
    return (folder / file).read_bytes()


def _over_seeds(row: dict[str, Any]) -> dict[str, Any]:
    """Return the figures that the run has of all seeds of a student."""
    known = {"accuracy": "accuracy", "test_accuracy": "test"}
    present = {name: short for name, short in known.items() if row[f"{short}_mean"] is not None}
    return {
        "mean": {name: row[f"{short}_mean"] for name, short in present.items()},
        "sd": {name: row[f"{short}_sd"] for name, short in present.items()},
        "n": row["seeds"],
    }
