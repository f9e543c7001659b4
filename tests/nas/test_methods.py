"""What every row of the table of methods keeps to."""

import subprocess
import sys

import pytest

from compressors.steps import Step
from nas.comparison import choose, steps_of
from nas.methods import METHODS, SEARCHED, TEACHER, Method
from search_spaces.errors import ConfigError


@pytest.mark.parametrize("name", list(METHODS))
def test_its_steps_are_known_and_in_a_possible_order(name: str) -> None:
    steps = steps_of(METHODS[name], n_layers=6)
    assert bool(steps) == (name not in (TEACHER, *SEARCHED))
    assert all(Step.parse(str(step)) == step for step in steps)


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_it_says_what_it_is_and_where_it_is_from(method: Method) -> None:
    assert METHODS[method.name] is method
    assert 0 < len(method.title) <= 80
    assert not method.title.endswith(".")
    assert "https://" in method.source or method.name in (TEACHER, *SEARCHED)
    assert method.lr is None or 0 < method.lr < 1


def test_no_two_methods_do_the_same() -> None:
    recipes = [method.steps for method in METHODS.values() if method.steps]
    assert len(set(recipes)) == len(recipes)


def test_a_magnitude_method_zeroes_the_share_in_its_name() -> None:
    for percent in (50, 80, 90):
        pruning = steps_of(METHODS[f"magnitude_{percent}"], n_layers=6)[-1]
        assert pruning.knobs["sparsity"] == percent / 100


@pytest.mark.parametrize(("n_layers", "half"), [(6, 3), (3, 1), (1, 1)])
def test_half_of_the_layers_are_those_of_the_teacher(n_layers: int, half: int) -> None:
    assert steps_of(METHODS["distilbert"], n_layers)[0].knobs["keep"] == half


def test_methods_are_chosen_in_the_order_of_the_table_and_the_teacher_is_always_there() -> None:
    assert choose(["magnitude_50", "ptq_dynamic"]) == (TEACHER, "ptq_dynamic", "magnitude_50")
    assert choose([]) == tuple(METHODS)


def test_an_unknown_method_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'magnitude_5' is unknown; known: teacher, .*Did you mean 'magnitude_50'"):
        choose(["magnitude_5"])


def test_steps_in_an_impossible_order_are_refused() -> None:
    with pytest.raises(ConfigError, match="'distillation' cannot follow 'int8'"):
        steps_of(Method("wrong", "", "", ("int8", "distillation")), n_layers=6)


def test_the_table_is_read_without_torch() -> None:
    program = "import sys, nas.methods; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "False"
