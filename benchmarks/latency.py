"""Print how well latency is predicted: our predictor on measurements that others published, beside their figures.

Run: python benchmarks/latency.py [--quick] [--json FILE]

Needs the data folder (``--data``, default ``../shared/data``). Everything is done by `nas.latency.LatencyPredictor` as
a search does it, from features that `latency_data` makes of the architectures. Rows are drawn with fixed seeds, those
that are held out before those that are learnt from.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from latency_data import (
    HAT_FILES,
    HAT_PUBLISHED,
    NB201_DEVICES,
    NB201_PUBLISHED,
    Measured,
    load_hat,
    load_nb201,
)

from nas.goodness import errors
from nas.latency import LatencyPredictor

HELD_OUT, LEARNT = 200, 200  # rows of a HAT file
FEW, MANY = 10, 100  # measurements on a device of NAS-Bench-201
COVERAGE = 0.9
VARIANT = "as published"

Row = dict[str, Any]


def main() -> None:
    """Print every table, and write the figures where asked for."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=Path("../shared/data"))
    options.add_argument("--seeds", type=int, default=10)
    options.add_argument("--quick", action="store_true", help="2 seeds")
    options.add_argument("--json", type=Path, help="file for the figures")
    chosen = options.parse_args()
    folder, seeds = chosen.data / "nas", range(2 if chosen.quick else chosen.seeds)
    if not folder.exists():
        sys.exit(f"benchmarks/latency.py: {folder} is not there; give the data folder with --data.")
    figures = {"speed": print_speed()}
    figures["hat"] = print_hat(folder / "hat_latency", seeds)
    figures["nb201"] = print_nb201(load_nb201(folder / "nb201"), seeds)
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=1))


def print_hat(folder: Path, seeds: Sequence[int]) -> list[Row]:
    """Print and return errors on held-out rows of HAT's files."""
    print(
        f"\nHAT, {HELD_OUT} held-out rows of 2,000, {len(seeds)} seeds; MAPD, Spearman, share within 10 %, share inside"
    )
    print(f"of the {COVERAGE:.0%} interval. HAT's: its released weights on all rows, of which 1,600 trained them.\n")
    print("| file | HAT's MLP | ours, 200 rows | ours, 1,800 rows | HAT's Spearman | ours | within 10 % | inside |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    return [_print_hat_file(load_hat(folder, name), name, seeds) for name in HAT_FILES]


def _print_hat_file(data: Measured, name: str, seeds: Sequence[int]) -> Row:
    """Print and return the mean errors on one file."""
    found, floor = [], []
    for seed in seeds:
        rows = np.random.default_rng(seed).permutation(len(data.table))
        held_out, rest = rows[:HELD_OUT], rows[HELD_OUT:]
        found.append(_judge(data, name, rest[:LEARNT], held_out, with_interval=True))
        floor.append(_judge(data, name, rest, held_out))
    ours, all_rows, (mapd, rho) = _mean(found), _mean(floor), HAT_PUBLISHED[name]
    print(
        f"| {name} | {mapd:.2%} | {ours['mape']:.2%} ± {ours['mape_sd']:.2%} | {all_rows['mape']:.2%} | {rho:.3f} "
        f"| {ours['spearman']:.3f} | {ours['within_10']:.1%} | {ours['inside']:.1%} |",
        flush=True,
    )
    return {"file": name, "hat_mapd": mapd, "hat_spearman": rho, "ours": ours, "ours_all_rows": all_rows}


def print_nb201(data: Measured, seeds: Sequence[int]) -> list[Row]:
    """Print and return rank correlations over all cells of NAS-Bench-201."""
    print(f"\nNAS-Bench-201, Spearman over all {len(data.table):,} cells, {len(seeds)} seeds; transfer: from the other")
    print(f"seven devices, {MANY} measurements on each. Published: HELP, table 3, on its own subset.\n")
    print("| device | FLOPs | BRP-NAS, 900 | HELP, 10 + transfer | ours, 10 | 10 + transfer | 100 | 100 + transfer |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    old = {
        seed: {device: _learn(data, device, _draw(data, MANY, 100 + seed)) for device in NB201_DEVICES}
        for seed in seeds
    }
    return [_print_device(data, device, old) for device in NB201_DEVICES]


def _print_device(data: Measured, device: str, old: Mapping[int, Mapping[str, LatencyPredictor]]) -> Row:
    """Print and return the mean figures of one device."""
    everywhere, found = np.arange(len(data.table)), {}
    for n in (FEW, MANY):
        for what in ("alone", "transfer"):
            each = []
            for seed, predictors in old.items():
                others = {name: known for name, known in predictors.items() if name != device and what == "transfer"}
                each.append(_judge(data, device, _draw(data, n, seed), everywhere, others))
            found[f"{n} {what}"] = _mean(each)
    published = [f"{figure:.3f}" for figure in NB201_PUBLISHED.get(device, ())] or [""] * 3
    ours = [f"{figures['spearman']:.3f}" for figures in found.values()]
    print(f"| {device} | {' | '.join([*published, *ours])} |", flush=True)
    return {"device": device, "published": NB201_PUBLISHED.get(device), "ours": found}


def print_speed(n: int = 100_000) -> Row:
    """Print and return how many students are predicted in a second."""
    rng, speed = np.random.default_rng(0), {}
    names = [f"feature_{i}" for i in range(9)]
    table = rng.random((n, len(names)))
    students = [dict(zip(names, row, strict=True)) for row in table.tolist()]
    predictor = LatencyPredictor()
    predictor.fit(students[:50], (1 + table[:50].sum(axis=1)) * np.exp(rng.normal(0, 0.01, 50)), [VARIANT] * 50)
    for how, features in (("dictionaries", students), ("an array", table)):
        began = time.perf_counter()
        predictor.predict_all(features, VARIANT)
        speed[how] = n / (time.perf_counter() - began)
    began = time.perf_counter()
    for student in students[:1000]:
        predictor.predict(student, VARIANT)
    speed["one by one"] = 1000 / (time.perf_counter() - began)
    print("Students predicted in a second, after 50 measurements of 9 features:\n")
    for what, rate in speed.items():
        print(f"  {what:32} {rate:12,.0f}")
    return speed


def _judge(
    data: Measured,
    device: str,
    learnt: np.ndarray,
    held_out: np.ndarray,
    old: Mapping[str, LatencyPredictor] | None = None,
    with_interval: bool = False,
) -> dict[str, float]:
    """Return the errors on held-out rows, with the share of them inside of their intervals."""
    predictor, truth = _learn(data, device, learnt, old), data.latency_ms[device][held_out]
    found = errors(predictor.predict_all(data.table[held_out], VARIANT), truth)
    if with_interval:
        told = [predictor.foretell(each, VARIANT, COVERAGE) for each in data.features(held_out)]
        found["inside"] = float(np.mean([t.low <= ms <= t.high for t, ms in zip(told, truth, strict=True)]))
    return found


def _learn(
    data: Measured, device: str, rows: np.ndarray, old: Mapping[str, LatencyPredictor] | None = None
) -> LatencyPredictor:
    """Return our predictor, fitted on some rows."""
    predictor = LatencyPredictor(old)
    predictor.fit(data.features(rows), data.latency_ms[device][rows], [VARIANT] * len(rows))
    return predictor


def _draw(data: Measured, n: int, seed: int) -> np.ndarray:
    """Return random rows."""
    return np.random.default_rng(seed).permutation(len(data.table))[:n]


def _mean(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each figure, and the standard deviation of the error, over the seeds."""
    mean = {name: float(np.mean([each[name] for each in found])) for name in found[0]}
    return {**mean, "mape_sd": float(np.std([each["mape"] for each in found]))}


if __name__ == "__main__":
    main()
