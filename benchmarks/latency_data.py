"""Latencies that others measured and published, with what can be known of each architecture without measuring it.

Two sets: 2,000 translation transformers on each of four devices (HAT), and all 15,625 cells of NAS-Bench-201 on eight
(HELP, HW-NAS-Bench). Beside them stand the figures that their authors, or we with their released weights, got.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

HAT_FILES = (
    "iwslt14deen_gpu_titanxp",
    "wmt14ende_cpu_raspberrypi",
    "wmt14ende_cpu_xeon",
    "wmt14enfr_gpu_titanxp",
)
# MAPD and Spearman of HAT's released predictors on all 2,000 rows of a file, of which 1,600 trained them.
HAT_PUBLISHED = dict(zip(HAT_FILES, ((0.0698, 0.963), (0.0380, 0.956), (0.0479, 0.986), (0.0190, 0.982)), strict=True))

NB201_DEVICES = ("1080ti_1", "titanxp_32", "gold_6226", "silver_4114", "pixel3", "essential_ph_1", "raspi4", "fpga")
# HELP, table 3: rank correlation of FLOPs, of BRP-NAS with 900 measurements, and of HELP with 10.
NB201_PUBLISHED = {"gold_6226": (0.826, 0.796, 0.989), "raspi4": (0.846, 0.847, 0.890), "fpga": (0.900, 0.801, 0.985)}
OPERATIONS = ("skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # of nodes, in the order of a cell's name
LAST = 3  # node


@dataclass(frozen=True)
class Measured:
    """Architectures with their latencies.

    Attributes:
        names: Of the features.
        table: ``(n, features)``.
        latency_ms: ``(n,)`` on each device.
    """

    names: tuple[str, ...]
    table: np.ndarray
    latency_ms: Mapping[str, np.ndarray]

    def features(self, rows: Sequence[int] | np.ndarray) -> list[dict[str, float]]:
        """Return the features of some architectures as the predictor wants them."""
        return [dict(zip(self.names, row, strict=True)) for row in self.table[rows].tolist()]


def load_hat(folder: Path, name: str) -> Measured:
    """Return one file of HAT: encoder and decoder together, in ms."""
    table = pd.read_csv(folder / f"{name}_all.csv.gz")
    features = _hat_features(*(table[column].to_numpy(float) for column in table.columns[:10]))
    total = (table["latency_mean_encoder"] + table["latency_mean_decoder"]).to_numpy(float)
    return Measured(tuple(features), np.stack([*features.values()], axis=1), {name: total})


def load_nb201(folder: Path) -> Measured:
    """Return NAS-Bench-201 on all devices, in ms."""
    table = pd.read_csv(folder / "nb201_acc_latency.csv.gz", keep_default_na=False)
    cells = [_cell_features(re.findall(r"(\w+)~\d", name)) for name in table["arch"]]
    rows = np.array([[*cell.values()] for cell in cells])
    return Measured(
        tuple(cells[0]), rows, {device: table[f"lat_ms_{device}"].to_numpy(float) for device in NB201_DEVICES}
    )


def _hat_features(
    e_width: np.ndarray,
    e_layers: np.ndarray,
    e_ffn: np.ndarray,
    e_heads: np.ndarray,
    d_width: np.ndarray,
    d_layers: np.ndarray,
    d_ffn: np.ndarray,
    d_heads: np.ndarray,
    cross_heads: np.ndarray,
    n_crossed: np.ndarray,
) -> dict[str, np.ndarray]:
    """Return what the ten genes of a sub-transformer make the device do: each a sum over its layers."""
    return {
        "encoder_layers": e_layers,
        "encoder_projection": e_layers * e_width,
        "encoder_ffn": e_layers * e_width * e_ffn,
        "encoder_heads": e_layers * e_heads,
        "decoder_layers": d_layers,
        "decoder_projection": d_layers * d_width,
        "decoder_ffn": d_layers * d_width * d_ffn,
        "decoder_heads": d_layers * d_heads,
        "cross_heads": d_layers * cross_heads,
        "cross_layers": d_layers * n_crossed,
        "cross_projection": d_layers * e_width,
        "cross_projections": d_layers * n_crossed * e_width,
        "encoder_width": e_width,
        "decoder_width": d_width,
    }


def _cell_features(operations: Sequence[str]) -> dict[str, float]:
    """Return how often each operation stands in a cell, how often on a way from its input to its output, and if any."""
    alive = [operation != "none" for operation in operations]
    reached, leading = {0}, {LAST}
    for (start, end), is_alive in zip(EDGES, alive, strict=True):  # in an order in which every start comes first
        reached |= {end} if is_alive and start in reached else set()
    for (start, end), is_alive in reversed([*zip(EDGES, alive, strict=True)]):
        leading |= {start} if is_alive and end in leading else set()
    used = [
        operation
        for operation, (start, end) in zip(operations, EDGES, strict=True)
        if start in reached and end in leading
    ]
    counts = {name: float(operations.count(name)) for name in OPERATIONS}
    on_the_way = {f"{name}_on_the_way": float(used.count(name)) for name in OPERATIONS}
    return {**counts, **on_the_way, "is_connected": float(LAST in reached)}
