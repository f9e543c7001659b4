"""Our strategies beside those of other projects, on problems of which every candidate is in a table.

    .venv/bin/python benchmarks/strategies.py --quick                     # two problems, two seeds, < 2 minutes
    .venv/bin/python benchmarks/strategies.py --output runs/strategies    # everything; goes on where it was stopped
    .venv/bin/python benchmarks/strategies.py --strategies 'evolution,optuna-*' --problems 'nb201/cifar10/*'
    .venv/bin/python benchmarks/strategies.py --cost                      # only: what one ask and tell costs

Needs the data folder (``--data``, default ``../shared/data``). Peers need ``pip install -e '.[bench]'``; one that is
not installed is skipped. Problems: `benchmarks/problems.py`; peers and their settings: `benchmarks/peers.py`.

Ours that use what is known before a trial run in settings: ``unknown`` (both costs come from trials alone) or ``known``
(the second cost is known by look-up, as after profiling), either with ``+features`` (free without a device: parameters,
MACs, paths of a cell). Peers have no interface for either. One evaluation is a candidate that was not tried before:
repeats, which ours avoid and peers do not, are told again and cost a peer nothing, up to five times as many asks as
evaluations, which favours peers.

Hypervolume: share of that of the true front, worst corner at the 20th percentile of accuracy and the 95th of latency.
The Gaussian process of Optuna takes minutes a run: it stops at 100 evaluations and runs only where ``--strategies``
names it. Runs are kept in ``runs.jsonl`` under the code or version that made them; a changed strategy runs again.
"""

import argparse
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process a run; read when numpy is imported
sys.path.insert(0, str(Path(__file__).parents[1]))

import ask_tell
from comparison import COUNTS, Run, write_comparison
from peers import CAPS, PEERS, Ours, make_peer, version_of
from problems import NAMES, Problem, load_problem

from nas.recipe import SearchSettings
from nas.strategies import STRATEGIES
from search_spaces.seeding import rng_for

ROOT = Path(__file__).parents[1]
SETTINGS = ("unknown+features", "known+features")
QUICK = ("nb201/cifar100/pixel3", "macro-conditional")
ASKS = 5  # so many asks an evaluation before a searcher that repeats itself is stopped
OF_STRATEGIES = re.compile(r"^from ((?:nas\.strategies\.\w+)|nas\.pareto|(?:search_spaces\.\w+)) import", re.MULTILINE)


@dataclass(frozen=True)
class Task:
    """What a run depends on: nothing but this and the data.

    Attributes:
        problem: One of ``NAMES``.
        strategy: One of ours or of the peers.
        setting: What it knows; empty where that makes no difference.
        seed: Of all draws.
        source: Digest of the code that decides what it does, with the version of a peer.
        evaluations: Where it stops.
    """

    problem: str
    strategy: str
    setting: str
    seed: int
    source: str
    evaluations: int


def main() -> None:
    """Run what the options ask for."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=Path("../shared/data"))
    options.add_argument("--output", type=Path, default=Path("runs/strategies"), help="an existing one is continued")
    options.add_argument("--strategies", type=_names, help="patterns, by comma; default: all but optuna-gp")
    options.add_argument("--problems", type=_names, default=["*"], help="patterns, by comma")
    options.add_argument("--settings", type=_names, default=SETTINGS, help="what is known, by comma; see above")
    options.add_argument("--default", default=SearchSettings().strategy, help="ours that the goals are for")
    options.add_argument("--seeds", type=int, default=10)
    options.add_argument("--cap", type=_cap, action="append", default=[], help="strategy=evaluations: stop it early")
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--quick", action="store_true", help="two problems, two seeds")
    options.add_argument("--cost", action="store_true", help="only print what one ask and tell costs")
    chosen = options.parse_args()
    if chosen.cost:
        ask_tell.print_costs([name for name in STRATEGIES if _matches(name, chosen.strategies or ["*"])])
        return
    if chosen.quick:
        chosen.problems, chosen.seeds = QUICK, min(2, chosen.seeds)
    chosen.output.mkdir(parents=True, exist_ok=True)
    runs = run_all(list(_tasks(chosen)), chosen.data, chosen.output / "runs.jsonl", chosen.workers)
    problems = [load_problem(name, chosen.data) for name in NAMES if _matches(name, chosen.problems)]
    print(write_comparison(chosen.output, problems, runs, chosen.default))


def run_all(tasks: Sequence[Task], data: Path, file: Path, workers: int) -> list[Run]:
    """Return the runs of all tasks; those that the file has are not run again, the others are added to it."""
    done = _read(file)
    missing = [task for task in tasks if task not in done]
    print(f"{len(tasks)} runs, {len(missing)} of them to do", flush=True)
    with ProcessPoolExecutor(workers) as pool, file.open("a") as lines:
        futures = {pool.submit(run, task, data): task for task in missing}
        for n, future in enumerate(as_completed(futures), start=1):
            done[futures[future]] = result = future.result()
            lines.write(json.dumps({"task": asdict(futures[future]), **result}) + "\n")
            lines.flush()
            if n % 50 == 0:
                print(f"  {n} done", flush=True)
    return [Run(t.problem, t.strategy, t.setting, t.seed, t.evaluations, **done[t]) for t in tasks]


def run(task: Task, data: Path) -> dict[str, Any]:
    """Return the rows that a searcher tried, in order and each once, its number of asks and its seconds."""
    problem = load_problem(task.problem, data)
    started, rows, n_asks = time.perf_counter(), dict[int, None](), 0
    budget = task.evaluations
    searcher = _searcher(task, problem)
    while len(rows) < budget and n_asks < ASKS * budget:
        row = problem.row(searcher.ask())
        searcher.tell(problem.costs[row].tolist())
        rows[row] = None
        n_asks += 1
    return {"rows": list(rows), "n_asks": n_asks, "seconds": round(time.perf_counter() - started, 3)}


def _searcher(task: Task, problem: Problem) -> Any:
    """Return a searcher at its start; every problem has seeds of its own, so that problems are independent."""
    seed = int(rng_for(task.seed, "benchmark", task.problem).integers(2**31))
    if task.strategy in PEERS:
        return make_peer(task.strategy, problem.space, seed)
    latency, _, features = task.setting.partition("+")
    known = problem.foreknowledge(costs=latency == "known", features=features == "features")
    return Ours(task.strategy, problem.space, seed, known)


def _tasks(chosen: argparse.Namespace) -> Iterator[Task]:
    """Yield every run that was asked for."""
    sources, caps = dict(_sources(chosen.strategies)), CAPS | dict(chosen.cap)
    for seed in range(chosen.seeds):
        for problem in NAMES:
            if _matches(problem, chosen.problems):
                for strategy, source in sources.items():
                    for setting in chosen.settings if _has_settings(strategy) else ("",):
                        yield Task(problem, strategy, setting, seed, source, caps.get(strategy, max(COUNTS)))


def _has_settings(strategy: str) -> bool:
    """Return whether what is known before a trial makes a difference to a strategy."""
    return strategy in STRATEGIES and bool(STRATEGIES.load(strategy).uses_features)


def _sources(patterns: Sequence[str] | None) -> Iterator[tuple[str, str]]:
    """Yield the searchers asked for and what they are made of; say which peers are not installed."""
    for name in STRATEGIES:
        if _matches(name, patterns or ["*"]):
            yield name, _digest(STRATEGIES[name].partition(":")[0])
    for name in PEERS:
        if _matches(name, patterns) if patterns else name not in CAPS:
            version = version_of(name)
            if version is None:
                print(f"{name}: skipped, {PEERS[name][0]} is not installed; pip install -e '.[bench]'")
            else:
                yield name, f"{version} {_digest()}"


def _digest(*modules: str) -> str:
    """Return 12 digits of the source of the problems, of the searchers and of modules of strategies with theirs."""
    texts = {name: Path(__file__).with_name(name).read_text() for name in ("peers.py", "problems.py")}
    todo = list(modules)
    while todo:
        name = todo.pop()
        if name not in texts:
            texts[name] = (ROOT / f"{name.replace('.', '/')}.py").read_text()
            todo += OF_STRATEGIES.findall(texts[name])
    return hashlib.sha256("".join(texts[name] for name in sorted(texts)).encode()).hexdigest()[:12]


def _read(file: Path) -> dict[Task, dict[str, Any]]:
    """Return the runs of an earlier call, after cutting off a line that was not written to its end."""
    text = file.read_text() if file.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        file.write_text(whole)
    lines = [json.loads(line) for line in whole.splitlines()]
    return {Task(**line.pop("task")): line for line in lines}


def _names(text: str) -> list[str]:
    """Return what commas separate."""
    return text.split(",")


def _cap(text: str) -> tuple[str, int]:
    """Return a strategy and where it stops."""
    name, _, evaluations = text.partition("=")
    return name, int(evaluations)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Return whether a name fits one of the patterns."""
    return any(fnmatch(name, pattern) for pattern in patterns)


if __name__ == "__main__":
    main()
