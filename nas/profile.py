"""Phase 2, profile: measure untrained students on the idle device and learn to predict latency and size from genes.

Latency does not depend on the values of weights, so nothing has to be trained for this; afterwards a candidate that
cannot meet a hard constraint is recognised in milliseconds.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nas.calm import calm_reference_ms
from nas.candidates import Candidates
from nas.devices.base import Measurement
from nas.executor import Executor, Task
from nas.files import read_json, write_json
from nas.latency import LatencyPredictor
from nas.objectives import Constraint
from nas.prepare import Prepared
from nas.progress import Progress, Snapshot
from nas.run_folder import RunFolder
from search_spaces.errors import ConfigError, DeviceError, InfeasibleError
from search_spaces.seeding import rng_for
from search_spaces.space import Genes, Value

POOL = 512  # random candidates the profiled shapes are chosen from


@dataclass(frozen=True)
class Profile:
    """What is known of every student before it is trained.

    Attributes:
        candidates: The space.
        n_tokens: Sequence length of the measurements.
        latency: Predicts ms from features and variant.
        size: Predicts bytes of the artefact from the number of parameters and the variant.
        teacher: Baseline metrics: latency_ms, size_bytes, macs, parameters and, once added, accuracy.
        fastest_ms: The fastest student measured.
        environment: What the device says of itself.
        n_words: Rows of the word table by variant, as measured: methods that look at data may drop some.
        calm_ms: The longest that the teacher takes while nothing disturbs the device.
    """

    candidates: Candidates
    n_tokens: int
    latency: LatencyPredictor
    size: LatencyPredictor
    teacher: dict[str, float]
    fastest_ms: float
    environment: dict[str, str]
    n_words: Mapping[str, int] = field(default_factory=dict)
    calm_ms: float = math.inf

    def metrics(self, genes: Genes) -> dict[str, float]:
        """Return the metrics of a candidate that need no training; latency and size are predictions."""
        variant = self.candidates.variant(genes)
        known = self.candidates.known(genes, self.n_tokens, self.n_words.get(variant))
        return {
            "latency_ms": self.latency.predict(known.features, variant),
            "size_bytes": self.size.predict({"parameters": known.parameters}, variant),
            "macs": known.macs,
            "parameters": known.parameters,
        }

    def shortfall(self, genes: Genes, constraints: Sequence[Constraint]) -> float:
        """Return by how much a candidate misses the constraints that are known, beyond what predictions may err.

        Only metrics that need no training count; at most 0 means that the candidate is worth training. It is infinite
        where a compressor cannot do its work.
        """
        if self.candidates.refusal(genes) is not None:
            return math.inf
        metrics = self.metrics(genes)
        known = [c for c in constraints if c.metric in metrics]
        return max((c.violation(metrics, self.teacher) - self._slack(genes, c.metric) for c in known), default=0.0)

    def _slack(self, genes: Genes, metric: str) -> float:
        """Return how far a prediction may miss before a candidate is given up: twice the held-out error."""
        predictor = {"latency_ms": self.latency, "size_bytes": self.size}.get(metric)
        if predictor is None:
            return 0.0
        return 2 * float(predictor.report.variants[self.candidates.variant(genes)]["mape"])


def profile(prepared: Prepared, folder: RunFolder, executor: Executor, progress: Progress) -> Profile:
    """Measure the teacher and about ``search.profile_shapes`` untrained students; fit the predictors.

    Raises:
        DeviceError: The device cannot be measured.
    """
    rows = read_json(folder.profile) if folder.profile.exists() else None
    if rows is None:
        rows = _measure(prepared, executor, progress)
        write_json(folder.profile, rows)
    return _fit(prepared, rows)


def design(candidates: Candidates, n_shapes: int, seed: int) -> list[dict[str, Value]]:
    """Return genes that cover the space: the warm start, then whatever is farthest from all chosen so far.

    Raises:
        ConfigError: The compressors cannot do their work on any student.
    """
    rng = rng_for(seed, "profile")
    first, drawn = candidates.warm_start(), [candidates.space.sample(rng) for _ in range(POOL)]
    pool = [genes for genes in drawn if candidates.refusal(genes) is None]
    chosen = [genes for genes in first if candidates.refusal(genes) is None][:n_shapes]
    if not pool:
        raise ConfigError(f"compress: none of {POOL} students can be made. The first: {candidates.refusal(drawn[0])}")
    codes = np.stack([candidates.space.encode(genes) for genes in pool])
    nearest = np.full(len(pool), np.inf)
    for genes in chosen:
        nearest = np.minimum(nearest, np.linalg.norm(codes - candidates.space.encode(genes), axis=1))
    while len(chosen) < n_shapes and nearest.max() > 0:
        pick = int(nearest.argmax())
        chosen.append(pool[pick])
        nearest = np.minimum(nearest, np.linalg.norm(codes - codes[pick], axis=1))
    return chosen


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
            f"constraints: no student of this space meets {wanted}; the fastest student is {known.fastest_ms:.3f} ms "
            f"and the nearest is {known.candidates.describe(best)}. Relax a constraint or widen the space."
        )


def _measure(prepared: Prepared, executor: Executor, progress: Progress) -> dict[str, Any]:
    """Measure every chosen shape in every variant, one task a shape; once more what something disturbed."""
    shapes = design(prepared.candidates, prepared.bundle.recipe["search"]["profile_shapes"], _seed(prepared))
    items = {f"profile-{i}": prepared.candidates.variants(genes) for i, genes in enumerate(shapes)}
    found, facts = _run(prepared, items, executor, progress)
    calm_ms = calm_reference_ms([row["reference_ms"] for rows in found.values() for row in rows])
    again = {uid: items[uid] for uid, rows in found.items() if _slowest_ms(rows) > calm_ms}
    if again:
        progress.say(f"profile: something disturbed {len(again)} of {len(items)} shapes; measuring them again")
        second, _ = _run(prepared, again, executor, progress)
        found |= {uid: min(found[uid], rows, key=_slowest_ms) for uid, rows in second.items()}
    return {"rows": [row for uid in items for row in found[uid]], **facts}


def _run(
    prepared: Prepared, items: Mapping[str, Sequence[Mapping[str, Value]]], executor: Executor, progress: Progress
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """Return the measurements of the candidates of each item, and what is said of the device."""
    for uid, candidates in items.items():
        executor.submit(_task(prepared, uid, candidates))
    found: dict[str, list[dict[str, Any]]] = {}
    facts: dict[str, Any] = {}
    progress.show(Snapshot("profile", 0, len(items)))
    while len(found) < len(items):
        for outcome in executor.wait(1.0):
            if outcome.value is None:
                assert outcome.failure is not None
                raise DeviceError(f"device: measuring failed ({outcome.failure.cause}): {outcome.failure.message}")
            facts = {name: outcome.value[name] for name in ("environment", "reference_bytes")}
            pairs = zip(items[outcome.uid], outcome.value["measurements"], strict=True)
            found[outcome.uid] = [{"genes": genes, **measurement} for genes, measurement in pairs]
        progress.show(Snapshot("profile", len(found), len(items)))
    return found, facts


def _slowest_ms(rows: Sequence[Mapping[str, Any]]) -> float:
    """Return the longest that the reference took beside some measurements."""
    return max(float(row["reference_ms"]) for row in rows)


def _task(prepared: Prepared, uid: str, candidates: Sequence[Mapping[str, Value]]) -> Task:
    """Return the task that measures one shape in its variants."""
    timeout_s = prepared.bundle.recipe["search"]["trial_timeout_s"]
    spec = {
        "candidates": [dict(genes) for genes in candidates],
        "tokens": prepared.n_tokens,
        "quick": True,
        "timeout_s": timeout_s,
    }
    return Task(uid, "measure", spec)


def _seed(prepared: Prepared) -> int:
    """Return the search's seed."""
    return int(prepared.bundle.recipe["search"]["seed"])


def _believed(candidates: Candidates, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the measurements that nothing disturbed; all, if some variant would lose more than half of its own."""
    calm_ms = calm_reference_ms([row["reference_ms"] for row in rows])
    calm = [row for row in rows if row["reference_ms"] <= calm_ms]
    kept, of_all = (Counter(candidates.variant(row["genes"]) for row in some) for some in (calm, rows))
    return calm if all(2 * kept[variant] >= n for variant, n in of_all.items()) else list(rows)


def _fit(prepared: Prepared, stored: dict[str, Any]) -> Profile:
    """Return the predictors fitted on measured rows."""
    candidates, n_tokens = prepared.candidates, prepared.n_tokens
    rows = _believed(candidates, stored["rows"])
    known = [candidates.known(row["genes"], n_tokens, row.get("n_words")) for row in rows]
    variants = [candidates.variant(row["genes"]) for row in rows]
    n_words = {variant: row["n_words"] for variant, row in zip(variants, rows, strict=True) if "n_words" in row}
    seen = [Measurement.from_json({k: v for k, v in row.items() if k != "genes"}) for row in rows]
    latency, size = LatencyPredictor(), LatencyPredictor()
    latency.fit([k.features for k in known], np.array([m.median_ms for m in seen]), variants)
    size.fit([{"parameters": k.parameters} for k in known], np.array([float(m.size_bytes) for m in seen]), variants)
    teacher, family = candidates.teacher, candidates.family
    baseline = {
        "latency_ms": float(np.median([m.reference_ms for m in seen])),
        "size_bytes": float(stored["reference_bytes"]),
        "macs": float(family.macs(teacher, n_tokens)),
        "parameters": float(family.parameters(teacher)),
    }
    fastest = min(m.median_ms for m in seen)
    calm_ms = calm_reference_ms([row["reference_ms"] for row in stored["rows"]])
    environment = dict(stored["environment"])
    return Profile(candidates, n_tokens, latency, size, baseline, fastest, environment, n_words, calm_ms)
