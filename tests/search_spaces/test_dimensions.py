import json
import math
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution, json_to_distribution

from search_spaces.dimensions import Choice, Dimension, Float, Grid, Integer, dimension_from_json, dimension_from_optuna
from search_spaces.errors import ConfigError
from search_spaces.seeding import rng_for

plain_values = st.one_of(
    st.booleans(), st.integers(-99, 99), st.floats(-9, 9, allow_nan=False), st.sampled_from(["gelu", "relu", "1", "ü"])
)
choices = st.builds(Choice, st.lists(plain_values, min_size=1, max_size=6, unique=True).map(tuple), st.booleans())
integers = st.one_of(
    st.builds(
        lambda low, span, step: Integer(low, low + span, step), st.integers(-9, 9), st.integers(0, 9), st.integers(1, 4)
    ),
    st.builds(lambda low, span: Integer(low, low + span, log=True), st.integers(1, 9), st.integers(0, 99)),
)
grids = st.builds(
    lambda low, n, step: Grid(low / 100, (low + n) / 100, step / 100),
    st.integers(-999, 999),
    st.integers(0, 300),
    st.integers(1, 99),
)
bounds = st.floats(-1e6, 1e6, allow_nan=False, allow_infinity=False)
floats = st.one_of(
    st.builds(lambda a, b: Float(min(a, b), max(a, b)), bounds, bounds),
    st.builds(lambda low, factor: Float(low, low * factor, log=True), st.floats(1e-6, 1e3), st.floats(1, 1e6)),
)
dimensions = st.one_of(choices, integers, floats, grids)
seeds = st.integers(0, 2**31)


def test_a_boolean_is_not_a_number_and_a_number_is_not_a_boolean():
    assert not Choice((0, 1)).contains(True)
    assert not Choice((False, True)).contains(1)
    assert not Integer(0, 1).contains(True)
    assert not Float(0, 1).contains(True)


def test_a_number_written_without_a_point_is_taken_in_the_declared_type():
    assert Choice((1.0, 2.0)).contains(2)
    assert type(Choice((1.0, 2.0)).canonical(2)) is float
    assert type(Choice((384, 768)).canonical(768.0)) is int
    assert type(Float(0, 5).canonical(2)) is float


def test_a_negative_zero_is_the_same_value_as_zero():
    assert math.copysign(1, Float(-0.0, 1).default) == 1
    assert math.copysign(1, Float(-1, 1).canonical(-0.0)) == 1


def test_values_outside_the_dimension_are_not_contained():
    assert not Integer(0, 10, 5).contains(4)
    assert not Integer(0, 10, 5).contains(15)
    assert not Float(0, 1).contains(math.nan)
    assert not Float(0, 1).contains("0.5")
    assert not Choice(("gelu",)).contains("relu")


def test_the_default_is_the_first_or_lowest_value():
    assert [Choice((3, 1)).default, Integer(2, 9).default, Float(0.5, 1).default] == [3, 2, 0.5]


def test_sizes_count_the_values():
    assert [Choice((3, 1)).size, Integer(0, 9, 4).size, Float(0, 1).size, Float(2, 2).size] == [2, 3, math.inf, 1]


def test_the_upper_end_of_an_integer_is_its_last_step():
    assert Integer(0, 9, 4).allowed == "an integer from 0 to 8 in steps of 4"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Choice(()), "is empty"),
        (lambda: Choice((1, True)), "holds equal values"),
        (lambda: Choice((1, 1.0)), "holds equal values"),
        (lambda: Choice((math.nan,)), "nan cannot be a value"),
        (lambda: Choice(((1, 2),)), r"\(1, 2\) cannot be a value"),  # type: ignore[arg-type]
        (lambda: Integer(3, 2), "low=3, high=2"),
        (lambda: Integer(1, 2, 0), "step=0"),
        (lambda: Float(1, 0), "low <= high"),
        (lambda: Float(0, math.inf), "finite"),
        (lambda: Float(math.nan, 1), "finite"),
        (lambda: Float(-1e308, 1e308), "finite"),
        (lambda: Float(0, 1, log=True), "no logarithm"),
        (lambda: Integer(0, 1, log=True), "low=0.* low >= 1"),
        (lambda: Integer(1, 9, 2, log=True), "step=2, log=True"),
        (lambda: Grid(0, 1, 0), "step=0"),
        (lambda: Grid(1, 0, 0.1), "low=1, high=0"),
    ],
)
def test_a_dimension_without_proper_values_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_dimensions_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Choice((1, 2)).ordered = True


def test_an_ordered_choice_moves_by_at_most_the_allowed_steps():
    ladder = Choice((10, 20, 30, 40, 50), ordered=True)
    moves = {ladder.mutate(20, rng_for(0, draw), max_step=2) for draw in range(200)}
    assert moves == {10, 30, 40}


def test_an_unordered_choice_moves_anywhere():
    moves = {Choice((10, 20, 30, 40, 50)).mutate(20, rng_for(0, draw), max_step=1) for draw in range(200)}
    assert moves == {10, 30, 40, 50}


def test_neighbours_are_one_step_away_or_all_others():
    assert Choice((10, 20, 30), ordered=True).steps(10) == (20,)
    assert Choice((10, 20, 30)).steps(10) == (20, 30)
    assert Integer(0, 9, 3).steps(3) == (0, 6)
    assert Float(0, 1).steps(1.0) == (0.9,)
    assert Float(1, 100, log=True).steps(10) == pytest.approx((10**0.8, 10**1.2))


def test_a_huge_integer_range_is_never_listed():
    wide = Integer(0, 10**12)
    assert wide.contains(10**11)
    assert abs(int(wide.mutate(10**11, rng_for(0))) - 10**11) in {1, 2}


def test_a_log_float_is_drawn_evenly_over_its_decades():
    scale = Float(1e-4, 1.0, log=True)
    draws = [scale.sample(rng_for(0, draw)) for draw in range(2000)]
    assert sum(draw < 1e-2 for draw in draws) / len(draws) == pytest.approx(0.5, abs=0.05)


def test_a_log_integer_is_drawn_and_moved_on_the_scale_of_its_logarithm():
    scale = Integer(1, 10_000, log=True)
    draws = [scale.sample(rng_for(0, draw)) for draw in range(2000)]
    # integers up to 99 take the part from 0.5 to 99.5 of the logarithms from 0.5 to 10,000.5
    assert sum(draw < 100 for draw in draws) / len(draws) == pytest.approx(math.log(199) / math.log(20_001), abs=0.04)
    moves = [scale.mutate(1000, rng_for(0, draw), max_step=1) for draw in range(200)]
    assert 300 < min(moves) < 500
    assert 2000 < max(moves) < 3000
    assert scale.encode(100) == (0.5,)


def test_a_number_nearly_on_a_grid_is_the_one_on_it():
    grid = Grid(0, 1, 0.1)
    assert grid.contains(0.3)
    assert grid.canonical(0.3) == 0.1 * 3 != 0.3
    assert not grid.contains(0.35)
    assert not grid.contains(1.1)
    assert not grid.contains(True)
    assert Grid(0, 0.75, 0.1).values[-1] == 0.7 < 7 * 0.1
    assert grid.size == 11


@pytest.mark.parametrize(
    ("distribution", "dimension"),
    [
        (CategoricalDistribution(("a", 1)), Choice(("a", 1))),
        (IntDistribution(0, 9, step=4), Integer(0, 8, 4)),
        (IntDistribution(1, 9, log=True), Integer(1, 9, log=True)),
        (FloatDistribution(0.1, 1, log=True), Float(0.1, 1, log=True)),
        (FloatDistribution(0, 1, step=0.25), Grid(0, 1, 0.25)),
        (CategoricalDistribution((None, 1)), None),
        (CategoricalDistribution((True, 1)), None),
        (FloatDistribution(-1e308, 1e308), None),
    ],
)
def test_a_distribution_of_optuna_becomes_the_dimension_of_the_same_values(distribution, dimension):
    assert dimension_from_optuna(type(distribution).__name__, vars(distribution)) == dimension
    if dimension is not None:
        assert json_to_distribution(json.dumps(dimension.optuna_json())) == distribution


def test_ordered_values_are_encoded_by_place_and_others_one_hot():
    assert Choice((10, 20, 40), ordered=True).encode(20) == (0.5,)
    assert Choice(("a", "b", "c")).encode("b") == (0.0, 1.0, 0.0)
    assert Choice(("a", "b", "c")).columns == ("='a'", "='b'", "='c'")
    assert Float(1, 100, log=True).encode(10) == pytest.approx((0.5,))
    assert Integer(7, 7).encode(7) == (0.0,)


def test_optuna_sees_the_order_of_evenly_spaced_integers():
    def seen(dimension: Dimension) -> object:
        return json_to_distribution(json.dumps(dimension.optuna_json()))

    assert seen(Choice((96, 192, 288), ordered=True)) == IntDistribution(96, 288, step=96)
    assert seen(Choice((96, 192, 384), ordered=True)) == CategoricalDistribution((96, 192, 384))
    assert seen(Choice((3, 2, 1), ordered=True)) == CategoricalDistribution((3, 2, 1))
    assert seen(Choice((96, 192, 288))) == CategoricalDistribution((96, 192, 288))
    assert seen(Choice((False, True), ordered=True)) == CategoricalDistribution((False, True))
    assert seen(Integer(0, 9, 4)) == IntDistribution(0, 8, step=4)
    assert seen(Float(0.1, 1, log=True)) == FloatDistribution(0.1, 1, log=True)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kind": "choise", "values": [1]}, "Did you mean 'choice'"),
        ({"values": [1]}, "'None' is unknown; known: choice, integer, float, grid"),
        ({"kind": "integer", "low": 1}, "missing 1 required positional argument: 'high'"),
        ({"kind": "float", "low": 1, "high": 2, "base": 10}, "unexpected keyword argument 'base'"),
    ],
)
def test_json_that_describes_no_dimension_is_refused(data, message):
    with pytest.raises(ConfigError, match=message):
        dimension_from_json(data)


@given(dimensions)
def test_json_brings_back_an_equal_dimension(dimension):
    again = dimension_from_json(json.loads(json.dumps(dimension.to_json())))
    assert again == dimension
    assert list(map(type, again.values)) == list(map(type, dimension.values))


@given(dimensions, seeds)
def test_draws_are_contained_and_repeatable(dimension, seed):
    value = dimension.sample(rng_for(seed))
    assert dimension.contains(value)
    assert value == dimension.sample(rng_for(seed))
    assert type(dimension.canonical(value)) is type(value)


@given(dimensions, seeds, st.integers(1, 5))
def test_a_mutation_is_contained_and_different(dimension, seed, max_step):
    assume(dimension.size > 1)
    value = dimension.sample(rng_for(seed, "value"))
    mutant = dimension.mutate(value, rng_for(seed, "mutant"), max_step)
    assert dimension.contains(mutant)
    assert mutant != value


@given(dimensions, seeds)
def test_a_single_value_mutates_into_itself(dimension, seed):
    (alone,) = dimension.narrowed([dimension.sample(rng_for(seed))]).values
    assert dimension.narrowed([alone]).mutate(alone, rng_for(seed)) == alone


@given(dimensions, seeds)
def test_neighbours_are_contained_and_different(dimension, seed):
    value = dimension.sample(rng_for(seed))
    assert all(dimension.contains(near) and near != value for near in dimension.steps(value))


@given(dimensions, seeds)
def test_codes_lie_between_zero_and_one_in_the_promised_columns(dimension, seed):
    code = dimension.encode(dimension.sample(rng_for(seed)))
    assert len(code) == len(dimension.columns)
    assert all(0 <= number <= 1 for number in code)


@given(st.one_of(choices, integers, grids))
def test_different_values_have_different_codes(dimension):
    codes = {dimension.encode(value) for value in dimension.values}
    assert len(codes) == dimension.size


@given(st.one_of(choices, integers, grids), seeds)
def test_a_narrowed_dimension_keeps_the_old_order(dimension, seed):
    kept = {dimension.sample(rng_for(seed, draw)) for draw in range(3)}
    assert dimension.narrowed(list(kept)).values == tuple(value for value in dimension.values if value in kept)


@given(dimensions, seeds)
def test_optuna_accepts_every_value(dimension, seed):
    distribution = json_to_distribution(json.dumps(dimension.optuna_json()))
    value = dimension.sample(rng_for(seed))
    assert distribution.to_external_repr(distribution.to_internal_repr(value)) == value
    assert distribution._contains(distribution.to_internal_repr(value))
