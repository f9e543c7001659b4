import pytest

from nas.strategies import check_strategy, make_sampler
from search_spaces.dimensions import Choice
from search_spaces.errors import ConfigError
from search_spaces.space import Space

SPACE = Space({"ffn": Choice((1, 2, 3), ordered=True)})


@pytest.mark.parametrize("function", [check_strategy, lambda name: make_sampler(name, SPACE, 0)])
def test_an_unknown_strategy_lists_all_names_and_the_nearest(function):
    with pytest.raises(
        ConfigError, match=r"strategy: 'evolutoin' is unknown; known: evolution, ppo, random, reinforce, tpe, .*"
    ):
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
