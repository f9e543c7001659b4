import pytest

from nas.strategies import OPTUNA_SAMPLERS, STRATEGIES, check_search, check_strategy, make_sampler, names
from nas.strategies.random import RandomSearch
from search_spaces.dimensions import Choice
from search_spaces.errors import ConfigError
from search_spaces.space import Space

SPACE = Space({"ffn": Choice((1, 2, 3), ordered=True)})


@pytest.mark.parametrize("function", [check_strategy, lambda name: make_sampler(name, SPACE, 0)])
def test_an_unknown_strategy_lists_all_names_and_the_nearest(function):
    with pytest.raises(ConfigError, match=r"strategy: 'evolutoin' is unknown; known: evolution, .*random, .*tpe, .*"):
        function("evolutoin")
    check_strategy("evolution")
    check_strategy("tpe")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("evolution", {"population": 1}, r"search\.options\.population: 1 is not allowed; .* equal to 2"),
        ("evolution", {"population": "many"}, "population: 'many' is not allowed"),
        ("evolution", {"tournament": 0}, "tournament: 0 is not allowed"),
        ("evolution", {"tournament": 2.5}, r"tournament: 2\.5 is not allowed"),
        ("evolution", {"max_step": True}, "max_step: True is not allowed"),
        ("evolution", {"crossover": 1.5}, r"crossover: 1\.5 is not allowed; .* equal to 1"),
        ("evolution", {"crossover": "often"}, "crossover: 'often' is not allowed"),
        ("ppo", {"clip": 1.0}, r"clip: 1\.0 is not allowed; .* less than 1"),
        ("ppo", {"target": 0.0}, r"target: 0\.0 is not allowed; .* greater than 0"),
        ("reinforce", {"exponent": 0.07}, r"exponent: 0\.07 is not allowed; .* equal to 0"),
        ("nsga2", {"population_size": 0}, r"search\.options: \{'population_size': 0\} is not allowed for 'nsga2'"),
        ("tpe", {"seed": 3}, r"search\.options\.seed: .* known: consider_prior"),
    ],
)
def test_a_wrong_option_is_one_line(name, options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make_sampler(name, SPACE, 0, options)
    assert "\n" not in str(caught.value)


def test_options_reach_optunas_sampler():
    assert make_sampler("nsga2", SPACE, 0, {"population_size": 7})._sampler.population_size == 7


def test_more_objectives_than_a_strategy_searches_for_are_refused(monkeypatch):
    monkeypatch.setattr(RandomSearch, "max_objectives", 1)
    check_search("random", {}, 1, 24)
    with pytest.raises(ConfigError, match="'random' cannot search for 2 objectives; at most 1 is allowed"):
        check_search("random", {}, 2, 24)


@pytest.mark.parametrize(("name", "option"), [("evolution", "population"), ("nsga2", "population_size")])
def test_a_given_population_that_the_trials_cannot_fill_is_refused(name, option):
    check_search(name, {}, 2, 1)  # a default may be larger
    check_search(name, {option: 24}, 2, 24)
    with pytest.raises(ConfigError, match=rf"search\.options\.{option}: 25 is more than .* search\.trials = 24"):
        check_search(name, {option: 25}, 2, 24)


def test_options_are_checked_before_they_are_compared():
    with pytest.raises(ConfigError, match="population: 'many' is not allowed"):
        check_search("evolution", {"population": "many"}, 2, 24)


def test_every_strategy_says_what_it_is_good_for():
    assert list(names.OPTUNA_SUITS) == list(OPTUNA_SAMPLERS)
    for name in STRATEGIES:
        assert STRATEGIES.load(name).name == name
        assert 10 < len(STRATEGIES.load(name).suits) < 120
