"""From the record of a run to the figures a report shows."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from launch.device_words import called, calls
from launch.loading import loading
from launch.results import Baseline, Candidate, ReportData, Rung, Student
from nas.engine import open_record
from nas.files import MANIFEST, read_json
from nas.goals import ceilings_on, constraints_of, miss_on, objectives_of, objectives_on, seen_on
from nas.objectives import Objective
from nas.pareto import pareto_front
from nas.recipe import Recipe
from nas.record import FrozenTrial, Record, TrialState
from nas.run_folder import RunFolder
from nas.rungs import latest, stopped_at, trained_in_full
from nas.students import row_on
from search_spaces.errors import ConfigError


def report_data(folder: RunFolder, recipe: Recipe) -> ReportData:
    """Return the figures of a run that has at least finished its profile phase, one set a device.

    Raises:
        ConfigError: The run has no profile yet.
    """
    if not folder.study.exists():
        raise ConfigError(f"run folder {folder.path}: nothing to report yet; run: nas resume {folder.path}")
    record = open_record(folder, recipe)
    if "teacher" not in record.attrs:
        raise ConfigError(f"run folder {folder.path}: nothing to report yet; run: nas resume {folder.path}")
    first, *others = (_data_on(device, folder, recipe, record) for device in recipe.targets)
    return replace(first, others=tuple(others))


def _data_on(device: str, folder: RunFolder, recipe: Recipe, record: Record) -> ReportData:
    """Return the figures of a run on one of its devices."""
    settings, attrs = recipe.targets[device], record.attrs
    attrs = {**attrs, **attrs.get("devices", {}).get(device, {})}
    teacher = seen_on(device, attrs["teacher"])
    rows = [row_on(device, row) for row in attrs.get("students", [])]
    if first := attrs.get("best", {}).get(device):
        rows.sort(key=lambda row: (row["name"] != first, -row["accuracy_mean"]))
    return ReportData(
        name=recipe.name,
        created=time.strftime("%Y-%m-%d %H:%M", time.localtime(folder.study.stat().st_mtime)),
        teacher=_baseline(recipe, teacher, [row["measurement"]["reference_ms"] for row in rows]),
        data=recipe.data.source,
        device=called(settings),
        workload=calls(settings, attrs["n_tokens"]),
        students=tuple(_student(row) for row in rows),
        candidates=_candidates(device, record, recipe),
        constraints=recipe.constraints,
        limit_ms=min((c.limit(teacher) for c in ceilings_on(device, constraints_of(recipe))), default=None),
        counts=_counts(device, folder, record),
        failures=Counter(t.user_attrs.get("cause", "unknown") for t in record.trials((TrialState.FAIL,))),
        phases=attrs.get("seconds", {}),
        overhead=attrs.get("overhead"),
        predictor=attrs.get("predictor", {}),
        environment=attrs.get("environment", {}),
        loading=_loading(device, folder.students / rows[0]["name"], recipe) if rows else (),
        rungs=tuple(Rung(r["rung"], r["reached"], r["tau"], r["widened"]) for r in attrs.get("fidelity", [])),
    )


def _loading(device: str, student: Path, recipe: Recipe) -> tuple[str, ...]:
    """Return how a student's files for a device are loaded; nothing where its folder was deleted since."""
    if not (student / MANIFEST).exists():
        return ()
    facts = row_on(device, read_json(student / MANIFEST))
    return loading(str(student), facts, recipe.on([recipe.targets[device]]))


def _baseline(recipe: Recipe, teacher: Mapping[str, float], in_turns_ms: Sequence[float]) -> Baseline:
    """Return the teacher's row; its latency is that in turns with the finalists, where there are any."""
    return Baseline(
        recipe.teacher.model.rstrip("/").rsplit("/", 1)[-1],
        teacher["accuracy"],
        float(np.median(in_turns_ms)) if in_turns_ms else teacher["latency_ms"],
        teacher["size_bytes"],
        teacher.get("test_accuracy"),
        teacher.get("parameters"),
    )


def _student(row: Mapping[str, Any]) -> Student:
    """Return a finalist's row, with everything a reader must know."""
    metrics, seen = row["metrics"], row["measurement"]
    remarks = [f"misses {name} by {miss:.1%}" for name, miss in row["misses"].items() if miss > 0]
    remarks += ["measured while the machine was busy"] * bool(seen["contended"]) + ["noisy"] * bool(seen["noisy"])
    return Student(
        name=row["name"],
        shape=row["shape"],
        accuracy=metrics["accuracy"],
        accuracy_mean=row["accuracy_mean"],
        accuracy_sd=row["accuracy_sd"],
        n_seeds=row["seeds"],
        latency_ms=seen["median_ms"],
        low_ms=seen["low_ms"],
        high_ms=seen["high_ms"],
        p95_ms=seen["p95_ms"],
        speedup=seen["speedup"],
        speedup_range=(seen["speedup_low"], seen["speedup_high"]) if seen.get("speedup_low") else None,
        size_bytes=seen["size_bytes"],
        predicted_ms=row["predicted_latency_ms"],
        test_accuracy=metrics.get("test_accuracy"),
        test_mean=row["test_mean"],
        test_sd=row["test_sd"],
        is_feasible=row["feasible"],
        remarks=tuple(remarks),
    )


def _candidates(device: str, record: Record, recipe: Recipe) -> tuple[Candidate, ...]:
    """Return every student of the search phase; the front is that of the feasible ones trained in full."""
    trials = latest(record.trials((TrialState.COMPLETE,)))
    feasible = [miss_on(device, trial.constraints) <= 0 for trial in trials]
    objectives = objectives_on(device, objectives_of(recipe))
    full = {trial.number for trial in trained_in_full(trials)}
    entrants = [trial for trial, good in zip(trials, feasible, strict=True) if good and trial.number in full]
    front = _front(entrants, objectives)
    return tuple(
        Candidate(
            f"trial {trial.number}",
            trial.user_attrs["metrics"]["accuracy"],
            seen_on(device, trial.user_attrs["metrics"])["latency_ms"],
            trial.user_attrs["shape"],
            trial.number in front,
            good,
            stopped_at(trial),
        )
        for trial, good in zip(trials, feasible, strict=True)
    )


def _front(trials: Sequence[FrozenTrial], objectives: Sequence[Objective]) -> set[int]:
    """Return the numbers of the trials that no other beats."""
    costs = [[o.cost(trial.user_attrs["metrics"][o.name]) for o in objectives] for trial in trials]
    keep = pareto_front(np.array(costs).reshape(-1, len(objectives)))
    return {trial.number for trial, kept in zip(trials, keep, strict=True) if kept}


def _counts(device: str, folder: RunFolder, record: Record) -> dict[str, int]:
    """Return how much was done."""
    path = folder.profile_on(device)
    shapes = {str(row["genes"]) for row in read_json(path)["rows"]} if path.exists() else set()
    return {
        "artefacts profiled": len(shapes),
        "students trained": len(latest(record.trials((TrialState.COMPLETE,)))),
        "failed": len(record.trials((TrialState.FAIL,))),
        "refused before training": len(record.trials((TrialState.PRUNED,))),
    }
