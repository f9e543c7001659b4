import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.knapsack import frontier, solve
from search_spaces.errors import ShapeError

NUMBERS = st.one_of(st.integers(-3, 5).map(float), st.floats(-10, 10, allow_nan=False))
SLOTS = st.lists(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=4), min_size=1, max_size=5)


def tables(slots):
    return [[[pair[i] for pair in slot] for slot in slots] for i in (0, 1)]


def every_selection(damages, costs):
    """Cost, damage and options of all selections, summed slot by slot."""
    for options in itertools.product(*(range(len(row)) for row in costs)):
        yield (
            sum((row[option] for row, option in zip(costs, options, strict=True)), 0.0),
            sum((row[option] for row, option in zip(damages, options, strict=True)), 0.0),
            options,
        )


@settings(max_examples=150, deadline=None)
@given(SLOTS, st.floats(-20, 40))
def test_no_selection_within_the_budget_does_less_damage(slots, budget):
    damages, costs = tables(slots)
    fitting = [(damage, cost) for cost, damage, _ in every_selection(damages, costs) if cost <= budget]
    found = solve(damages, costs, budget)
    if not fitting:
        assert found is None
        return
    (mine,) = [(damage, cost) for cost, damage, options in every_selection(damages, costs) if options == found]
    assert mine == min(fitting)  # of equal damage the cheapest


@settings(max_examples=100, deadline=None)
@given(SLOTS)
def test_the_frontier_is_every_undominated_pair_once_and_its_options_cost_what_it_says(slots):
    damages, costs = tables(slots)
    everything = {options: (cost, damage) for cost, damage, options in every_selection(damages, costs)}
    pairs = set(everything.values())
    best = {p for p in pairs if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in pairs)}
    found = frontier(damages, costs)
    mine = list(zip(found.costs.tolist(), found.damages.tolist(), strict=True))
    assert mine == sorted(best)
    assert [everything[tuple(options)] for options in found.options.tolist()] == mine


def test_a_budget_below_the_cheapest_has_no_selection_and_exactly_the_cheapest_has_one():
    damages, costs = [[0.0, 1.0], [0.0, 2.0]], [[5.0, 1.0], [5.0, 1.5]]
    assert solve(damages, costs, 2.4999) is None
    assert solve(damages, costs, 2.5) == (1, 1)
    assert solve(damages, costs, np.inf) == (0, 0)


def test_a_slot_with_one_option_takes_it_and_its_cost_counts():
    assert solve([[3.0], [0.0, 1.0]], [[4.0], [4.0, 1.0]], 7.0) == (0, 1)


def test_among_equal_pairs_the_first_option_wins():
    assert solve([[1.0, 1.0, 0.0]], [[1.0, 1.0, 9.0]], 5.0) == (0,)


def test_costs_are_not_rounded():
    tenth = [[0.0, 1.0]] * 3
    assert solve(tenth, [[0.1, 0.0]] * 3, 0.3) is not None
    assert sum(solve(tenth, [[0.1, 0.0]] * 3, 0.1 + 0.1 + 0.1)) == 0
    assert sum(solve(tenth, [[0.1, 0.0]] * 3, 0.1 + 0.1 + 0.0999)) == 1


def test_many_slots_are_solved_exactly_where_all_selections_are_too_many_to_try():
    rng = np.random.default_rng(0)
    damages, costs = rng.integers(0, 50, (24, 6)), rng.integers(1, 50, (24, 6))
    best = np.full(24 * 50 + 1, np.inf)  # least damage for every whole cost: the textbook's table
    best[0] = 0
    for damage, cost in zip(damages, costs, strict=True):
        options = zip(damage, cost, strict=True)
        best = np.min([np.concatenate([np.full(c, np.inf), best[: len(best) - c]]) + d for d, c in options], axis=0)
    found = frontier(damages.tolist(), costs.tolist())
    for budget in (200, 400, 600, 900):
        options = found.within(budget)
        assert sum(row[option] for row, option in zip(damages, options, strict=True)) == best[: budget + 1].min()


@pytest.mark.parametrize(
    ("damages", "costs", "message"),
    [
        ([[1.0]], [[1.0, 2.0]], r"\[1\].*\[2\]"),
        ([[]], [[]], "at least one"),
        ([[1.0], [1.0]], [[1.0]], "the same"),
        ([[float("nan")]], [[1.0]], "nan is not finite|not finite"),
    ],
)
def test_tables_that_are_no_knapsack_are_refused(damages, costs, message):
    with pytest.raises(ShapeError, match=message):
        solve(damages, costs, 1.0)
