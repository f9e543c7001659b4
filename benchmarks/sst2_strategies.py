"""Two searches of equal minutes on SST-2: our predictor with early stopping beside Optuna's TPE with full training.

    .venv/bin/python benchmarks/sst2_strategies.py --minutes 6

Both begin with the same shapes, train with the same settings on the same machine, one after the other, and share the
measurements of the profile phase, so that their latencies are those of one predictor. Ours begins its minutes with
finding seeds by a knapsack. Compared are the fronts, accuracy of the quantized artefact at predicted latency, three
times: as the search phase saw them, after full training on the dev set; and, since whoever trains more students also
has more luck, with every student of a front trained again with another seed, on the dev and on the test set. Needs the
data folder, as ``sst2.py`` does.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
from sst2 import recipe_of, run_search, whole_front

from launch.report_data import report_data
from nas.engine import open_record
from nas.pareto import hypervolume, pareto_front
from nas.recipe import Recipe
from nas.run_folder import RunFolder

RECIPE = Path(__file__).with_suffix(".yaml")
SEARCHERS = {
    "predictor, stopping early": ["search.strategy=predictor", "search.fidelity={}", "search.knapsack=true"],
    "TPE, training in full": ["search.strategy=tpe", "search.options={multivariate: true}"],
}
TEACHER, PROFILE = "teacher", "profile.json"  # what the second search need not do again
JUDGED = ("search phase, dev", "trained again, dev", "trained again, test")


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
    alike += [f"finalize.train.epochs={chosen.epochs}", f"search.seed={chosen.seed}", *chosen.set]
    found, previous = {}, None
    for name, sets in SEARCHERS.items():
        path = chosen.output / sets[0].rpartition("=")[2]
        recipe = recipe_of(RECIPE, chosen.data, [*alike, *sets])
        _search(recipe, path, previous)
        found[name] = fronts(RunFolder(path), recipe)
        previous = path
    for judged in JUDGED:
        print(f"{judged}: {json.dumps(compare({name: each[judged] for name, each in found.items()}), indent=2)}")


def _search(recipe: Recipe, path: Path, previous: Path | None) -> None:
    """Run a search, which takes over what an earlier one prepared and measured before its own students."""
    path.mkdir(parents=True)
    if previous is not None:
        shutil.copytree(previous / TEACHER, path / TEACHER)
        profile = json.loads((previous / PROFILE).read_text())
        profile.pop("later", None)  # what its finalists told
        (path / PROFILE).write_text(json.dumps(profile))
    run_search(recipe, path)


def fronts(folder: RunFolder, recipe: Recipe) -> dict[str, np.ndarray]:
    """Return ``(n, 2)`` costs of the front that a search found, for each way to judge it.

    Costs are the negated accuracy, and the logarithm of the latency, which spans two orders.
    """
    candidates = report_data(folder, recipe).candidates
    rows = whole_front([row for row in candidates if not row.remark])  # a remark: it was stopped early
    searched = [(row.accuracy, row.latency_ms) for row in rows]
    students = open_record(folder, recipe).attrs["students"]
    dev = [(row["accuracy_mean"], row["predicted_latency_ms"]) for row in students]
    test = [(row["test_mean"], row["predicted_latency_ms"]) for row in students]
    found = {}
    for name, points in zip(JUDGED, (searched, dev, test), strict=True):
        costs = np.array([[-accuracy, np.log(latency_ms)] for accuracy, latency_ms in points])
        found[name] = costs[pareto_front(costs)]
    return found


def compare(found: dict[str, np.ndarray]) -> dict[str, object]:
    """Return, of each of two fronts, its size, hypervolume, and how many of its members the other beats or equals.

    The worst corner is the worst accuracy and latency on either front, and the volume of the box between it and the
    best of both is 1.
    """
    corner, best = (getattr(np.concatenate(list(found.values())), end)(axis=0) for end in ("max", "min"))
    result: dict[str, object] = {}
    for name, own in found.items():
        (other,) = (rows for rival, rows in found.items() if rival != name)
        result[name] = {
            "front": len(own),
            "hypervolume": round(hypervolume(own, corner) / float(np.prod(corner - best)), 4),
            "beaten_or_equalled": sum(bool((other <= row).all(axis=1).any()) for row in own),
        }
    return result


if __name__ == "__main__":
    main()
