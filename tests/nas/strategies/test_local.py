import itertools

import numpy as np
import pytest
from optuna.trial import TrialState

from nas.pareto import hypervolume, pareto_front
from nas.record import Record
from nas.strategies import make_sampler
from nas.strategies.foreknowledge import Foreknowledge
from nas.strategies.history import History, Observation
from nas.strategies.local import LocalSearch, near_values, usefulness
from search_spaces.dimensions import Choice, Float, Integer
from search_spaces.errors import ConfigError
from search_spaces.space import Condition, Space

SPACE = Space(
    {
        **{f"op_{i}": Choice(("none", "skip", "conv", "pool")) for i in range(5)},
        "width": Choice((8, 16, 32, 64), ordered=True),
    }
)
GAIN = {"none": 0.0, "skip": 0.3, "pool": 0.5, "conv": 1.0}
PRICE = {"none": 0.0, "skip": 0.1, "pool": 0.4, "conv": 1.0}


def score(genes: dict) -> list[float]:
    """Accuracy with an interaction of neighbouring layers, and latency."""
    gains = [GAIN[genes[f"op_{i}"]] for i in range(5)]
    both = sum(a * b for a, b in itertools.pairwise(gains))
    accuracy = 1 - np.exp(-(sum(gains) + both) / 4) * (1 + 8 / genes["width"])
    return [float(accuracy), genes["width"] / 64 * (0.2 + sum(PRICE[genes[f"op_{i}"]] for i in range(5)))]


def open_record(strategy: str = "local", seed: int = 0, url: str | None = None, **options: object) -> Record:
    sampler = make_sampler(strategy, SPACE, seed, options)
    return Record.open(url, "run", ["maximize", "minimize"], sampler, ["accuracy", "latency"])


def search(record: Record, n_trials: int) -> Record:
    for _ in range(n_trials):
        trial = record.ask(SPACE.distributions())
        record.tell(trial.number, score(trial.params))
    return record


def costs_of(record: Record) -> np.ndarray:
    return np.array([[-trial.values[0], trial.values[1]] for trial in record.trials((TrialState.COMPLETE,))])


def neighbours(genes: dict) -> list[dict]:
    """All candidates one step away, written down a second time."""
    widths = [8, 16, 32, 64]
    place = widths.index(genes["width"])
    found = [{**genes, "width": widths[i]} for i in (place - 1, place + 1) if 0 <= i < 4]
    for i in range(5):
        found += [{**genes, f"op_{i}": op} for op in GAIN if op != genes[f"op_{i}"]]
    return found


def seen(number: int, genes: dict, costs: list[float] | None, violation: float = 0.0) -> Observation:
    return Observation(number, genes, None if costs is None else np.array(costs), violation)


def history_of(space: Space, *finished: Observation) -> History:
    keys = {space.key(one.genes) for one in finished}
    return History(space, 2, list(finished), list(finished), keys)


def test_it_ends_with_a_front_whose_neighbours_were_all_tried():
    assert SPACE.size == 4096
    record = search(open_record(), 700)
    tried = {SPACE.key(trial.params) for trial in record.trials()}
    front = [trial.params for trial, keep in zip(record.trials(), pareto_front(costs_of(record)), strict=True) if keep]
    assert len(front) > 20
    assert all(SPACE.key(near) in tried for genes in front for near in neighbours(genes))


def test_it_finds_a_larger_front_than_random_search():
    corner = np.array([0.0, 4.0])
    walked, drawn = (
        [hypervolume(costs_of(search(open_record(name, seed), 120)), corner) for seed in range(3)]
        for name in ("local", "random")
    )
    assert min(walked) > max(drawn)


def test_after_the_first_trials_every_candidate_is_one_step_from_a_member_of_the_front():
    record = search(open_record(initial=6), 6)
    for _ in range(40):
        members = [t.params for t, keep in zip(record.trials(), pareto_front(costs_of(record)), strict=True) if keep]
        near = {SPACE.key(found) for genes in members for found in neighbours(genes)}
        trial = record.ask(SPACE.distributions())
        assert SPACE.key(trial.params) in near
        record.tell(trial.number, score(trial.params))


def test_a_finite_space_is_searched_to_its_last_candidate():
    space = Space({"a": Choice((1, 2, 3), ordered=True), "b": Choice(("x", "y", "z")), "c": Choice((False, True))})
    record = Record.open(None, "run", ["minimize"], make_sampler("local", space, 0, {"initial": 2}), ["cost"])
    keys = set()
    for _ in range(18):
        trial = record.ask(space.distributions())
        keys.add(space.key(trial.params))
        record.tell(trial.number, [float(trial.params["a"])])
    assert len(keys) == 18


def test_a_search_resumed_after_neighbourhoods_were_exhausted_goes_on_as_if_never_stopped(tmp_path):
    whole = [trial.params for trial in search(open_record(), 260).trials()]
    url = f"sqlite:///{tmp_path / 'study.db'}"
    record = open_record(url=url)
    for params in whole[:230]:  # the same trials, by another way
        record.enqueue(params)
    search(record, 230).close()
    resumed = search(open_record(url=url), 30)
    assert [trial.params for trial in resumed.trials()] == whole


def test_switching_a_gene_on_draws_the_genes_under_it_and_off_drops_them():
    space = Space(
        {"keep": Choice((False, True)), "heads": Integer(1, 12), "kind": Choice(("a", "b")), "ffn": Integer(1, 4)},
        {"heads": Condition("keep", (True,)), "kind": Condition("keep", (True,))},
    )
    strategy = LocalSearch(space, 0, initial=1)
    off = history_of(space, seen(0, {"keep": False, "ffn": 2}, [1.0, 1.0]))
    found = [strategy.propose(off, np.random.default_rng(i)) for i in range(60)]
    switched = [genes for genes in found if genes["keep"]]
    assert len({genes["heads"] for genes in switched}) > 5
    assert all(genes["ffn"] == 2 and genes["kind"] in ("a", "b") for genes in switched)
    assert {genes["ffn"] for genes in found if not genes["keep"]} == {1, 3}
    on = history_of(space, seen(0, {"keep": True, "heads": 3, "kind": "a", "ffn": 2}, [1.0, 1.0]))
    found = [strategy.propose(on, np.random.default_rng(i)) for i in range(60)]
    assert {"keep": False, "ffn": 2} in found
    assert {genes["heads"] for genes in found if genes["keep"]} == {2, 3, 4}


def test_what_can_be_switched_on_in_another_way_stays_open():
    space = Space({"keep": Choice((False, True)), "heads": Integer(1, 300)}, {"heads": Condition("keep", (True,))})
    record = Record.open(None, "run", ["minimize"], make_sampler("local", space, 0, {"initial": 1}), ["cost"])
    for _ in range(60):
        trial = record.ask(space.distributions())
        record.tell(trial.number, [float(trial.params["keep"])])  # nothing beats the switch being off
    assert len({space.key(trial.params) for trial in record.trials()}) == 60


def test_infeasible_trials_are_parents_only_while_nothing_is_feasible():
    base = {f"op_{i}": "none" for i in range(5)}
    near, far, fast = ({**base, "width": 8}, {**base, "width": 64}, {**base, "op_0": "conv", "width": 64})
    strategy = LocalSearch(SPACE, 0, initial=1)
    worse = [seen(0, far, [0.0, 0.0], 2.0), seen(1, near, [9.0, 9.0], 0.5)]
    for i in range(20):
        child = strategy.propose(history_of(SPACE, *worse), np.random.default_rng(i))
        assert child in neighbours(near)
        child = strategy.propose(history_of(SPACE, *worse, seen(2, fast, [9.5, 9.5])), np.random.default_rng(i))
        assert child in neighbours(fast)


def test_failed_trials_are_no_parents_and_what_runs_is_not_proposed_again():
    genes = {**{f"op_{i}": "none" for i in range(5)}, "width": 8}
    failed = {**genes, "width": 64}
    history = history_of(SPACE, seen(0, genes, [1.0, 1.0]), seen(1, failed, None))
    left = neighbours(genes)
    history.pending = dict(enumerate(left[:-1], start=2))
    strategy = LocalSearch(SPACE, 0, initial=1)
    assert all(strategy.propose(history, np.random.default_rng(i)) == left[-1] for i in range(5))


def test_what_is_newly_accepted_is_tried_around_trials_that_were_exhausted():
    genes = {**{f"op_{i}": "none" for i in range(5)}, "width": 8}
    strategy = LocalSearch(SPACE, 0, initial=1)
    record = Record.open(None, "run", ["minimize"], strategy, ["macs"])
    record.enqueue(genes)
    record.tell(record.ask(SPACE.distributions()).number, [1.0])
    strategy.foresee(Foreknowledge(lambda candidate: candidate["width"] > 16))
    record.tell(record.ask(SPACE.distributions()).number, [2.0])
    strategy.foresee(Foreknowledge(lambda candidate: candidate["width"] == 16))
    assert record.ask(SPACE.distributions()).params == {**genes, "width": 16}


def test_a_space_of_two_hundred_genes_is_walked():
    space = Space({f"gene_{i}": Choice((0, 1, 2, 3)) for i in range(200)})
    record = Record.open(None, "run", ["maximize"], make_sampler("local", space, 0), ["accuracy"])
    for _ in range(150):
        trial = record.ask(space.distributions())
        record.tell(trial.number, [float(sum(trial.params.values()))])
    values = [trial.values[0] for trial in record.trials()]
    assert max(values) > max(values[:10]) + 30


@pytest.mark.parametrize(
    ("dimension", "value", "max_step", "expected"),
    [
        (Choice(("a", "b", "c")), "b", 1, ["a", "c"]),
        (Choice((1, 2, 4, 8), ordered=True), 1, 1, [2]),
        (Choice((1, 2, 4, 8), ordered=True), 4, 2, [1, 2, 8]),
        (Integer(1, 9, 2), 5, 1, [3, 7]),
        (Integer(1, 9, 2), 9, 3, [3, 5, 7]),
        (Choice((5,)), 5, 1, []),
        (Float(0.0, 1.0), 0.5, 1, [0.4, 0.6]),
    ],
)
def test_the_neighbours_of_a_value(dimension, value, max_step, expected):
    assert list(near_values(dimension, value, max_step)) == pytest.approx(expected)


def test_usefulness_is_the_hypervolume_that_would_be_lost():
    costs = np.array([[0.0, 1.0], [0.3, 0.4], [0.35, 0.38], [1.0, 0.0]])
    corner = np.array([1.2, 1.2])
    lost = [hypervolume(costs, corner) - hypervolume(np.delete(costs, i, axis=0), corner) for i in range(4)]
    assert usefulness(costs) == pytest.approx(lost)
    assert usefulness(costs * [10.0, 3.0]) == pytest.approx(lost)
    assert usefulness(np.array([[1.0], [1.0]])).tolist() == [0.0, 0.0]


def test_an_option_out_of_range_is_refused():
    with pytest.raises(ConfigError, match=r"search\.options\.max_step: 0 is not allowed"):
        LocalSearch(SPACE, 0, max_step=0)
