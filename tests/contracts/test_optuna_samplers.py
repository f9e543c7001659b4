"""Our strategies pass the tests that Optuna ships for samplers; a new row of the table is tested without a new test.

There no space is declared: a strategy finds it in the study. Every class of Optuna's that applies is run in full.
"""

import pickle
from collections.abc import Callable

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, PartialFixedSampler
from optuna.testing import pytest_samplers
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)

from nas.strategies import STRATEGIES
from nas.strategies.base import Strategy
from nas.strategies.foreknowledge import Foreknowledge
from nas.strategies.random import RandomSearch
from search_spaces.dimensions import Choice, Integer
from search_spaces.errors import ConfigError
from search_spaces.space import Condition, Space

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning", "ignore::UserWarning")
SINGLE = [name for name in STRATEGIES if STRATEGIES.load(name).max_objectives == 1]
DISTRIBUTIONS: dict[str, BaseDistribution] = {
    "kind": CategoricalDistribution(("relu", "gelu", "tanh")),
    "width": IntDistribution(1, 1000, log=True),
    "depth": IntDistribution(2, 12, step=2),
    "dropout": FloatDistribution(0, 0.5, step=0.1),
    "lr": FloatDistribution(1e-5, 1e-1, log=True),
}
MORE: dict[str, BaseDistribution] = {
    **DISTRIBUTIONS,
    "constant": IntDistribution(3, 3),
    "odd": CategoricalDistribution((None, 1)),
}


class OnlyOne(RandomSearch):
    """A strategy of one objective, there even when the table has none."""

    max_objectives = 1


def factory(name: str) -> Callable[[], BaseSampler]:
    return lambda: STRATEGIES.load(name)(seed=0)


class TestBasic(BasicSamplerTestCase):
    @pytest.fixture(params=STRATEGIES)
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return factory(request.param)


class TestRelative(RelativeSamplerTestCase):
    @pytest.fixture(params=STRATEGIES)
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return factory(request.param)


class TestMultiObjective(MultiObjectiveSamplerTestCase):
    @pytest.fixture(params=[name for name in STRATEGIES if name not in SINGLE])
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return factory(request.param)


class TestSingleOnly(SingleOnlySamplerTestCase):
    @pytest.fixture(params=[None, *SINGLE])
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return factory(request.param) if request.param else OnlyOne


def test_every_class_that_optuna_ships_is_run():
    shipped = {name for name in vars(pytest_samplers) if name.endswith("TestCase") and not name.startswith("_")}
    cases = (TestBasic, TestRelative, TestMultiObjective, TestSingleOnly)
    here = {base.__name__ for case in cases for base in case.__bases__}
    assert here == shipped


def run(sampler: BaseSampler, n_trials: int, distributions: dict[str, BaseDistribution] = MORE) -> optuna.Study:
    study = optuna.create_study(sampler=sampler)
    resume(study, n_trials, distributions)
    return study


def resume(study: optuna.Study, n_trials: int, distributions: dict[str, BaseDistribution] = MORE) -> None:
    for _ in range(n_trials):
        trial = study.ask(distributions)
        study.tell(trial, trial.params["width"] * trial.params["lr"])


@pytest.mark.parametrize("name", STRATEGIES)
def test_without_a_space_it_searches_what_the_trials_have_in_common(name):
    study = run(STRATEGIES.load(name)(seed=0), 14)
    sampler = study.sampler
    assert isinstance(sampler, Strategy)
    trial = study.ask()
    assert sampler.infer_relative_search_space(study, study.trials[-1]) == DISTRIBUTIONS
    assert set(trial.relative_params) == set(DISTRIBUTIONS)
    history = sampler._others[study]._histories[study]
    assert [seen.number for seen in history.finished][-13:] == list(range(1, 14))
    assert history.space == Space.from_distributions(MORE)


@pytest.mark.parametrize("name", STRATEGIES)
def test_without_a_space_a_search_goes_on_as_if_never_stopped(name):
    whole = run(STRATEGIES.load(name)(seed=3), 16)
    parts = run(STRATEGIES.load(name)(seed=3), 6)
    for _ in range(2):
        parts.sampler = STRATEGIES.load(name)(seed=3)
        resume(parts, 5)
    assert [trial.params for trial in parts.trials] == [trial.params for trial in whole.trials]


@pytest.mark.parametrize("name", STRATEGIES)
def test_without_a_seed_two_strategies_differ_and_a_copy_of_one_does_not(name):
    one, two = STRATEGIES.load(name)(), STRATEGIES.load(name)()
    copy = pickle.loads(pickle.dumps(one))
    copy.reseed_rng()  # Optuna calls it for parallel workers; ours differ by the number of the trial
    first, second, third = ([trial.params for trial in run(sampler, 5).trials] for sampler in (one, two, copy))
    assert first != second
    assert first == third


@pytest.mark.parametrize("name", STRATEGIES)
def test_threads_share_a_strategy_without_losing_or_repeating_a_trial(name):
    sampler = STRATEGIES.load(name)(seed=0)
    study = optuna.create_study(sampler=sampler)

    def objective(trial: optuna.Trial) -> float:
        return trial.suggest_float("x", -1, 1) ** 2 + trial.suggest_int("y", 0, 50)

    study.optimize(objective, n_trials=6)
    study.optimize(objective, n_trials=24, n_jobs=2)
    study.ask().suggest_float("x", -1, 1)
    history = sampler._others[study]._histories[study]
    assert [seen.number for seen in history.finished] == list(range(30))
    assert sorted(seen.number for seen in history.told) == list(range(30))
    assert len({str(trial.params) for trial in study.trials[:30]}) == 30


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_search_space_other_than_the_declared_one_is_honoured(name):
    space = Space({"kind": Choice(("a", "b", "c")), "depth": Integer(1, 9), "width": Choice((1, 5, 7), ordered=True)})
    narrow = {**space.distributions(), "depth": IntDistribution(4, 5), "new": FloatDistribution(0, 1)}
    del narrow["kind"]
    study = optuna.create_study(sampler=STRATEGIES.load(name)(space, 0))
    for number in range(12):
        study.tell(study.ask(space.distributions()), number)
        params = study.sampler.sample_relative(study, study.trials[-1], narrow)
        assert set(params) == {"depth", "width", "new"}
        assert params["depth"] in (4, 5)
        assert params["width"] in (1, 5, 7)
    study.sampler = PartialFixedSampler({"kind": "b"}, study.sampler)
    assert {study.ask(space.distributions()).params["kind"] for _ in range(5)} == {"b"}


def test_a_declared_gene_keeps_its_order_and_condition_in_another_space():
    ladder = Choice((1, 5, 7), ordered=True)
    space = Space(
        {"on": Choice((False, True)), "width": ladder, "depth": Integer(1, 9)},
        {"width": Condition("on", (True,)), "depth": Condition("on", (True,))},
    )
    other = space.adapted({**space.distributions(), "depth": IntDistribution(2, 3)})
    assert other.dimensions == {"on": Choice((False, True)), "width": ladder, "depth": Integer(2, 3)}
    assert other.conditions == {"width": Condition("on", (True,))}


def test_foreknowledge_without_a_space_is_refused():
    with pytest.raises(ConfigError, match="'random': has no space to foresee; pass one"):
        RandomSearch(seed=0).foresee(Foreknowledge())


def test_a_value_typed_by_hand_is_on_the_grid():
    study = optuna.create_study(sampler=RandomSearch(seed=0))
    distribution = FloatDistribution(0, 1, step=0.1)
    study.enqueue_trial({"x": 0.3})  # three steps are 0.30000000000000004
    for _ in range(2):
        study.tell(study.ask({"x": distribution}), 1.0)
    study.ask({"x": distribution})
    assert 0 in [seen.number for seen in study.sampler._others[study]._histories[study].finished]
