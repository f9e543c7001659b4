"""Phase 4, finalize: the best of the front trained in full, with several seeds, and measured beside the teacher.

Only numbers from here are results; everything before was a search signal.
"""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from nas.choice import best, finalists
from nas.devices.base import FILES
from nas.devices.settings import open_device
from nas.executor import Executor, Task
from nas.files import atomic_write, read_json, run_path, write_json
from nas.objectives import Constraint, Objective
from nas.prepare import Prepared
from nas.profile import Profile, remember
from nas.progress import Progress, Snapshot
from nas.recipe import Recipe
from nas.record import Record
from nas.run_folder import RunFolder
from nas.rungs import latest, trained_in_full
from nas.spelling import with_content
from nas.student import save
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
        self.objectives = [Objective.of(name) for name in recipe.objectives]
        self.constraints = [Constraint.parse(text) for text in recipe.constraints]

    def run(self, executor: Executor, progress: Progress) -> list[dict[str, Any]]:
        """Return one JSON row a delivered student, best first; also kept in the study as ``students``.

        Raises:
            StateError: No trial gave a student.
        """
        entrants = self._choose()
        numbers = [finalist.trial.number for finalist in entrants]
        if self.record.attrs.get("finalists") == numbers:  # finished before, and no better trial came since
            return list(self.record.attrs["students"])
        trained = self._train(entrants, executor, progress)
        progress.show(Snapshot("measure finalists"))
        measured = self._measure(trained, executor)
        rows = self._deliver(trained, measured)
        remember(self.known, self.folder, [{**row["measurement"], "genes": row["genes"]} for row in rows])
        self.record.set_attr("students", rows)
        self.record.set_attr("finalists", numbers)
        shutil.rmtree(self.folder.finalists, ignore_errors=True)
        return rows

    def _choose(self) -> list[Finalist]:
        """Return the finalists, named after their shape: the best as it stands now, then others of the front."""
        trials = self.record.trials((TrialState.COMPLETE,))
        if not trials:
            n_failed = len(self.record.trials((TrialState.FAIL,)))
            raise StateError(f"finalize: all {n_failed} trials failed; see why in log.txt, then run nas resume.")
        trials = trained_in_full(latest(trials))
        metrics = [trial.user_attrs["metrics"] for trial in trials]
        costs = np.array([[o.cost(known[o.name]) for o in self.objectives] for known in metrics])
        misses = np.array([max(t.constraints.values(), default=0.0) for t in trials])
        first = best(metrics, self.objectives, self.constraints, self.known.teacher)
        picks = finalists(costs, misses, self.recipe.finalize.finalists, first)
        return [Finalist(trials[i], self._name(trials[i])) for i in picks]

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
        for part in ("weights", "artefact"):
            atomic_write(path.with_suffix(f".{part}"), value.pop(part))
        write_json(path, {**value, "seed": seed})

    def _with_results(self, finalist: Finalist) -> Finalist:
        """Return the finalist with the results that the run folder holds."""
        paths = [self._result(finalist, seed) for seed in range(self.recipe.finalize.seeds)]
        return Finalist(finalist.trial, finalist.name, tuple(read_json(p) for p in paths if p.exists()))

    def _measure(self, entrants: Sequence[Finalist], executor: Executor) -> dict[str, dict[str, Any]]:
        """Measure the delivered artefacts in turns with the teacher's, in several processes one after the other.

        Nothing else of the search runs meanwhile. Where the teacher takes longer than in the profile phase, something
        else does: that is measured again.
        """
        if not entrants:
            raise StateError(
                f"finalize: {len(entrants)} finalists were trained to the end; at least 1 has to be. See log.txt, then "
                "run nas resume."
            )
        blobs = {f.name: self._part(f, "artefact") for f in entrants}
        found: dict[str, dict[str, Any]] = {}
        for _ in range(ATTEMPTS):
            waiting = {name: blob for name, blob in blobs.items() if name not in found or found[name]["contended"]}
            if not waiting:
                break
            for name, row in self._measure_once(waiting, executor).items():
                row["contended"] = row["contended"] or row["reference_ms"] > self.known.calm_ms
                found[name] = min((found.get(name, row), row), key=lambda each: float(each["reference_ms"]))
        return found

    def _measure_once(self, blobs: dict[str, bytes], executor: Executor) -> dict[str, dict[str, Any]]:
        """Return a measurement of each artefact."""
        timeout_s = self.recipe.search.trial_timeout_s
        spec = {"candidates": [], "tokens": self.prepared.n_tokens, "timeout_s": timeout_s}
        spec["starts"] = self.recipe.finalize.starts
        executor.submit(Task("final-measure", "measure", spec, blobs))
        outcomes: list[Any] = []
        while not outcomes:
            outcomes = executor.wait(1.0)
        if outcomes[0].value is None:
            raise StateError(f"finalize: measuring failed: {outcomes[0].failure.message}; run nas resume.")
        return dict(zip(sorted(blobs), outcomes[0].value["measurements"], strict=True))

    def _part(self, finalist: Finalist, part: str) -> bytes:
        """Return the weights or the artefact of the delivered seed."""
        content: bytes = self._result(finalist, finalist.chosen["seed"]).with_suffix(f".{part}").read_bytes()
        return content

    def _deliver(self, entrants: Sequence[Finalist], measured: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
        """Write the students' folders and return the rows, best first."""
        rows = [self._row(finalist, measured[finalist.name]) for finalist in entrants]
        typical = [{**row["metrics"], "accuracy": row["accuracy_mean"]} for row in rows]  # not the luckiest seed
        first = best(typical, self.objectives, self.constraints, self.known.teacher)
        file = FILES[open_device(self.recipe.device).format]
        order = [first, *sorted((i for i in range(len(rows)) if i != first), key=lambda i: -rows[i]["accuracy_mean"])]
        for finalist, row in zip(entrants, rows, strict=True):
            config = Architecture.from_json(finalist.chosen["architecture"]).config
            artefact, weights = self._part(finalist, "artefact"), self._part(finalist, "weights")
            target = run_path(self.folder.students, finalist.name)
            facts = {key: row[key] for key in ("name", "genes", "shape", "metrics", "measurement", "feasible")}
            facts |= {"teacher": self.recipe.teacher.model, "teacher_metrics": self.known.teacher}
            facts |= {"artefact": file}
            facts |= {"text_columns": len(self.recipe.data.text), "max_length": self.recipe.data.max_length}
            words = finalist.chosen.get("tokenizer")  # None: the teacher's
            tokenizer = self.prepared.teacher.tokenizer
            tokenizer = tokenizer if words is None else with_content(tokenizer, words["content"])
            save(target, config, weights, artefact, tokenizer, facts, file)
        return [rows[i] for i in order]

    def _row(self, finalist: Finalist, measurement: dict[str, Any]) -> dict[str, Any]:
        """Return all that is known of a delivered student; its metrics are measured, none predicted."""
        accuracies = [result["metrics"]["accuracy"] for result in finalist.results]
        tests = [r["metrics"]["test_accuracy"] for r in finalist.results if "test_accuracy" in r["metrics"]]
        genes, chosen = finalist.trial.user_attrs["genes"], finalist.chosen
        metrics = {
            **self.known.metrics(genes),
            **chosen["metrics"],
            "latency_ms": measurement["median_ms"],
            "size_bytes": float(measurement["size_bytes"]),
        }
        typical = {**metrics, "accuracy": float(np.mean(accuracies))}  # a constraint is not met by a lucky seed
        misses = {str(c): c.violation(typical, self.known.teacher) for c in self.constraints}
        foretold = self.known.foretell(genes)
        return {
            "name": finalist.name,
            "trial": finalist.trial.number,
            "genes": genes,
            "shape": finalist.trial.user_attrs["shape"],
            "metrics": metrics,
            "measurement": measurement,
            "predicted_latency_ms": foretold.value,
            "predicted_low_ms": foretold.low,
            "predicted_high_ms": None if math.isinf(foretold.high) else foretold.high,
            "accuracy_mean": float(np.mean(accuracies)),
            "accuracy_sd": float(np.std(accuracies)),
            "test_mean": float(np.mean(tests)) if tests else None,
            "test_sd": float(np.std(tests)) if tests else None,
            "seeds": len(accuracies),
            "curves": chosen["curves"],
            "reports": chosen["reports"],
            "misses": misses,
            "feasible": all(miss <= 0 for miss in misses.values()),
        }
