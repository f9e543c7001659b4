"""Search for the same teacher on the same data for several devices; is each best student the better one at home?

    .venv/bin/python benchmarks/two_devices.py                     # about 40 minutes for three devices
    .venv/bin/python benchmarks/two_devices.py --devices int8,torch

One search a device, all with the same recipe but for the device and what its files can be: ``int8`` is ONNX Runtime
with one thread and int8 files, ``torch`` is eager float32 torch with two threads, ``openvino`` is float32 OpenVINO. The
best is the most accurate of those that take at most a quarter of the teacher's time there (``--limit``). Then every
best student is exported for every device, scored there, and measured in fresh processes, in turns with the teacher and
the other searches' students. Needs the data folder, as ``sst2.py`` does, and a quiet machine.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sst2 import recipe_of, run_search

from compressors.int8 import DynamicInt8
from launch.joint import as_compressed
from launch.process import quiet_libraries
from launch.terminal import make_progress
from nas.cached_outputs import share_outputs
from nas.devices.settings import workload_of
from nas.devices.starts import measure_over_starts
from nas.engine import open_record
from nas.lab import Compressed, Lab, open_lab
from nas.recipe import Recipe
from nas.run_folder import RunFolder
from nas.student import load
from nas.yardstick import Yardstick

RECIPE = Path(__file__).with_name("sst2.yaml")
FLOAT32 = (
    "compress={vocabulary: {min_count: 2}, distillation: {alpha: 0.1, temperature: 2.0, hidden: 0.0, live: false}, "
    "structured_pruning: {schedule: oneshot}}"  # as in the recipe, without int8
)
INT8 = "int8"
DEVICES = {
    INT8: ["device={name: int8, backend: onnxruntime, threads: 1}"],
    "torch": ["device={name: torch2, backend: torch, threads: 2}", FLOAT32],
    "openvino": ["device={name: openvino1, backend: openvino, threads: 1}", FLOAT32],
}
STARTS = 3  # fresh processes for the last measurement
Figures = dict[str, dict[str, dict[str, Any]]]


def main() -> None:
    """Search for each device, then put every best student on every device."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=Path("../shared/data"))
    options.add_argument("--output", type=Path, default=Path("runs/two-devices"), help="finished searches are kept")
    options.add_argument("--devices", default=",".join(DEVICES), help="by comma")
    options.add_argument("--limit", default="25%", help="of the teacher's latency on each device")
    options.add_argument("--minutes", type=float, default=5.0, help="of each search phase")
    options.add_argument("--epochs", type=float, default=0.6, help="of the finalists; half of it in the search phase")
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options.add_argument("--json", type=Path, help="file for the figures")
    chosen = options.parse_args()
    alike = [f'constraints=["latency_ms <= {chosen.limit}"]', f"search.minutes={chosen.minutes}", "search.trials=1000"]
    alike += [f"search.train.epochs={chosen.epochs / 2}", f"finalize.train.epochs={chosen.epochs}"]
    alike += ["finalize.seeds=1", "finalize.finalists=2", *chosen.set]
    recipes = {name: recipe_of(RECIPE, chosen.data, [*alike, *DEVICES[name]]) for name in chosen.devices.split(",")}
    for name, recipe in recipes.items():
        _search(recipe, chosen.output / name, chosen.output)
    figures = cross(recipes, chosen.output)
    _print(figures)
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=1))


def _search(recipe: Recipe, path: Path, beside: Path) -> None:
    """Run a search unless it is finished; it takes over the teacher's outputs that an earlier one computed."""
    if (path / "best").exists():
        return
    folder = RunFolder(path)
    folder.create()
    for earlier in sorted(beside.iterdir()):
        share_outputs(RunFolder(earlier).teacher, folder.teacher)
    run_search(recipe, path)


def cross(recipes: Mapping[str, Recipe], output: Path) -> Figures:
    """Return the figures of every best student on every device: ``figures[device][student]``."""
    found: Figures = {}
    for device, recipe in recipes.items():
        progress = make_progress()
        with quiet_libraries():
            lab = open_lab(recipe, RunFolder(output / f"lab-{device}"), progress)
            made = {name: _on(lab, device, output / name, other) for name, other in recipes.items()}
            accuracies = {name: Yardstick(lab).judge(each)["accuracy"] for name, each in made.items()}
            workload = workload_of(lab.recipe.device, lab.prepared.n_tokens)
            artefacts = [each.artefact for each in made.values()]
            measured, _ = measure_over_starts(lab.recipe.device, artefacts, lab.reference, workload, STARTS)
        progress.close()
        found[device] = {
            name: {
                "shape": _best(output / name, recipes[name])["shape"],
                "accuracy": accuracies[name],
                **timed.to_json(),
            }
            for (name, timed) in zip(made, measured, strict=True)
        }
    return found


def _best(path: Path, recipe: Recipe) -> dict[str, Any]:
    """Return what a search delivered as its best student."""
    best, *_ = open_record(RunFolder(path), recipe).attrs["students"]  # of one device the best comes first
    return dict(best)


def _on(lab: Lab, device: str, path: Path, recipe: Recipe) -> Compressed:
    """Return the best student of a search in the form that a device runs."""
    folder = RunFolder(path).students / _best(path, recipe)["name"]
    artefact = lab.device.export(load(folder))
    return as_compressed(folder, lab, DynamicInt8().apply(artefact) if device == INT8 else artefact, {})


def _print(figures: Figures) -> None:
    """Print who is how good where."""
    students = list(next(iter(figures.values())))
    print(f"| measured on | {' | '.join(f'best for {name}' for name in students)} |")
    print(f"|---|{'---:|' * len(students)}")
    print(f"| its shape | {' | '.join(each['shape'] for each in next(iter(figures.values())).values())} |")
    for device, seen in figures.items():
        cells = (
            f"{row['accuracy']:.3f}, {row['median_ms']:.3f} ms ({row['low_ms']:.3f} to {row['high_ms']:.3f}), "
            f"{row['speedup']:.1f}x"
            for row in seen.values()
        )
        print(f"| {device} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
