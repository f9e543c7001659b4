"""The row of one method in a comparison: means and spread over the seeds, and what a reader must know.

Knows figures by name; not where they come from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nas.methods import Method

SPREAD = ("accuracy", "test_accuracy")  # figures whose spread over the seeds is shown


@dataclass(frozen=True)
class Row:
    """What became of one method.

    Attributes:
        name: Of the method.
        title: In words.
        figures: Means over the seeds by the names of `nas.yardstick.COLUMNS`, and what `Yardstick.measure` says
            besides; empty when it failed.
        spread: Standard deviation over the seeds of accuracy and test_accuracy.
        n_seeds: How many there were.
        remarks: What a reader must know; why it failed.
        artefact: The file that was measured, the first seed's; None when it failed.
    """

    name: str
    title: str
    figures: Mapping[str, float] = field(default_factory=dict)
    spread: Mapping[str, float] = field(default_factory=dict)
    n_seeds: int = 0
    remarks: tuple[str, ...] = ()
    artefact: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain JSON values."""
        return {**asdict(self), "artefact": None if self.artefact is None else str(self.artefact)}


def make_row(
    method: Method,
    results: Sequence[Mapping[str, Any]],
    measured: Mapping[str, float],
    teacher: Mapping[str, float],
    artefact: Path,
) -> Row:
    """Return the row of a method that worked.

    Args:
        method: Its name, title and remarks.
        results: One a seed, the first seed's first: ``figures`` and ``over_seeds``, see `Comparison.keep`.
        measured: What `Yardstick.measure` says of the first seed's file.
        teacher: The teacher's figures, for the retention.
        artefact: That file.
    """
    names = results[0]["figures"]
    each = {name: np.array([float(result["figures"][name]) for result in results]) for name in names}
    figures = {name: float(values.mean()) for name, values in each.items()}
    figures["worst_label"] = float(each["worst_label"][0])
    spread = {name: float(each[name].std()) for name in SPREAD if name in each}
    n_seeds = len(results)
    elsewhere = results[0]["over_seeds"]
    if elsewhere:
        figures |= elsewhere["mean"]
        spread |= elsewhere["sd"]
        n_seeds = elsewhere["n"]
    if teacher.get("accuracy"):
        figures["retention"] = figures["accuracy"] / teacher["accuracy"]
    figures |= measured
    remarks = (*method.remarks, *_simulated(results[0]["reports"]), *_doubts(measured))
    return Row(method.name, method.title, figures, spread, n_seeds, remarks, artefact)


def _simulated(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what weights of few bits would take, where the file holds them as float32."""
    if not reports or "packed_bytes" not in reports[-1]["figures"]:  # a step of the file comes last and is real
        return []
    packed = reports[-1]["figures"]["packed_bytes"]
    return [f"simulated: the file holds float32, no runtime here is faster with it; packed {packed / 1e6:.1f} MB"]


def _doubts(measured: Mapping[str, float]) -> list[str]:
    """Return why a measurement is not to be trusted."""
    doubts = ["measured while the machine was busy"] * bool(measured["contended"])
    doubts += ["the latency is noisy"] * bool(measured["noisy"])
    return doubts
