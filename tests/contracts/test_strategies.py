"""What every strategy of the tables promises, ours and Optuna's; a new row is tested without a new test."""

import math
import pickle

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from nas.record import Record
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
def test_ours_propose_only_what_is_accepted_while_they_find_it(name):
    sampler = make_sampler(name, SPACE, 0)
    assert isinstance(sampler, Strategy)
    sampler.foresee(Foreknowledge(lambda genes: genes["depth"] <= 2))
    record = Record.open(None, "run", ["maximize", "minimize"], sampler, ["accuracy", "macs"])
    for _ in range(20):
        trial = record.ask(SPACE.distributions())
        assert trial.params["depth"] <= 2
        record.tell(trial.number, score(trial.params))
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
