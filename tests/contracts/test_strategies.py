"""What every strategy of the tables promises, ours and Optuna's; a new row is tested without a new test."""

import math
import pickle
import sqlite3
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from nas.executor import Outcome, Task
from nas.objectives import Objective
from nas.recipe import SearchSettings
from nas.record import Record
from nas.search import Search
from nas.strategies import OPTUNA_SAMPLERS, STRATEGIES, make_sampler
from nas.strategies.base import Strategy
from nas.strategies.foreknowledge import Foreknowledge
from search_spaces.dimensions import Choice, Float, Integer
from search_spaces.errors import ConfigError
from search_spaces.space import Condition, Space

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning", "ignore::UserWarning")
ALL = [*STRATEGIES, *OPTUNA_SAMPLERS]
QUICK = [name for name in ALL if name != "gp"]  # a Gaussian process takes seconds for a few trials
SPACE = Space(
    {
        "keep_1": Choice((False, True)),
        "heads_1": Choice((2, 4, 8), ordered=True),
        "hidden": Choice((96, 192, 384), ordered=True),
        "depth": Integer(1, 12),
        "alpha": Float(0.1, 0.9),
        "activation": Choice(("gelu", "relu", "tanh")),
    },
    {"heads_1": Condition("keep_1", (True,))},
)
FINITE = Space({name: SPACE.dimensions[name] for name in ("keep_1", "heads_1", "activation")}, SPACE.conditions)


def score(genes: dict) -> list[float]:
    width = genes["hidden"] / 384 * (1.2 if genes["keep_1"] else 1.0)
    return [1 - math.exp(-width * genes["depth"]) - abs(genes["alpha"] - 0.5), width * genes["depth"]]


def search(name: str, n_trials: int, seed: int = 0) -> Record:
    record = Record.open(None, "run", ["maximize", "minimize"], make_sampler(name, SPACE, seed), ["accuracy", "macs"])
    for number in range(n_trials):
        trial = record.ask(SPACE.distributions())
        if number % 5 == 4:
            record.tell(trial.number, None, TrialState.FAIL)
        else:
            values = score(trial.params)
            record.tell(trial.number, values, constraints={"macs": values[1] - 8})
    return record


def params(record: Record) -> list[dict]:
    return [trial.params for trial in record.trials()]


@pytest.mark.parametrize("name", ALL)
def test_every_proposal_is_in_the_space_and_complete(name):
    for trial in search(name, 14).trials():
        assert tuple(trial.params) == SPACE.names
        SPACE.canonical(trial.params)


@pytest.mark.parametrize("name", QUICK)
def test_the_seed_decides_everything(name):
    assert params(search(name, 14)) == params(search(name, 14))
    if name != "qmc":  # a sequence without scrambling has no use for a seed
        assert params(search(name, 14)) != params(search(name, 14, seed=1))


@pytest.mark.parametrize("name", QUICK)
def test_a_search_resumed_at_any_trial_goes_on_as_if_never_stopped(name, tmp_path):
    whole = params(search(name, 18))
    url = f"sqlite:///{tmp_path / 'study.db'}"
    for number in range(18):
        if number % 4 == 0:  # a new process would read the file and make its own sampler
            record = Record.open(
                url, "run", ["maximize", "minimize"], make_sampler(name, SPACE, 0), ["accuracy", "macs"]
            )
        trial = record.ask(SPACE.distributions())
        assert trial.params == whole[number]
        if number % 5 == 4:
            record.tell(trial.number, None, TrialState.FAIL)
        else:
            values = score(trial.params)
            record.tell(trial.number, values, constraints={"macs": values[1] - 8})


@pytest.mark.parametrize("name", QUICK)
def test_it_works_in_anybodys_study(name):
    study = optuna.create_study(direction="maximize", sampler=make_sampler(name, SPACE, 0))
    for _ in range(14):
        trial = study.ask(SPACE.distributions())
        other = trial.suggest_float("a parameter of its own", 0, 1)
        study.tell(trial, score(trial.params)[0] + other)
    assert len(study.get_trials(states=[TrialState.COMPLETE])) == 14


@pytest.mark.parametrize("name", ALL)
def test_an_unknown_option_is_refused(name):
    with pytest.raises(
        ConfigError, match=r"search\.options\.populatoin: option of .*: 'populatoin' is unknown; known: "
    ):
        make_sampler(name, SPACE, 0, {"populatoin": 3})


@pytest.mark.parametrize("name", STRATEGIES)
def test_ours_never_repeat_a_candidate_while_there_is_another(name):
    record = Record.open(None, "run", ["minimize"], make_sampler(name, FINITE, 0), ["macs"])
    assert FINITE.size == 12
    trials = []
    for number in range(14):
        trials.append(record.ask(FINITE.distributions()))
        if number >= 2:  # three at a time
            record.tell(number - 2, [float(number)])
    assert len({FINITE.key(trial.params) for trial in trials[:12]}) == 12
    assert len(trials) == 14


@pytest.mark.parametrize("name", STRATEGIES)
def test_ours_propose_only_what_is_accepted_while_they_find_it(name, monkeypatch):
    sampler = make_sampler(name, SPACE, 0)
    assert isinstance(sampler, Strategy)
    sampler.foresee(Foreknowledge(lambda genes: genes["depth"] <= 2))
    record = Record.open(None, "run", ["maximize", "minimize"], sampler, ["accuracy", "macs"])
    for _ in range(14):
        trial = record.ask(SPACE.distributions())
        assert trial.params["depth"] <= 2
        record.tell(trial.number, score(trial.params))
    monkeypatch.setattr("nas.strategies.base.TRIES", 20)
    sampler.foresee(Foreknowledge(lambda genes: False))
    assert record.ask(SPACE.distributions()).params


@pytest.mark.parametrize("name", STRATEGIES)
def test_ours_survive_a_pickle_and_propose_the_same(name):
    record = search(name, 12)
    copy = pickle.loads(pickle.dumps(record.sampler))
    trial = record.study.ask(SPACE.distributions())
    again = copy.sample_relative(record.study, record.trial(trial.number), SPACE.distributions())
    assert again == trial.params


@pytest.mark.parametrize("name", STRATEGIES)
def test_our_proposals_do_not_change_the_history(name):
    record = search(name, 20)
    sampler = record.sampler
    assert isinstance(sampler, Strategy)
    history = sampler._histories[record.study]
    before = str(history)
    sampler.propose(history, np.random.default_rng(0))
    assert str(history) == before


# What a search may meet: results in any order, failures, odd spaces, constraints that nothing meets.

ONE_GENE = Space({"depth": Integer(1, 12)})
WIDE = Space({f"gene_{i}": Choice((1, 2, 4, 8), ordered=bool(i % 2)) for i in range(200)})
CONDITIONAL = Space(  # each gene exists only under the one before it
    {f"on_{i}": Choice((False, True)) for i in range(12)} | {"alpha": Float(0, 1), "depth": Integer(1, 9)},
    {f"on_{i}": Condition(f"on_{i - 1}", (True,)) for i in range(1, 12)}
    | {"alpha": Condition("on_3", (True,)), "depth": Condition("on_6", (False,))},
)
N_OBJECTIVES = {1: ["minimize"], 2: ["maximize", "minimize"], 3: ["maximize", "minimize", "minimize"]}


def n_objectives(name: str, n: int) -> int:
    """Return n, or the most a strategy of ours searches for."""
    most = STRATEGIES.load(name).max_objectives if name in STRATEGIES else None
    return min(n, most or n)


def open_record(name: str, space: Space, n: int, url: str | None = None) -> Record:
    labels = ["first", "second", "third"][:n]
    return Record.open(url, "run", N_OBJECTIVES[n], make_sampler(name, space, 0), labels)


def costs(space: Space, genes: dict, n: int) -> list[float]:
    code = space.encode(genes)
    return [float(code.sum()), float(((code - 0.5) ** 2).sum()), float(code[0])][:n]


@pytest.mark.parametrize("n", N_OBJECTIVES)
@pytest.mark.parametrize("name", QUICK)
def test_results_may_come_in_any_order_and_some_as_failures_or_pruned(name, n):
    n = n_objectives(name, n)
    record = open_record(name, SPACE, n)
    rng = np.random.default_rng(0)
    pending: list[int] = []
    for _ in range(30):
        pending.append(record.ask(SPACE.distributions()).number)
        if len(pending) > 4:
            number = pending.pop(int(rng.integers(len(pending))))
            state = (TrialState.FAIL, TrialState.PRUNED, *[TrialState.COMPLETE] * 4)[number % 6]
            values = costs(SPACE, record.trial(number).params, n) if state == TrialState.COMPLETE else None
            record.tell(number, values, state, constraints={} if values is None else {"limit": values[0] - 2})
    assert len(record.trials()) == 30
    assert len(record.running()) == 4
    for trial in record.trials():
        SPACE.canonical(trial.params)


@pytest.mark.parametrize("name", QUICK)
def test_values_that_are_not_numbers_do_no_harm(name):
    study = optuna.create_study(sampler=make_sampler(name, SPACE, 0))
    for number in range(14):
        trial = study.ask(SPACE.distributions())
        study.tell(trial, math.nan if number % 3 == 0 else score(trial.params)[1])
        infinite = optuna.create_trial(params=trial.params, distributions=SPACE.distributions(), value=math.inf)
        if number % 5 == 0:
            study.add_trial(infinite)
    assert len(study.get_trials(states=[TrialState.COMPLETE])) == 9 + 3


@pytest.mark.parametrize("space", [ONE_GENE, WIDE, CONDITIONAL], ids=["one gene", "200 genes", "conditional"])
@pytest.mark.parametrize("name", QUICK)
def test_small_wide_and_conditional_spaces_are_searched(name, space):
    n = n_objectives(name, 2)
    record = open_record(name, space, n)
    for _ in range(14):
        trial = record.ask(space.distributions())
        record.tell(trial.number, costs(space, trial.params, n))
    trials = [space.canonical(trial.params) for trial in record.trials()]
    assert len(trials) == 14
    if name in STRATEGIES:
        assert len({space.key(genes) for genes in trials}) == min(14, space.size)


@pytest.mark.parametrize("name", QUICK)
def test_constraints_that_nothing_meets_do_not_stop_a_search(name):
    record = open_record(name, SPACE, n_objectives(name, 2))
    for _ in range(14):
        trial = record.ask(SPACE.distributions())
        told = costs(SPACE, trial.params, n_objectives(name, 2))
        record.tell(trial.number, told, constraints={"latency": 1 + told[0], "size": 2.0})
    assert len(record.trials((TrialState.COMPLETE,))) == 14


@pytest.mark.parametrize("name", QUICK)
def test_a_space_smaller_than_the_budget_ends_the_search(name):
    settings = SearchSettings(trials=40)
    candidates = SimpleNamespace(space=FINITE, describe=str)
    known = SimpleNamespace(
        candidates=candidates,
        metrics=lambda genes: {},
        shortfall=lambda genes, limits: 0.0,
        warning=lambda genes: "",
    )
    n = n_objectives(name, 2)
    record = open_record(name, FINITE, n)
    objectives = [Objective.of(label) for label in ("accuracy", "latency_ms")[:n]]
    Search(settings, objectives, [], known, record, Answers(), lambda trial: None, lambda running: None).run()
    keys = [FINITE.key(trial.user_attrs["genes"]) for trial in record.trials((TrialState.COMPLETE,))]
    assert len(keys) == len(set(keys)) <= FINITE.size
    if name in STRATEGIES:
        assert len(keys) == FINITE.size == 12
        assert len(record.trials()) == 12


class Answers:
    """An executor of two slots that ends the younger of two tasks first."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []

    def slots(self, kind: str) -> int:
        return 2

    def submit(self, task: Task) -> None:
        self.tasks.append(task)

    def wait(self, timeout_s: float) -> list[Outcome]:
        task = self.tasks.pop()
        metrics = {"accuracy": 0.5, "latency_ms": float(len(task.spec["genes"]))}
        return [Outcome(task.uid, {"metrics": metrics, "curves": {}, "reports": [], "seconds": 0.1})]


@pytest.mark.parametrize("name", STRATEGIES)
def test_ours_never_propose_what_is_pending_or_enqueued(name):
    record = open_record(name, FINITE, n_objectives(name, 2))
    first = {"keep_1": True, "heads_1": 8, "activation": "tanh"}
    record.enqueue(first)
    trials = [FINITE.key(record.ask(FINITE.distributions()).params) for _ in range(12)]  # nothing is told
    assert trials[0] == FINITE.key(first)
    assert len(set(trials)) == 12


@pytest.mark.parametrize("name", QUICK)
def test_enqueued_trials_come_first_and_count_as_history(name):
    n = n_objectives(name, 2)
    record = open_record(name, SPACE, n)
    rng = np.random.default_rng(0)
    queue = [SPACE.complete(SPACE.sample(rng)) for _ in range(4)]
    for genes in queue:
        record.enqueue(genes)
    for _ in range(14):
        trial = record.ask(SPACE.distributions())
        record.tell(trial.number, costs(SPACE, trial.params, n))
    assert params(record)[:4] == queue
    if isinstance(record.sampler, Strategy):
        assert [seen.number for seen in record.sampler._histories[record.study].finished] == list(range(13))


def play(name: str, url: str | None, reopen_at: tuple[int, ...]) -> Record:
    """Play a search of five workers whose results come out of order, reopened now and then."""
    n = n_objectives(name, 2)
    record = open_record(name, SPACE, n, url)
    rng = np.random.default_rng(1)
    pending: list[int] = []
    for step in range(24):
        if step in reopen_at:
            record.close()
            tie_clocks(url)
            record = open_record(name, SPACE, n, url)
            assert sorted(pending) == [trial.number for trial in record.running()]
        pending.append(record.ask(SPACE.distributions()).number)
        while len(pending) > rng.integers(2, 6):
            number = pending.pop(int(rng.integers(len(pending))))
            values = None if number % 7 == 3 else costs(SPACE, record.trial(number).params, n)
            record.tell(number, values, TrialState.COMPLETE if values else TrialState.FAIL)
    return record


def tie_clocks(url: str) -> None:
    """Make all stored times equal, as within a second in a database that keeps whole seconds."""
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        connection.execute("UPDATE trials SET datetime_complete = '2026-01-01' WHERE datetime_complete IS NOT NULL")
    connection.close()


@pytest.mark.parametrize("name", QUICK)
def test_a_resumed_search_with_trials_pending_goes_on_as_if_never_stopped(name, tmp_path):
    whole = play(name, None, ())
    parts = play(name, f"sqlite:///{tmp_path / 'study.db'}", (5, 12, 20))
    assert params(parts) == params(whole)
    assert [trial.state for trial in parts.trials()] == [trial.state for trial in whole.trials()]
    if isinstance(whole.sampler, Strategy):
        orders = [[seen.number for seen in record.sampler._histories[record.study].told] for record in (whole, parts)]
        assert orders[0] == orders[1] != sorted(orders[0])
