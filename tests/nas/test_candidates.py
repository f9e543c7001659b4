import numpy as np
import pytest

from nas.candidates import METHODS
from search_spaces.errors import ConfigError
from tests.nas.phases import N_TOKENS, candidates

FIRST = {"distillation": {"hidden": 0.0, "live": False}, "int8": {}}
SECOND = {"distillation": {"hidden": 0.0, "live": False}, "static_int8": {"exclude": ""}}
NAMES = ("distillation+int8", "distillation+static_int8")


def drawn(made, n=60):
    return [made.space.sample(np.random.default_rng(seed)) for seed in range(n)]


def test_one_list_needs_no_gene():
    assert METHODS not in candidates(compress=FIRST).space.dimensions


def test_a_gene_chooses_between_lists_of_methods():
    made = candidates(compress=FIRST, or_compress=[SECOND])
    assert made.space.dimensions[METHODS].values == NAMES
    for genes in drawn(made):
        expected = (FIRST, SECOND)[NAMES.index(genes[METHODS])]
        assert [step.name for step in made.steps(genes)] == list(expected)
    assert {genes[METHODS] for genes in drawn(made)} == set(NAMES)


def test_a_knob_counts_only_where_its_method_acts():
    made = candidates(compress=FIRST, or_compress=[SECOND])
    for genes in drawn(made):
        is_first = genes[METHODS] == NAMES[0]
        assert ("int8.enabled" in genes) == is_first
        assert ("static_int8.enabled" in genes) != is_first
        assert "distillation.alpha" in genes  # of both
        assert ("int8.per_channel" in genes) == (is_first and genes["int8.enabled"])


def test_methods_in_another_order_are_another_list():
    other = {"one_shot_pruning": {}, "distillation": {}}
    made = candidates(compress={"distillation": {}, "one_shot_pruning": {}}, or_compress=[other])
    orders = {tuple(step.name for step in made.steps(genes)) for genes in drawn(made)}
    assert orders == {("distillation", "one_shot_pruning"), ("one_shot_pruning", "distillation")}


def test_every_list_has_its_variants():
    made = candidates(compress=FIRST, or_compress=[SECOND])
    (whole, *_) = made.warm_start()
    names = [made.variant(genes) for genes in made.variants(whole)]
    assert len(set(names)) == len(names) == 5  # per channel or not in both, and float32
    assert "fp32" in names
    assert sum(name.startswith("static_int8") for name in names) == 2


def test_a_search_may_choose_the_bits_of_tables_while_matrices_stay_integers():
    tables = {"block": 32, "symmetric": True, "scope": "tables", "table_bits": 4, "exclude": ""}
    made = candidates(compress={"weights_4bit": tables, "int8": {"enabled": True, "per_channel": True}})
    assert [name for name in made.space.names if name not in made.shape_genes] == ["weights_4bit.enabled"]
    (whole, *_) = made.warm_start()
    assert [made.variant(genes) for genes in made.variants(whole)] == ["int8", "weights_4bit+int8"]


def test_the_first_candidates_are_of_the_first_list():
    made = candidates(compress=FIRST, or_compress=[SECOND])
    assert {genes[METHODS] for genes in made.warm_start()} == {NAMES[0]}


def test_what_is_known_of_a_candidate_is_of_its_own_list():
    made = candidates(compress={"low_rank": {}}, or_compress=[{"int8": {}}])
    (whole, *_) = made.warm_start()
    factored, plain = ({**made.space.complete(whole), METHODS: name} for name in ("low_rank", "int8"))
    costs = [made.known(made.space.canonical(genes), N_TOKENS).parameters for genes in (factored, plain)]
    assert costs[0] < costs[1]


def test_a_recipe_may_keep_some_of_the_lists():
    made = candidates(compress=FIRST, or_compress=[SECOND], space={"genes": {METHODS: [NAMES[1]]}})
    assert {genes[METHODS] for genes in drawn(made)} == {NAMES[1]}


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        ([FIRST], r"or_compress: distillation\+int8 stands in the recipe twice"),
        (
            [{"int8": {"per_channel": True}}],
            r"or_compress: int8 has .*True.* in int8 and \{\} before; give it the same",
        ),
        ([{"int9": {}}], "Did you mean 'int8'"),
        ([{"int8": {}, "distillation": {"hidden": 0.0, "live": False}}], "everything else comes before it"),
    ],
)
def test_lists_between_which_nothing_can_be_chosen_are_refused(lists, words):
    with pytest.raises(ConfigError, match=words):
        candidates(compress=FIRST, or_compress=lists)
