import copy
import itertools
import json
import math
import pickle

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.dimensions import Choice, Float, Integer
from search_spaces.errors import ConfigError
from search_spaces.seeding import rng_for
from search_spaces.space import Condition, Space

ENCODER = Space(
    {
        "hidden": Choice((192, 384), ordered=True),
        "keep_1": Choice((False, True)),
        "ffn_1": Choice((384, 768, 1536), ordered=True),
        "heads_1": Integer(2, 12, 2),
    },
    {"ffn_1": Condition("keep_1", (True,)), "heads_1": Condition("keep_1", (True,))},
)
SHALLOW = {"hidden": 384, "keep_1": False}
DEEP = {"hidden": 384, "keep_1": True, "ffn_1": 768, "heads_1": 6}

seeds = st.integers(0, 2**31)
finite = st.one_of(
    st.lists(st.sampled_from([False, 7, 2.5, "a"]), min_size=1, max_size=3, unique=True).map(
        lambda v: Choice(tuple(v))
    ),
    st.builds(lambda low, span: Integer(low, low + span), st.integers(0, 2), st.integers(0, 2)),
)
mixed = st.one_of(finite, st.just(Float(0.5, 2.0, log=True)))


@st.composite
def spaces(draw, dimension=mixed):
    """Random forests of up to five genes; a parent may come before or after its children."""
    made = [(f"g{number}", draw(dimension)) for number in range(draw(st.integers(1, 5)))]
    conditions = {}
    for number, (gene, _) in enumerate(made[1:], start=1):
        parent, values = made[draw(st.integers(0, number - 1))]
        if draw(st.booleans()):
            told = draw(st.sets(st.sampled_from(list(values.values)), max_size=3))
            conditions[gene] = Condition(parent, tuple(told))
    return Space(dict(draw(st.permutations(made))), conditions)


def everything(space):
    """All canonical forms, found by trying every combination of all genes."""
    products = itertools.product(*(dimension.values for dimension in space.dimensions.values()))
    combinations = [dict(zip(space.names, values, strict=True)) for values in products]
    return {space.key(genes): space.canonical(genes) for genes in combinations}


def test_inactive_genes_are_left_out():
    assert ENCODER.canonical({**DEEP, "keep_1": False}) == SHALLOW
    assert ENCODER.active(SHALLOW) == ("hidden", "keep_1")


def test_values_of_inactive_genes_are_not_read():
    assert ENCODER.canonical({**SHALLOW, "ffn_1": 4000}) == SHALLOW


def test_the_canonical_form_is_in_space_order_and_in_declared_types():
    genes = ENCODER.canonical({"heads_1": 6, "ffn_1": 768.0, "keep_1": True, "hidden": 384})
    assert json.dumps(genes) == '{"hidden": 384, "keep_1": true, "ffn_1": 768, "heads_1": 6}'


def test_a_gene_under_an_inactive_gene_is_inactive_too():
    chain = Space(
        {"c": Choice((1, 2)), "b": Choice((1, 2)), "a": Choice((1, 2))},
        {"c": Condition("b", (2,)), "b": Condition("a", (2,))},
    )
    assert chain.canonical({"a": 1, "b": 2, "c": 2}) == {"a": 1}
    assert chain.active({"a": 2, "b": 2, "c": 1}) == ("c", "b", "a")
    assert chain.size == 4


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        ({**DEEP, "ffn_1": 4000}, r"^space\.ffn_1: 4000 is not a choice; choose one of 384, 768, 1536\.$"),
        (
            {**DEEP, "heads_1": 3},
            r"^space\.heads_1: 3 is not a choice; choose an integer from 2 to 12 in steps of 2\.$",
        ),
        ({**DEEP, "keep_1": 1}, r"^space\.keep_1: 1 is not a choice; choose one of False, True\.$"),
        ({"hidden": 384, "keep_1": True, "heads_1": 2}, r"^space\.ffn_1: has no value; choose one of 384"),
        ({**DEEP, "hiden": 384}, r"^space: 'hiden' is unknown; known: hidden, keep_1.*Did you mean 'hidden'\?$"),
    ],
)
def test_wrong_genes_are_refused_in_one_line(genes, message):
    with pytest.raises(ConfigError, match=message):
        ENCODER.canonical(genes)


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"c": Condition("a", (1,))}, "condition: 'c' is unknown; known: a, b"),
        ({"a": Condition("c", (1,))}, "space.a condition: 'c' is unknown; known: a, b"),
        ({"b": Condition("a", (5,))}, "space.b condition on a: 5 never occurs; choose one of 1, 2"),
        ({"b": Condition("a", (True,))}, "True never occurs"),
        ({"a": Condition("a", (1,))}, "depends on itself, a -> a"),
        ({"a": Condition("b", (1,)), "b": Condition("a", (1,))}, "depends on itself, a -> b -> a"),
    ],
)
def test_conditions_that_make_no_sense_are_refused(conditions, message):
    with pytest.raises(ConfigError, match=message):
        Space({"a": Choice((1, 2)), "b": Choice((1, 2))}, conditions)


def test_a_complete_candidate_has_inactive_genes_at_their_default():
    assert ENCODER.complete(SHALLOW) == {"hidden": 384, "keep_1": False, "ffn_1": 384, "heads_1": 2}


def test_equal_students_have_equal_keys_and_different_ones_different_keys():
    assert ENCODER.key({**DEEP, "keep_1": False}) == ENCODER.key(SHALLOW)
    assert ENCODER.key({**DEEP, "ffn_1": 768.0}) == ENCODER.key(DEEP)
    assert ENCODER.key({**DEEP, "ffn_1": 384}) != ENCODER.key(DEEP)


def test_keys_stay_the_same_between_versions_of_the_library():
    assert ENCODER.key(DEEP) == "f0243ac23042"


def test_the_size_counts_distinct_students():
    assert ENCODER.size == 2 * (1 + 3 * 6)
    assert Space({}).size == 1
    assert Space({"lr": Float(0.1, 1)}).size == math.inf


def test_a_very_large_space_is_counted_exactly():
    layers = {f"keep_{layer}": Choice((False, True)) for layer in range(200)}
    widths = {f"ffn_{layer}": Integer(1, 10**6) for layer in range(200)}
    conditions = {f"ffn_{layer}": Condition(f"keep_{layer}", (True,)) for layer in range(200)}
    assert Space(layers | widths, conditions).size == (10**6 + 1) ** 200


def test_a_crossover_takes_every_gene_from_a_parent():
    children = [ENCODER.crossover(SHALLOW, {**DEEP, "hidden": 192}, rng_for(0, draw)) for draw in range(50)]
    assert {child["hidden"] for child in children} == {192, 384}
    assert {child["keep_1"] for child in children} == {False, True}
    assert all(child["ffn_1"] == 768 for child in children if child["keep_1"])


@pytest.mark.parametrize("options", [{"max_step": 0}, {"rate": -0.1}, {"rate": 1.5}])
def test_mutation_settings_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match="max_step >= 1"):
        ENCODER.mutate(DEEP, rng_for(0), **options)


def test_mutation_does_not_change_its_argument():
    genes = dict(DEEP)
    ENCODER.mutate(genes, rng_for(0), rate=1.0)
    assert genes == DEEP


def test_a_rate_of_one_moves_every_free_gene():
    frozen = ENCODER.restricted({"keep_1": [True]})
    child = frozen.mutate(DEEP, rng_for(0), rate=1.0)
    assert [gene for gene in frozen.names if child[gene] != DEEP[gene]] == ["hidden", "ffn_1", "heads_1"]


def test_an_inactive_gene_is_encoded_as_zeros_and_said_to_be_inactive():
    assert ENCODER.columns == (
        "hidden", "keep_1=False", "keep_1=True", "ffn_1?", "ffn_1", "heads_1?", "heads_1",
    )  # fmt: skip
    assert ENCODER.encode(SHALLOW).tolist() == [1, 1, 0, 0, 0, 0, 0]
    assert ENCODER.encode({**DEEP, "ffn_1": 384}).tolist() == [1, 0, 1, 1, 0, 1, 0.4]


def test_optuna_searches_the_flat_space():
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=2))
    for _ in range(5):
        trial = study.ask(ENCODER.distributions())
        study.tell(trial, len(ENCODER.canonical(trial.params)))
    assert set(study.trials[0].params) == set(ENCODER.names)


def test_a_prefix_goes_to_genes_and_conditions():
    space = ENCODER.prefixed("student")
    assert space.names[0] == "student.hidden"
    assert space.conditions["student.ffn_1"].parent == "student.keep_1"
    assert space.size == ENCODER.size


def test_joined_spaces_multiply():
    knobs = Space({"enabled": Choice((False, True))})
    joined = ENCODER.joined(knobs.prefixed("int8"), knobs.prefixed("pruning"))
    assert joined.names == (*ENCODER.names, "int8.enabled", "pruning.enabled")
    assert joined.size == 4 * ENCODER.size


def test_spaces_that_share_a_gene_are_not_joined():
    with pytest.raises(ConfigError, match=r"space\.hidden: is in two joined spaces"):
        ENCODER.joined(ENCODER)


def test_a_restriction_keeps_all_genes_and_their_order():
    space = ENCODER.restricted({"ffn_1": [1536, 384], "heads_1": [4], "hidden": [192]})
    assert space.names == ENCODER.names
    assert space.dimensions["ffn_1"] == Choice((384, 1536), ordered=True)
    assert space.size == 1 + 2


def test_a_gene_that_can_no_longer_be_active_stays_and_does_not_count():
    space = ENCODER.restricted({"keep_1": [False]})
    assert space.names == ENCODER.names
    assert space.size == 2
    assert space.canonical(DEEP | {"keep_1": False}) == SHALLOW


def test_a_continuum_is_restricted_to_a_few_values():
    space = Space({"lr": Float(1e-4, 1, log=True)}).restricted({"lr": [0.1, 0.01]})
    assert space.dimensions["lr"] == Choice((0.01, 0.1), ordered=True)


@pytest.mark.parametrize(
    ("allowed", "message"),
    [
        ({"hidden": [500]}, r"space\.hidden: 500 is not a choice; choose one of 192, 384"),
        ({"hidden": []}, r"space\.hidden: \[\] leaves no value; choose one of 192, 384"),
        ({"width": [1]}, "'width' is unknown"),
    ],
)
def test_a_restriction_to_nothing_known_is_refused(allowed, message):
    with pytest.raises(ConfigError, match=message):
        ENCODER.restricted(allowed)


def test_binding_a_gene_decides_the_genes_under_it():
    assert ENCODER.without({"keep_1": False}).names == ("hidden",)
    kept = ENCODER.without({"keep_1": True, "heads_1": 4})
    assert kept.names == ("hidden", "ffn_1")
    assert not kept.conditions


def test_binding_the_middle_of_a_chain_hands_its_condition_down():
    genes = {"c": Choice((1, 2)), "b": Choice((1, 2)), "a": Choice((1, 2))}
    chain = Space(genes, {"c": Condition("b", (2,)), "b": Condition("a", (2,))})
    assert dict(chain.without({"b": 2}).conditions) == {"c": Condition("a", (2,))}
    assert chain.without({"b": 1}).names == ("a",)
    assert chain.without({"a": 1, "b": 2}).names == ()


def test_binding_an_unknown_gene_or_value_is_refused():
    with pytest.raises(ConfigError, match="'keep_2' is unknown"):
        ENCODER.without({"keep_2": True})
    with pytest.raises(ConfigError, match="0 is not a choice"):
        ENCODER.without({"keep_1": 0})


def test_a_space_cannot_be_changed_through_its_views():
    with pytest.raises(TypeError, match="item assignment"):
        ENCODER.dimensions["new"] = Choice((1,))  # type: ignore[index]


def test_copies_are_equal_and_other_spaces_are_not():
    assert pickle.loads(pickle.dumps(ENCODER)) == copy.deepcopy(ENCODER) == ENCODER
    assert len({ENCODER, Space(ENCODER.dimensions, ENCODER.conditions), ENCODER.prefixed("x")}) == 2
    assert Space({"a": Choice((1, 2))}) != Space({"a": Choice((1.0, 2.0))})
    assert ENCODER != "a space"


def test_a_space_says_what_it_is():
    assert repr(ENCODER) == "<Space of 4 genes, 38 candidates: hidden, keep_1, ffn_1, heads_1>"


@given(spaces())
def test_json_brings_back_an_equal_space(space):
    again = Space.from_json(json.loads(json.dumps(space.to_json())))
    assert again == space
    assert again.fingerprint == space.fingerprint


@given(spaces(finite))
def test_the_size_is_what_counting_by_hand_gives(space):
    assert space.size == len(everything(space))


@given(spaces(), seeds)
def test_the_canonical_form_is_its_own_canonical_form(space, seed):
    genes = space.sample(rng_for(seed))
    assert space.canonical(genes) == genes
    assert space.canonical(space.complete(genes)) == genes
    assert space.key(space.complete(genes)) == space.key(genes)


@given(spaces(), seeds, st.one_of(st.none(), st.floats(0, 1)), st.integers(1, 3))
def test_a_mutant_is_a_different_valid_student_where_there_is_one(space, seed, rate, max_step):
    genes = space.sample(rng_for(seed, "parent"))
    mutant = space.mutate(genes, rng_for(seed, "mutant"), rate, max_step)
    assert space.canonical(mutant) == mutant
    assert (space.key(mutant) != space.key(genes)) == (space.size > 1)
    assert mutant == space.mutate(space.complete(genes), rng_for(seed, "mutant"), rate, max_step)


@given(spaces(), seeds)
def test_a_child_is_valid_and_made_of_its_parents(space, seed):
    a, b = (space.sample(rng_for(seed, who)) for who in "ab")
    child = space.crossover(a, b, rng_for(seed, "child"))
    assert space.canonical(child) == child
    assert all(value in {parent[gene] for parent in (a, b) if gene in parent} for gene, value in child.items())


@given(spaces(), seeds)
def test_codes_are_numbers_between_zero_and_one(space, seed):
    code = space.encode(space.sample(rng_for(seed)))
    assert code.dtype == np.float64
    assert code.shape == (len(space.columns),)
    assert ((code >= 0) & (code <= 1)).all()


@given(spaces(finite))
def test_different_students_have_different_codes(space):
    students = everything(space).values()
    assert len({tuple(space.encode(genes)) for genes in students}) == len(students)


@given(spaces(finite), seeds)
def test_binding_a_gene_keeps_exactly_the_students_that_have_its_value(space, seed):
    gene = space.names[int(rng_for(seed).integers(len(space.names)))]
    value = space.dimensions[gene].sample(rng_for(seed))
    bound = space.without({gene: value})
    found = {space.key({**genes, gene: value}) for genes in everything(bound).values()}
    assert found == {key for key, genes in everything(space).items() if genes.get(gene, value) == value}
    assert bound.size == len(found)
