"""Print what one ask and tell costs: every strategy of ours in memory, and on SQLite beside Optuna's defaults.

Run: python benchmarks/ask_tell.py
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import create_trial

sys.path.insert(0, str(Path(__file__).parents[1]))

from nas.record import Record
from nas.strategies import STRATEGIES, make_sampler
from search_spaces.dimensions import Choice
from search_spaces.space import Space

N_GENES = 60
SPACE = Space({f"gene_{i}": Choice((32, 64, 96, 128), ordered=True) for i in range(N_GENES)})
WEIGHTS = np.linspace(0.5, 1.5, N_GENES)
DIRECTIONS = ("maximize", "minimize")


def score(params: dict[str, float]) -> list[float]:
    """Return two costs that contradict each other."""
    values = np.array(list(params.values())) / 128
    return [float(values.mean() ** 0.5), float(values @ WEIGHTS)]


def median_ms(step: Callable[[], None], repeats: int) -> float:
    """Return the median milliseconds of a step."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times)


def ask_and_tell(record: Record) -> None:
    """Spend one trial of ours."""
    trial = record.ask(SPACE.distributions())
    record.tell(trial.number, score(trial.params), attrs={"shape": "x"}, constraints={"latency": -0.1})


def ask_and_tell_plainly(study: optuna.Study) -> None:
    """Spend one trial the way Optuna's documentation shows."""
    trial = study.ask(SPACE.distributions())
    trial.set_user_attr("shape", "x")
    trial.set_constraint("latency", -0.1)
    study.tell(trial, score(trial.params))


def record_of(url: str | None, strategy: str) -> Record:
    """Return an empty record."""
    return Record.open(url, "benchmark", DIRECTIONS, make_sampler(strategy, SPACE, 0), ["accuracy", "latency_ms"])


def main() -> None:
    """Print every figure."""
    print_costs(list(STRATEGIES))
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/ours.db"
        grow(record_of(url, "evolution"), "evolution, SQLite", (0, 500))
        plain = optuna.create_study(
            storage=f"sqlite:///{folder}/plain.db", sampler=optuna.samplers.RandomSampler(0), directions=DIRECTIONS
        )
        show("Optuna's defaults, SQLite, random", 0, median_ms(partial(ask_and_tell_plainly, plain), 40))
        started = time.perf_counter()
        n_trials = len(record_of(url, "evolution").trials())
        show("reopening, SQLite", n_trials, 1e3 * (time.perf_counter() - started))


def print_costs(strategies: Sequence[str]) -> None:
    """Print what a trial costs in memory after 1,000 and 10,000 random ones."""
    print(f"ask + tell, {N_GENES} genes, two objectives, one constraint, median:")
    for strategy in strategies:
        for n_trials in (1_000, 10_000):
            record = record_of(None, strategy)
            add_random(record, n_trials)
            ask_and_tell(record)  # reads the others
            show(f"{strategy}, in memory", n_trials, median_ms(partial(ask_and_tell, record), 20))


def add_random(record: Record, n_trials: int) -> None:
    """Add random trials as if they had been asked and told."""
    rng, distributions = np.random.default_rng(0), SPACE.distributions()
    for _ in range(n_trials):
        genes = SPACE.sample(rng)
        record.study.add_trial(
            create_trial(params=genes, distributions=distributions, values=score(genes), constraints={"latency": -0.1})
        )


def grow(record: Record, what: str, sizes: tuple[int, ...]) -> None:
    """Print what a trial costs once there are so many."""
    for n_trials in sizes:
        while len(record.trials()) < n_trials:
            ask_and_tell(record)
        show(what, n_trials, median_ms(partial(ask_and_tell, record), 40))


def show(what: str, n_trials: int, figure_ms: float) -> None:
    """Print one line."""
    print(f"  {what:36} {n_trials:6,} trials {figure_ms:9.2f} ms", flush=True)


if __name__ == "__main__":
    main()
