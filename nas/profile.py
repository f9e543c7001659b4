"""Phase 2, profile: measure untrained students on the idle device and learn to predict latency and size from genes.

Latency does not depend on the values of weights, so nothing has to be trained for this; afterwards a candidate that
cannot meet a hard constraint is recognised in milliseconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from nas.calm import calm_reference_ms
from nas.design import NEAR, POOL, design, design_near
from nas.devices.base import Measurement
from nas.devices.host import MOST_TOGETHER
from nas.executor import Executor, Outcome, Task
from nas.files import read_json, write_json
from nas.goals import ceilings_on, on
from nas.knowledge import Profile
from nas.latency import Features, LatencyPredictor
from nas.measured_rows import believed, described
from nas.objectives import LATENCY, Constraint, at, device_of
from nas.prepare import Prepared
from nas.progress import Progress, Snapshot
from nas.recipe import DeviceSettings
from nas.run_folder import RunFolder
from search_spaces.errors import DeviceError, InfeasibleError
from search_spaces.seeding import rng_for
from search_spaces.space import Genes, Value

TOGETHER = 5  # shapes of one task: they take turns, so what slows the machine for a while slows them alike
LEAST_TASKS = 4  # so that a quiet time can be told from others


def profiles(
    targets: Mapping[str, DeviceSettings],
    prepared: Prepared,
    folder: RunFolder,
    executor: Executor,
    progress: Progress,
) -> Profile:
    """Return the profile of the first device with those of the others, measured one after the other; see `profile`.

    Args:
        targets: The devices, see `Recipe.targets`.
        prepared: Of the recipe.
        folder: Keeps the measurements.
        executor: Measures.
        progress: Hears how far it is.
    """
    first, *others = (
        profile(prepared.on(device, settings), folder, executor, progress) for device, settings in targets.items()
    )
    elsewhere = {name: value for other in others for name, value in other.teacher.items() if device_of(name)}
    return replace(first, others=tuple(others), teacher={**first.teacher, **elsewhere})


def profile(prepared: Prepared, folder: RunFolder, executor: Executor, progress: Progress) -> Profile:
    """Measure the teacher and about ``search.profile_shapes`` untrained students; fit the predictors.

    Raises:
        DeviceError: The device cannot be measured.
    """
    path = folder.profile_on(prepared.device)
    rows = read_json(path) if path.exists() else None
    if rows is None:
        rows = measure_space(prepared, executor, progress)
        write_json(path, rows)
    return fit_profile(prepared, rows)


def remember(known: Profile, folder: RunFolder, measured: Sequence[Mapping[str, Any]]) -> None:
    """Add later measurements of students to the run's profile; it is fitted with them when the search is resumed.

    Args:
        known: The profile so far, of the device that measured them.
        folder: Its run.
        measured: ``genes`` and a `Measurement` as JSON each; those that something disturbed are left out. One of a
            student that was measured later before takes its place.
    """
    path, space = folder.profile_on(known.device), known.candidates.space
    stored = read_json(path)
    later = {space.key(row["genes"]): row for row in stored.get("later", [])}
    for row in measured:
        n_words = known.n_words.get(known.candidates.variant(row["genes"]))
        if not row["contended"]:
            later[space.key(row["genes"])] = {**row, **({} if n_words is None else {"n_words": n_words})}
    write_json(path, {**stored, "later": list(later.values())})


def check_feasible(known: Profile, constraints: Sequence[Constraint], seed: int) -> None:
    """Raise when no candidate is predicted to meet the constraints that need no training.

    Raises:
        InfeasibleError: It names the fastest student that was measured.
    """
    space, rng = known.candidates.space, rng_for(seed, "feasible")
    pool = [*known.candidates.warm_start(), *(space.sample(rng) for _ in range(POOL))]
    best = min(pool, key=lambda genes: known.shortfall(genes, constraints))
    for _ in range(POOL):
        other = space.mutate(best, rng)
        if known.shortfall(other, constraints) < known.shortfall(best, constraints):
            best = other
    if known.shortfall(best, constraints) > 0:
        wanted = ", ".join(str(constraint) for constraint in constraints)
        raise InfeasibleError(
            f"constraints: no student of this space meets {wanted}; the fastest student is {known.fastest} "
            f"and the nearest is {known.candidates.describe(best)}. Relax a constraint or widen the space."
        )


def measure_space(
    prepared: Prepared, executor: Executor, progress: Progress, old: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Measure shapes that cover the space, then some near the latency asked for, as those predict it.

    Args:
        prepared: Teacher, candidates, how many shapes.
        executor: Measures.
        progress: Hears what was disturbed.
        old: Measurements of other devices by name, as this function returns them, whose predictions help.

    Returns:
        JSON values for `fit_profile`.

    Raises:
        DeviceError: The device cannot be measured.
    """
    search = prepared.bundle.recipe["search"]
    n_shapes, limits = search["profile_shapes"], _limits(prepared)
    n_near = round(NEAR * n_shapes) if limits else 0
    shapes = design(prepared.candidates, n_shapes - n_near, search["seed"])
    stored = _measure_calmly(prepared, shapes, {"rows": [], **({"old": old} if old else {})}, executor, progress)
    if n_near:
        near = shapes_near(prepared, fit_profile(prepared, stored), n_near, search["seed"], shapes)
        stored = _measure_calmly(prepared, near, stored, executor, progress)
    return stored


def shapes_near(
    prepared: Prepared, known: Profile, n_shapes: int, seed: int, measured: Sequence[Genes] = ()
) -> list[dict[str, Value]]:
    """Return genes whose predicted latency is near what the recipe asks for; none where it asks for no latency.

    Args:
        prepared: Candidates and constraints.
        known: What predicts.
        n_shapes: How many to return; fewer where there are no more.
        seed: Of the draw.
        measured: Genes to keep away from.
    """
    limits = _limits(prepared)
    if not limits:
        return []
    limit_ms = min(limit.limit(known.teacher) for limit in limits)
    return design_near(
        prepared.candidates, measured, n_shapes, seed, lambda genes: known.metrics(genes)[LATENCY], limit_ms
    )


def _limits(prepared: Prepared) -> list[Constraint]:
    """Return the upper limits of the latency on the device."""
    return ceilings_on(prepared.device, [Constraint.parse(text) for text in prepared.bundle.recipe["constraints"]])


def _measure_calmly(
    prepared: Prepared,
    shapes: Sequence[Mapping[str, Value]],
    stored: Mapping[str, Any],
    executor: Executor,
    progress: Progress,
) -> dict[str, Any]:
    """Measure shapes in every variant, some together, once more what something disturbed; add them to others."""
    rows = list(stored["rows"])
    items = tasks_of(prepared, "profile", len(rows), shapes)
    found, facts = measure_candidates(prepared, items, executor, progress)
    calm_ms = calm_reference_ms([row["reference_ms"] for some in (rows, *found.values()) for row in some])
    again = {uid: items[uid] for uid, some in found.items() if _slowest_ms(some) > calm_ms}
    if again:
        where = on(prepared.device)
        n_again, n_all = _count(again), _count(items)
        progress.say(f"profile{where}: something disturbed {n_again} of {n_all} measurements; taking them again")
        second, _ = measure_candidates(prepared, again, executor, progress)
        found |= {uid: min(found[uid], some, key=_slowest_ms) for uid, some in second.items()}
    return {**stored, "rows": [*rows, *(row for uid in items for row in found.get(uid, ()))], **facts}


def tasks_of(prepared: Prepared, name: str, first: int, shapes: Sequence[Genes]) -> dict[str, list[Genes]]:
    """Return the candidates that are measured together, shapes in every variant, by names for their tasks.

    On a device that measures file by file in processes of their own a task has one shape.

    Args:
        prepared: Of the device.
        name: That the names begin with, before a number.
        first: The first number.
        shapes: To be measured.
    """
    variants = [prepared.candidates.variants(genes) for genes in shapes]
    n_files = max(map(len, variants), default=1)
    n_most = min(TOGETHER, len(shapes) // LEAST_TASKS, MOST_TOGETHER // n_files) if prepared.takes_turns else 1
    n_shapes = max(1, n_most)
    return {
        at(f"{name}-{first + i}", prepared.device): list(chain.from_iterable(variants[i : i + n_shapes]))
        for i in range(0, len(shapes), n_shapes)
    }


def measure_candidates(
    prepared: Prepared, items: Mapping[str, Sequence[Mapping[str, Value]]], executor: Executor, progress: Progress
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """Return the measurements of the candidates of each item, and what is said of the device.

    The candidates of an item are measured together. An item that the device gives no answer to, while it answers to
    others, is left out.

    Raises:
        DeviceError: The device cannot be measured.
    """
    for uid, candidates in items.items():
        executor.submit(_task(prepared, uid, candidates))
    found: dict[str, list[dict[str, Any]]] = {}
    facts, n_silent, n_all = dict[str, Any](), 0, _count(items)
    progress.show(Snapshot("profile", 0, n_all))
    while len(found) + n_silent < len(items):
        for outcome in executor.wait(1.0):
            if outcome.value is None:
                n_silent += _left_out(outcome, prepared.device, progress)
                continue
            facts = {name: outcome.value[name] for name in ("environment", "reference_bytes")}
            pairs = zip(items[outcome.uid], outcome.value["measurements"], strict=True)
            found[outcome.uid] = [{"genes": genes, **measurement} for genes, measurement in pairs]
        progress.show(Snapshot("profile", _count(found), n_all))
    return found, facts


def _count(items: Mapping[str, Sequence[Any]]) -> int:
    """Return how many measurements some items are, or want."""
    return sum(map(len, items.values()))


def _left_out(outcome: Outcome, device: str, progress: Progress) -> bool:
    """Return True, and say so, where a device that answers to others gave no answer; raise for any other failure."""
    failure = outcome.failure
    assert failure is not None
    if failure.cause != "no_answer":
        raise DeviceError(f"device: measuring{on(device)} failed ({failure.cause}): {failure.message}")
    progress.warn(f"{outcome.uid}: left out, {failure.message}")
    return True


def _slowest_ms(rows: Sequence[Mapping[str, Any]]) -> float:
    """Return the longest that the reference took beside some measurements."""
    return max(float(row["reference_ms"]) for row in rows)


def _task(prepared: Prepared, uid: str, candidates: Sequence[Mapping[str, Value]]) -> Task:
    """Return the task that measures some candidates together; each of their shapes may take as long as a trial."""
    n_shapes = len({prepared.candidates.architecture(genes) for genes in candidates})
    timeout_s = n_shapes * prepared.bundle.recipe["search"]["trial_timeout_s"]
    spec = {
        "candidates": [dict(genes) for genes in candidates],
        "tokens": prepared.n_tokens,
        "quick": True,
        "timeout_s": timeout_s,
    }
    return Task(uid, "measure", spec, device=prepared.device)


def fit_profile(prepared: Prepared, stored: Mapping[str, Any]) -> Profile:
    """Return the predictors fitted on what `measure_space` returned, and on what was measured later."""
    candidates, n_tokens = prepared.candidates, prepared.n_tokens
    first, left_out = believed(described(candidates, n_tokens, stored["rows"]))
    rows = [*first, *described(candidates, n_tokens, stored.get("later", []))]
    variants = [row["variant"] for row in rows]
    n_words = {row["variant"]: row["n_words"] for row in rows if "n_words" in row}
    seen = [Measurement.from_json(row) for row in rows]
    size = LatencyPredictor()
    sizes = np.array([float(m.size_bytes) for m in seen])
    size.fit([{"parameters": row["parameters"]} for row in rows], sizes, variants)
    teacher, family = candidates.teacher, candidates.family
    teacher_ms = float(np.median([row["reference_ms"] for row in first]))
    baseline = {
        **dict.fromkeys((LATENCY, at(LATENCY, prepared.device)), teacher_ms),
        **dict.fromkeys(("size_bytes", at("size_bytes", prepared.device)), float(stored["reference_bytes"])),
        "macs": float(family.macs(teacher, n_tokens)),
        "parameters": float(family.parameters(teacher)),
    }
    old = {name: fit_profile(prepared, told).latency for name, told in stored.get("old", {}).items()}
    latency = _fit_latency([row["features"] for row in rows], seen, variants, teacher_ms, old)
    fastest = min(m.median_ms for m in seen)
    calm_ms = calm_reference_ms([row["reference_ms"] for row in stored["rows"]])
    about = (dict(stored["environment"]), n_words, calm_ms, left_out, prepared.device)
    return Profile(candidates, n_tokens, latency, size, baseline, fastest, *about)


def _fit_latency(
    features: Sequence[Features],
    seen: Sequence[Measurement],
    variants: Sequence[str],
    teacher_ms: float,
    old: Mapping[str, LatencyPredictor],
) -> LatencyPredictor:
    """Return the predictor of latencies as they were, or as shares of the teacher's beside each: the better one.

    What slows the machine for a while slows the teacher, too, and falls out of their ratio (here the held-out error
    fell from 12 % to 5 % while others used the other core); on a quiet machine it has two errors instead of one. The
    bounded error decides: a mean is that of its wildest row, a median is blind for half of the students.
    """
    as_measured = np.array([m.median_ms for m in seen])
    references = np.array([float(m.reference_ms or teacher_ms) for m in seen])
    found = []
    for latency_ms in (as_measured, as_measured / references * teacher_ms):
        predictor = LatencyPredictor(old)
        predictor.fit(features, latency_ms, variants)
        found.append(predictor)
    return min(found, key=lambda predictor: predictor.report.bounded)
