"""Phase 4, finalize: the best of the front trained in full, with several seeds, and measured beside the teacher.

With several devices each names the best of its own front; a student that more than one of them names is trained once,
and all are measured on all devices. Only numbers from here are results; everything before was a search signal.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from nas.choice import best, finalists
from nas.devices.base import file_names
from nas.devices.settings import open_device
from nas.executor import Executor, Task
from nas.files import atomic_write, read_json, run_path, write_json
from nas.goals import constraints_of, constraints_on, miss_on, objectives_of, objectives_on, on
from nas.knowledge import Profile
from nas.objectives import at
from nas.prepare import Prepared
from nas.profile import remember
from nas.progress import Progress, Snapshot
from nas.recipe import Recipe
from nas.record import Record
from nas.run_folder import RunFolder
from nas.rungs import latest, trained_in_full
from nas.spelling import with_content
from nas.student import save
from nas.students import best_on, row_on, student_row
from nas.trial import part_of
from search_spaces.errors import StateError
from search_spaces.families.text_encoder import Architecture

ATTEMPTS = 2  # to measure a student while nothing disturbs the device


@dataclass(frozen=True)
class Finalist:
    """One finalist: its trial, its name, and one result a seed."""

    trial: FrozenTrial
    name: str
    results: tuple[dict[str, Any], ...] = ()

    @property
    def chosen(self) -> dict[str, Any]:
        """Return the seed that is delivered: the best on validation."""
        return max(self.results, key=lambda result: float(result["metrics"]["accuracy"]))


class Finalize:
    """The last phase of one search."""

    def __init__(self, recipe: Recipe, prepared: Prepared, known: Profile, record: Record, folder: RunFolder) -> None:
        """Keep what the phase needs."""
        self.recipe, self.prepared, self.known = recipe, prepared, known
        self.record, self.folder = record, folder
        self.objectives, self.constraints = objectives_of(recipe), constraints_of(recipe)
        self.devices = {name: open_device(settings) for name, settings in recipe.targets.items()}

    def run(self, executor: Executor, progress: Progress) -> list[dict[str, Any]]:
        """Return one JSON row a delivered student, see `student_row`, best first, of several devices on the first.

        They are kept in the study as ``students``, and ``best`` has the name of the best one of each device.

        Raises:
            StateError: No trial gave a student.
        """
        entrants = self._choose()
        numbers = [finalist.trial.number for finalist in entrants]
        if self.record.attrs.get("finalists") == numbers:  # finished before, and no better trial came since
            return list(self.record.attrs["students"])
        trained = self._train(entrants, executor, progress)
        progress.show(Snapshot("measure finalists"))
        measured = {each.device: self._measure(trained, each, executor) for each in self.known.each}
        rows = self._deliver(trained, measured)
        for each in self.known.each:
            seen = [{**row_on(each.device, row)["measurement"], "genes": row["genes"]} for row in rows]
            remember(each, self.folder, seen)
        self.record.set_attr("students", rows)
        self.record.set_attr("finalists", numbers)
        shutil.rmtree(self.folder.finalists, ignore_errors=True)
        return rows

    def _choose(self) -> list[Finalist]:
        """Return the finalists, named after their shape, each once: those of every device's front."""
        trials = self.record.trials((TrialState.COMPLETE,))
        if not trials:
            n_failed = len(self.record.trials((TrialState.FAIL,)))
            raise StateError(f"finalize: all {n_failed} trials failed; see why in log.txt, then run nas resume.")
        trials = trained_in_full(latest(trials))
        picks = dict.fromkeys(i for device in self.devices for i in self._choose_on(device, trials))
        return [Finalist(trials[i], self._name(trials[i])) for i in picks]

    def _choose_on(self, device: str, trials: Sequence[FrozenTrial]) -> list[int]:
        """Return the places of a device's finalists: the best now, the most accurate of its front, others of it."""
        objectives, constraints = objectives_on(device, self.objectives), constraints_on(device, self.constraints)
        metrics = [trial.user_attrs["metrics"] for trial in trials]
        costs = np.array([[o.cost(known[o.name]) for o in objectives] for known in metrics])
        misses = np.array([miss_on(device, trial.constraints) for trial in trials])
        first = best(metrics, objectives, constraints, self.known.teacher)
        names = [objective.name for objective in objectives]
        end = names.index("accuracy") if "accuracy" in names else None
        return finalists(costs, misses, self.recipe.finalize.finalists, first, end)

    def _name(self, trial: FrozenTrial) -> str:
        """Return a name that says what the student is, e.g. ``t017-3x384-int8``."""
        genes = trial.user_attrs["genes"]
        config = self.known.candidates.architecture(genes).config
        words = "".join(c if c.isalnum() or c in ".-" else "-" for c in self.known.candidates.variant(genes))
        return f"t{trial.number:03d}-{config.depth}x{config.hidden}-{words}".lower()[:48].rstrip("-")

    def _train(self, entrants: Sequence[Finalist], executor: Executor, progress: Progress) -> list[Finalist]:
        """Train every finalist with every seed, except those already in the run folder."""
        jobs = {
            f"final-{i}.{seed}": (finalist, seed)
            for i, finalist in enumerate(entrants)
            for seed in range(self.recipe.finalize.seeds)
        }
        waiting = [uid for uid, (finalist, seed) in jobs.items() if not self._result(finalist, seed).exists()]
        done, failures = len(jobs) - len(waiting), 0
        # the longest first, so that no worker is left alone with one at the end
        for uid in sorted(waiting, key=lambda uid: -jobs[uid][0].trial.user_attrs["metrics"]["macs"]):
            executor.submit(self._task(uid, *jobs[uid]))
        while done + failures < len(jobs):
            left = len(jobs) - done - failures
            progress.show(Snapshot("finalize", done, len(jobs), min(left, executor.slots("train")), failures))
            for outcome in executor.wait(1.0):
                if outcome.value is None:
                    failures += 1
                    assert outcome.failure is not None
                    progress.warn(f"finalist {jobs[outcome.uid][0].name}: {outcome.failure.message}")
                else:
                    done += 1
                    self._keep(*jobs[outcome.uid], dict(outcome.value))
        return [f for f in (self._with_results(finalist) for finalist in entrants) if f.results]

    def _task(self, uid: str, finalist: Finalist, seed: int) -> Task:
        """Return the training task of one finalist and seed."""
        spec = {
            "genes": finalist.trial.user_attrs["genes"],
            "seed": self.recipe.search.seed + 1000 * (seed + 1),
            "train": self.recipe.finalize.train.model_dump(mode="json"),
            "deliver": True,
            "timeout_s": self.recipe.search.trial_timeout_s,
        }
        return Task(uid, "train", spec)

    def _result(self, finalist: Finalist, seed: int) -> Any:
        """Return the path whose existence says that a finalist's seed is trained and kept."""
        return run_path(self.folder.finalists, f"{finalist.name}.seed-{seed}.json")

    def _keep(self, finalist: Finalist, seed: int, value: dict[str, Any]) -> None:
        """Write a trained seed to the run folder; the JSON comes last."""
        path = self._result(finalist, seed)
        for part in [name for name, content in value.items() if isinstance(content, bytes)]:
            atomic_write(path.with_suffix(f".{part}"), value.pop(part))
        write_json(path, {**value, "seed": seed})

    def _with_results(self, finalist: Finalist) -> Finalist:
        """Return the finalist with the results that the run folder holds."""
        paths = [self._result(finalist, seed) for seed in range(self.recipe.finalize.seeds)]
        return Finalist(finalist.trial, finalist.name, tuple(read_json(p) for p in paths if p.exists()))

    def _measure(self, entrants: Sequence[Finalist], known: Profile, executor: Executor) -> dict[str, dict[str, Any]]:
        """Measure the delivered artefacts in turns with the teacher's, in several processes one after the other.

        Nothing else of the search runs meanwhile. The profile says on which device. Where the teacher takes longer than
        in the profile phase, something else does: that is measured again.
        """
        if not entrants:
            raise StateError(
                f"finalize: {len(entrants)} finalists were trained to the end; at least 1 has to be. See log.txt, then "
                "run nas resume."
            )
        blobs = {f.name: self._artefact(f, known.device) for f in entrants}
        found: dict[str, dict[str, Any]] = {}
        for _ in range(ATTEMPTS):
            waiting = {name: blob for name, blob in blobs.items() if name not in found or found[name]["contended"]}
            if not waiting:
                break
            for name, row in self._measure_once(waiting, known, executor).items():
                row["contended"] = row["contended"] or row["reference_ms"] > known.calm_ms
                found[name] = min((found.get(name, row), row), key=lambda each: float(each["reference_ms"]))
        return found

    def _measure_once(self, blobs: dict[str, bytes], known: Profile, executor: Executor) -> dict[str, dict[str, Any]]:
        """Return a measurement of each artefact."""
        timeout_s = self.recipe.search.trial_timeout_s
        spec = {"candidates": [], "tokens": known.n_tokens, "timeout_s": timeout_s}
        spec["starts"] = self.recipe.finalize.starts
        executor.submit(Task(at("final-measure", known.device), "measure", spec, blobs, known.device))
        outcomes: list[Any] = []
        while not outcomes:
            outcomes = executor.wait(1.0)
        if outcomes[0].value is None:
            where, why = on(known.device), outcomes[0].failure.message
            raise StateError(f"finalize: measuring{where} failed: {why}; run nas resume.")
        return dict(zip(sorted(blobs), outcomes[0].value["measurements"], strict=True))

    def _artefact(self, finalist: Finalist, device: str) -> bytes:
        """Return the file of the delivered seed that a device runs."""
        return self._part(finalist, part_of(self.devices[device], next(iter(self.devices.values()))))

    def _part(self, finalist: Finalist, part: str) -> bytes:
        """Return the weights or a file of the delivered seed."""
        content: bytes = self._result(finalist, finalist.chosen["seed"]).with_suffix(f".{part}").read_bytes()
        return content

    def _deliver(self, entrants: Sequence[Finalist], measured: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
        """Write the students' folders and return the rows, best first."""
        rows = [
            student_row(f.name, f.trial, f.results, f.chosen, seen, self.known, self.constraints)
            for f in entrants
            for seen in [{device: found[f.name] for device, found in measured.items()}]
        ]
        goals = (self.objectives, self.constraints, self.known.teacher)
        first = {device: best_on(device, rows, *goals) for device in self.devices}
        others = sorted(range(len(rows)), key=lambda i: -rows[i]["accuracy_mean"])
        for finalist, row in zip(entrants, rows, strict=True):
            self._save(finalist, row)
        self.record.set_attr("best", {device: rows[i]["name"] for device, i in first.items()})
        return [rows[i] for i in dict.fromkeys([*first.values(), *others])]

    def _save(self, finalist: Finalist, row: dict[str, Any]) -> None:
        """Write a student's folder, with a file for each format of the devices."""
        names = file_names(device.format for device in self.devices.values())
        files = {device: names[made.format] for device, made in self.devices.items()}
        figures = ("metrics", "measurement", "feasible")
        facts = {key: row[key] for key in ("name", "genes", "shape", *figures)}
        facts |= {"teacher": self.recipe.teacher.model, "teacher_metrics": self.known.teacher}
        facts |= {"artefact": files[self.known.device]}
        facts |= {"text_columns": len(self.recipe.data.text), "max_length": self.recipe.data.max_length}
        if "devices" in row:
            each = {device: {key: told[key] for key in figures} for device, told in row["devices"].items()}
            facts |= {"devices": {device: {"artefact": files[device], **told} for device, told in each.items()}}
        words = finalist.chosen.get("tokenizer")  # None: the teacher's
        tokenizer = self.prepared.teacher.tokenizer
        tokenizer = tokenizer if words is None else with_content(tokenizer, words["content"])
        config, weights = (
            Architecture.from_json(finalist.chosen["architecture"]).config,
            self._part(finalist, "weights"),
        )
        artefacts = {file: self._artefact(finalist, device) for device, file in files.items()}
        save(run_path(self.folder.students, finalist.name), config, weights, artefacts, tokenizer, facts)
