"""What is known of a delivered student: one JSON row, its figures measured on every device.

Knows results, measurements and profiles; not how a student is trained, no files.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from nas.choice import best
from nas.goals import constraints_on, objectives_on, seen_on
from nas.knowledge import Profile
from nas.objectives import LATENCY, Constraint, Objective, at

Row = dict[str, Any]


def student_row(
    name: str,
    trial: FrozenTrial,
    results: Sequence[Row],
    chosen: Row,
    measured: Mapping[str, Row],
    known: Profile,
    constraints: Sequence[Constraint],
) -> Row:
    """Return all that is known of a delivered student; its metrics are measured, none predicted.

    Args:
        name: Of its folder.
        trial: That found it.
        results: Of its trainings, one a seed.
        chosen: The one that is delivered.
        measured: Its measurement by device.
        known: What was predicted, and the teacher.
        constraints: Of all devices.

    Returns:
        The row of the first device; with several, ``devices`` has what differs on each, see `row_on`.
    """
    genes = trial.user_attrs["genes"]
    metrics = {**known.metrics(genes), **chosen["metrics"]}
    for device, seen in measured.items():
        metrics |= {at(LATENCY, device): seen["median_ms"], at("size_bytes", device): float(seen["size_bytes"])}
    each = {
        profile.device: {
            "metrics": seen_on(profile.device, metrics),
            "measurement": measured[profile.device],
            **_predicted(profile, trial),
            **_over_seeds([seen_on(profile.device, result["metrics"]) for result in results]),
        }
        for profile in known.each
    }
    for device, told in each.items():
        told |= _judged(told, constraints_on(device, constraints), known.teacher)
    return {
        "name": name,
        "trial": trial.number,
        "genes": genes,
        "shape": trial.user_attrs["shape"],
        "seeds": len(results),
        "curves": chosen["curves"],
        "reports": chosen["reports"],
        **each[known.device],
        **({"devices": each} if known.others else {}),
    }


def row_on(device: str, row: Row) -> Row:
    """Return a student's row as it is on one of several devices."""
    return {**row, **row.get("devices", {}).get(device, {})}


def best_on(
    device: str,
    rows: Sequence[Row],
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
    teacher: Mapping[str, float],
) -> int:
    """Return the place of the best student on a device, by the mean over its seeds, not the luckiest one."""
    typical = [_typical(row_on(device, row)) for row in rows]
    return best(typical, objectives_on(device, objectives), constraints_on(device, constraints), teacher)


def _typical(row: Row) -> dict[str, float]:
    """Return the metrics of a student with the accuracy that a seed has on average."""
    return {**row["metrics"], "accuracy": row["accuracy_mean"]}


def _judged(row: Row, constraints: Sequence[Constraint], teacher: Mapping[str, float]) -> Row:
    """Return by how much each constraint is missed; none is met by a lucky seed."""
    misses = {str(c): c.violation(_typical(row), teacher) for c in constraints}
    return {"misses": misses, "feasible": all(miss <= 0 for miss in misses.values())}


def _predicted(known: Profile, trial: FrozenTrial) -> Row:
    """Return the latency that was predicted, with its interval."""
    foretold = known.foretell(trial.user_attrs["genes"])
    return {
        "predicted_latency_ms": foretold.value,
        "predicted_low_ms": foretold.low,
        "predicted_high_ms": None if math.isinf(foretold.high) else foretold.high,
    }


def _over_seeds(metrics: Sequence[Mapping[str, float]]) -> Row:
    """Return mean and standard deviation of the accuracies; None where there is no test split."""
    found: Row = {}
    for short, name in (("accuracy", "accuracy"), ("test", "test_accuracy")):
        values = [each[name] for each in metrics if name in each]
        found[f"{short}_mean"] = float(np.mean(values)) if values else None
        found[f"{short}_sd"] = float(np.std(values)) if values else None
    return found
