"""Two searches of equal minutes on SST-2: our predictor with early stopping beside Optuna's TPE with full training.

    .venv/bin/python benchmarks/sst2_strategies.py --minutes 6

Both begin with the same shapes, train with the same settings on the same machine, one after the other, and share the
measurements of the profile phase, so that their latencies are those of one predictor. Ours begins its minutes with
finding seeds by a knapsack. Compared are the fronts of the search phase: accuracy of the quantized artefact on the dev
set, after full training, at predicted latency. Needs the data folder, as ``sst2.py`` does.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sst2 import RECIPE, recipe_of, run_search, whole_front

from launch.report_data import report_data
from launch.results import Candidate
from nas.pareto import hypervolume
from nas.recipe import Recipe
from nas.run_folder import RunFolder

SEARCHERS = {
    "predictor, stopping early": ["search.strategy=predictor", "search.fidelity={}", "search.knapsack=true"],
    "TPE, training in full": ["search.strategy=tpe", "search.options={multivariate: true}"],
}
SHARED = ("teacher", "profile.json")  # what the second search need not do again
BRIEF = ["finalize.finalists=1", "finalize.seeds=1", "finalize.train.epochs=0.05"]
LIMIT = "constraints=['latency_ms <= 20%']"  # no student that is not at least five times as fast


def main() -> None:
    """Run both searches and compare what they found."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=Path("../shared/data"))
    options.add_argument("--output", type=Path, default=Path("runs/sst2-strategies"), help="new or empty folder")
    options.add_argument("--minutes", type=float, default=6.0, help="of each search phase")
    options.add_argument("--epochs", type=float, default=0.3, help="of full training")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    chosen = options.parse_args()
    alike = [f"search.minutes={chosen.minutes}", "search.trials=1000", f"search.train.epochs={chosen.epochs}"]
    alike += [f"search.seed={chosen.seed}", LIMIT, *BRIEF, *chosen.set]
    fronts, previous = {}, None
    for name, sets in SEARCHERS.items():
        path = chosen.output / sets[0].rpartition("=")[2]
        recipe = recipe_of(RECIPE, chosen.data, [*alike, *sets])
        fronts[name] = _front(recipe, path, previous)
        previous = path
    print(json.dumps(compare(fronts), indent=2))


def _front(recipe: Recipe, path: Path, previous: Path | None) -> list[Candidate]:
    """Return the front of a search, which takes over what an earlier one prepared."""
    path.mkdir(parents=True)
    for name in SHARED if previous else ():
        source = Path(previous or "") / name
        shutil.copytree(source, path / name) if source.is_dir() else shutil.copy(source, path / name)
    run_search(recipe, path)
    candidates = report_data(RunFolder(path), recipe).candidates
    return whole_front([row for row in candidates if not row.remark])  # a remark: it was stopped early


def compare(fronts: dict[str, list[Candidate]]) -> dict[str, object]:
    """Return, of each front, its size, hypervolume, and how many of its members the other one beats or equals.

    The worst corner is the worst accuracy and latency on either front.
    """
    costs = {name: _costs(front) for name, front in fronts.items()}
    corner = np.concatenate(list(costs.values())).max(axis=0)
    best = np.concatenate(list(costs.values())).min(axis=0)
    box = float(np.prod(corner - best))
    found: dict[str, object] = {}
    for name, own in costs.items():
        (other,) = (rows for rival, rows in costs.items() if rival != name)
        beaten = [bool((other <= row).all(axis=1).any()) for row in own]
        found[name] = {
            "front": len(own),
            "hypervolume": round(hypervolume(own, corner) / box, 4),
            "beaten_or_equalled": sum(beaten),
        }
    return found


def _costs(front: Sequence[Candidate]) -> np.ndarray:
    """Return ``(n, 2)`` costs: negated accuracy, and the logarithm of the latency, which spans two orders."""
    return np.array([[-row.accuracy, np.log(row.latency_ms)] for row in front])


if __name__ == "__main__":
    main()
