import numpy as np
import pytest

from nas.pareto import hypervolume
from nas.record import Record
from nas.strategies import make_sampler
from nas.strategies.evolution import AgingEvolution, tournament_order
from nas.strategies.history import History, Observation, youngest
from search_spaces.dimensions import Choice
from search_spaces.space import Space

N_LAYERS = 8
SPACE = Space(
    {
        **{f"keep_{layer}": Choice((False, True)) for layer in range(N_LAYERS)},
        "hidden": Choice((96, 192, 288, 384), ordered=True),
        "ffn": Choice((128, 256, 512, 768, 1024, 1536), ordered=True),
        "int8": Choice((False, True)),
    }
)


def score(genes: dict) -> list[float]:
    """Accuracy that saturates with the kept layers (early ones count more), and latency."""
    weights = np.linspace(1.5, 0.5, N_LAYERS)
    kept = np.array([genes[f"keep_{layer}"] for layer in range(N_LAYERS)])
    share = float(weights @ kept / weights.sum())
    width = 1 - np.exp(-5 * genes["hidden"] / 384) * (1 + np.exp(-6 * genes["ffn"] / 1536))
    latency = 0.05 + kept.sum() * genes["hidden"] * (4 * genes["hidden"] + 2 * genes["ffn"]) / 2e6
    return [float(width * (1 - np.exp(-3 * share)) - 0.004 * genes["int8"]), latency * (0.4 if genes["int8"] else 1.0)]


def volume(name: str, seed: int, n_trials: int = 120) -> float:
    record = Record.open(
        None, "run", ["maximize", "minimize"], make_sampler(name, SPACE, seed), ["accuracy", "latency"]
    )
    for _ in range(n_trials):
        trial = record.ask(SPACE.distributions())
        record.tell(trial.number, score(trial.params))
    costs = np.array([[-trial.values[0], np.log(trial.values[1])] for trial in record.trials()])
    return hypervolume(costs, np.array([0.0, np.log(10)]))


def test_evolution_finds_a_larger_front_than_random_search():
    evolved, drawn = ([volume(name, seed) for seed in range(4)] for name in ("evolution", "random"))
    assert np.mean(evolved) > np.mean(drawn)
    assert min(evolved) > np.median(drawn)


def seen(number: int, costs: list[float] | None, violation: float = 0.0) -> Observation:
    return Observation(number, {}, None if costs is None else np.array(costs), violation)


def test_tournaments_are_won_by_feasibility_then_rank_then_loneliness():
    population = [
        seen(0, [0.0, 0.0], violation=0.5),  # dominates all, but is not feasible
        seen(1, [5.0, 5.0]),  # dominated
        seen(2, [1.0, 4.0]),
        seen(3, [1.1, 3.9]),  # crowded
        seen(4, [2.5, 2.0]),
        seen(5, [4.0, 1.0]),
        seen(6, [9.0, 9.0], violation=0.1),
    ]
    order = [int(place) for place in np.argsort(tournament_order(population))]
    assert order == [2, 5, 4, 3, 1, 6, 0]


def test_without_a_feasible_trial_the_least_violation_wins():
    population = [seen(0, [0.0], 2.0), seen(1, [9.0], 0.5), seen(2, [1.0], 1.0)]
    assert tournament_order(population).tolist() == [2, 0, 1]


def test_the_population_is_the_youngest_and_failed_trials_are_not_parents():
    history = [seen(0, [1.0]), seen(1, [2.0]), seen(2, None), seen(3, [3.0]), seen(4, None)]
    assert [found.number for found in youngest(history, 2)] == [3, 1]
    assert [found.number for found in youngest(history, 9)] == [3, 1, 0]


def test_a_child_is_a_few_steps_from_a_parent():
    genes = {**{f"keep_{layer}": True for layer in range(N_LAYERS)}, "hidden": 288, "ffn": 512, "int8": False}
    history = History(SPACE, 2, [Observation(number, genes, np.array([0.0, 0.0]), 0.0) for number in range(12)])
    strategy = AgingEvolution(SPACE, 0, crossover=0.0, max_step=1)
    for number in range(40):
        child = strategy.propose(history, np.random.default_rng(number))
        assert child["hidden"] in (192, 288, 384)
        assert child["ffn"] in (256, 512, 768)
        assert 1 <= sum(child[gene] != genes[gene] for gene in SPACE.names) <= 6


@pytest.mark.parametrize("n_pending", [0, 6])
def test_the_first_trials_are_random_and_those_that_run_count(n_pending):
    far = {**{f"keep_{layer}": True for layer in range(N_LAYERS)}, "hidden": 384, "ffn": 1536, "int8": True}
    history = History(SPACE, 2, [Observation(number, far, np.array([0.0, 0.0]), 0.0) for number in range(4)])
    history.pending = dict(enumerate([far] * n_pending, start=4))
    strategy = AgingEvolution(SPACE, 0, crossover=0.0, initial=10)
    children = [strategy.propose(history, np.random.default_rng(i)) for i in range(30)]
    moved = np.mean([sum(child[gene] != far[gene] for gene in SPACE.names) for child in children])
    assert (moved < 3) == (n_pending == 6)


def test_constraints_pull_the_search_into_the_feasible_region():
    sampler = make_sampler("evolution", SPACE, 0, {"initial": 6})
    record = Record.open(None, "run", ["maximize", "minimize"], sampler, ["accuracy", "latency"])
    limit = 0.12
    for _ in range(80):
        trial = record.ask(SPACE.distributions())
        values = score(trial.params)
        record.tell(trial.number, values, constraints={"latency": values[1] / limit - 1})
    feasible = [max(trial.constraints.values()) <= 0 for trial in record.trials()]
    assert np.mean(feasible[-40:]) > 2 * np.mean(feasible[:6])
    assert np.mean(feasible[-40:]) > 0.3


def test_trials_that_finish_out_of_order_are_all_seen():
    sampler = make_sampler("evolution", SPACE, 0)
    record = Record.open(None, "run", ["maximize", "minimize"], sampler, ["accuracy", "latency"])
    trials = [record.ask(SPACE.distributions()) for _ in range(6)]
    for trial in (trials[4], trials[1], trials[5]):
        record.tell(trial.number, score(trial.params))
        record.ask(SPACE.distributions())
    history = sampler._histories[record.study]
    assert [found.number for found in history.finished] == [1, 4, 5]
    assert [found.number for found in history.told] == [4, 1, 5]
    assert sorted(history.pending) == [0, 2, 3, 6, 7]
