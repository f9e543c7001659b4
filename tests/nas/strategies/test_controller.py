import itertools
import math

import numpy as np
import pytest
import torch

from nas.strategies.controller import Controller, Places
from search_spaces.dimensions import Choice, Float, Integer
from search_spaces.space import Condition, Space

SPACE = Space(
    {
        "heads": Choice((2, 4, 8), ordered=True),  # named before the gene it depends on
        "kind": Choice(("conv", "attention", "none")),
        "scale": Choice((0.5, 1.0)),
        "depth": Integer(1, 3),
        "residual": Choice((False, True)),
    },
    {
        "heads": Condition("kind", ("attention",)),
        "scale": Condition("heads", (4, 8)),
        "residual": Condition("depth", (2, 3)),
    },
)


def controller(space: Space = SPACE, seed: int = 0, spread: float = 3.0) -> Controller:
    """A policy far from uniform, in double precision."""
    made = Controller(space, 2, 8, seed).double()
    with torch.no_grad():
        made.heads.mul_(spread / 0.01)
        made.biases.mul_(spread / 0.01)
    return made


def context(n: int) -> torch.Tensor:
    return torch.tensor([[0.3, 0.7]], dtype=torch.float64).expand(n, -1)


def every_candidate(space: Space) -> list[dict]:
    values = itertools.product(*(space.dimensions[gene].values for gene in space.names))
    complete = [dict(zip(space.names, chosen, strict=True)) for chosen in values]
    return list({space.key(genes): space.canonical(genes) for genes in complete}.values())


def test_the_probabilities_of_all_canonical_candidates_sum_to_one():
    candidates = every_candidate(SPACE)
    assert len(candidates) == SPACE.size == (2 + 1 + 2 * 2) * (1 + 2 * 2)
    policy = controller()
    log_p, _ = policy.evaluate(policy.encode(candidates), context(len(candidates)))
    assert log_p.exp().sum().item() == pytest.approx(1.0, abs=1e-12)
    assert log_p.exp().max() > 5 * log_p.exp().min()


def test_candidates_are_drawn_as_often_as_their_probability_says():
    candidates, policy, n = every_candidate(SPACE), controller(), 40_000
    p = policy.evaluate(policy.encode(candidates), context(len(candidates)))[0].exp().detach().numpy()
    rows = policy.sample(context(n), np.ones(n), np.random.default_rng(0))
    places = {tuple(row): i for i, row in enumerate(policy.encode(candidates).tolist())}
    counts = np.bincount([places[tuple(row)] for row in rows.tolist()], minlength=len(candidates))
    assert (np.abs(counts - n * p) < 4.5 * np.sqrt(n * p * (1 - p)) + 1).all()


def test_inactive_genes_add_neither_log_probability_nor_entropy():
    policy = controller(Space({"on": Choice((False, True)), "rate": Integer(1, 5)}, {"rate": Condition("on", (True,))}))
    rows = policy.encode([{"on": False}, {"on": True, "rate": 2}])
    assert rows.tolist() == [[0, -1], [1, 1]]
    log_p, entropy = policy.evaluate(rows, context(2))
    p_off = log_p[0].exp().item()
    binary = -p_off * math.log(p_off) - (1 - p_off) * math.log(1 - p_off)
    assert entropy[0].item() == pytest.approx(binary)
    assert entropy[1].item() > binary


def test_the_mean_entropy_of_drawn_candidates_is_that_of_the_policy():
    candidates, policy = every_candidate(SPACE), controller()
    log_p, entropy = policy.evaluate(policy.encode(candidates), context(len(candidates)))
    assert (log_p.exp() * entropy).sum().item() == pytest.approx(-(log_p.exp() * log_p).sum().item())


def test_a_gene_depends_on_those_before_it_and_on_the_preference():
    space = Space({"a": Choice((0, 1)), "b": Choice((0, 1))})
    policy = controller(space)
    rows = policy.encode([{"a": a, "b": b} for a in (0, 1) for b in (0, 1)])
    p = policy.evaluate(rows, context(4))[0].exp().reshape(2, 2)
    assert abs(p[0, 0] / p[0].sum() - p[1, 0] / p[1].sum()) > 0.01
    other = policy.evaluate(rows, context(4).flip(1))[0].exp()
    assert (other - p.flatten()).abs().max() > 0.01


def test_a_new_policy_is_almost_uniform_and_the_seed_decides_it():
    rows = Controller(SPACE, 2, 16, 0).encode(every_candidate(SPACE))
    wanted = context(len(rows)).float()
    log_p, _ = Controller(SPACE, 2, 16, 0).evaluate(rows, wanted)
    uniform = torch.tensor([[-math.log(n) for n in (3, 3, 2, 3, 2)]])[0]
    order = [SPACE.names.index(gene) for gene in SPACE.order]
    assert log_p.tolist() == pytest.approx(((rows >= 0) * uniform[order]).sum(1).tolist(), abs=0.2)
    assert torch.equal(Controller(SPACE, 2, 16, 0).evaluate(rows, wanted)[0], log_p)
    assert not torch.equal(Controller(SPACE, 2, 16, 1).evaluate(rows, wanted)[0], log_p)


def test_torchs_own_generator_is_left_alone():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    policy = Controller(SPACE, 2, 16, 0)
    policy.sample(context(4).float(), np.ones(4), np.random.default_rng(0))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_hot_policy_draws_more_different_candidates():
    policy = controller(spread=20.0)
    cold, hot = (policy.sample(context(300), np.full(300, t), np.random.default_rng(0)) for t in (1.0, 10.0))
    assert len(np.unique(hot, axis=0)) > len(np.unique(cold, axis=0))


@pytest.mark.parametrize(
    ("dimension", "n"),
    [
        (Choice(("a", "b", "c")), 3),
        (Choice((True, False)), 2),
        (Choice(tuple(range(40))), 40),
        (Choice(tuple(range(0, 400, 10)), ordered=True), 32),
        (Integer(1, 12), 12),
        (Integer(5, 1_000_005, 3), 32),
        (Float(-2.0, 3.0), 11),
        (Float(1e-5, 1e-1, log=True), 11),
        (Float(0.5, 0.5), 1),
    ],
)
def test_a_value_drawn_at_a_place_is_at_that_place_and_all_places_are_equally_wide(dimension, n):
    places, rng = Places(dimension), np.random.default_rng(0)
    assert len(places) == n
    for place in range(n):
        value = places.draw(place, rng)
        assert dimension.contains(value)
        assert type(value) is type(dimension.canonical(value))
        assert places.place(value) == place
    assert places.place(dimension.values[0]) == 0
    assert places.place(dimension.values[-1]) == n - 1
    drawn = np.bincount([places.place(dimension.sample(rng)) for _ in range(100 * n)], minlength=n)
    assert drawn.min() > 50


def test_a_parent_with_many_values_keeps_each_of_them():
    space = Space({"n": Integer(0, 99), "x": Choice((1, 2))}, {"x": Condition("n", (50,))})
    policy = controller(space)
    assert [len(places) for places in policy.places] == [100, 2]
    rows = policy.sample(context(2000), np.full(2000, 1e6), np.random.default_rng(0))
    assert ((rows[:, 1] >= 0) == (rows[:, 0] == 50)).all()
    assert (rows[:, 0] == 50).any()


def test_a_gene_under_one_number_of_a_continuum_does_no_harm():
    space = Space({"p": Float(0.0, 1.0), "x": Choice((1, 2))}, {"x": Condition("p", (0.0,))})
    policy = controller(space)
    assert policy.encode([{"p": 0.0, "x": 2}, {"p": 0.5}]).tolist() == [[0, 1], [5, -1]]
    for row in policy.sample(context(20), np.ones(20), np.random.default_rng(0)):
        assert space.canonical(policy.decode(row, np.random.default_rng(1)))


def test_decoding_gives_canonical_candidates_and_encoding_gives_the_places_back():
    policy, rng = controller(), np.random.default_rng(0)
    for row in policy.sample(context(50), np.full(50, 5.0), rng):
        genes = policy.decode(row, rng)
        assert genes == SPACE.canonical(genes)
        assert list(genes) == list(SPACE.canonical(genes))
        assert policy.encode([genes])[0].tolist() == row.tolist()
