import numpy as np
import pytest

from search_spaces.dimensions import Choice, Float, Integer
from search_spaces.rows import Rows
from search_spaces.space import Condition, Space

SPACE = Space(
    {
        "keep": Choice((False, True)),
        "heads": Choice((2, 4, 8), ordered=True),
        "kind": Choice(("relu", "gelu", "tanh")),
        "depth": Integer(2, 12, 2),
        "alpha": Float(0.1, 0.9),
        "rate": Float(1e-4, 1e-1, log=True),
        "deep": Integer(1, 3),
        "fixed": Choice((7,)),
        "point": Float(0.5, 0.5),
    },
    {"heads": Condition("keep", (True,)), "deep": Condition("heads", (4, 8)), "rate": Condition("kind", ("gelu",))},
)
ROWS = Rows(SPACE)


def candidates(n: int = 200) -> list[dict]:
    rng = np.random.default_rng(0)
    return [SPACE.sample(rng) for _ in range(n)]


def test_rows_and_candidates_turn_into_each_other():
    for genes in candidates():
        back = ROWS.genes(ROWS.of([genes])[0])
        assert list(back) == list(genes)
        assert back == pytest.approx(genes)


def test_the_code_is_that_of_the_space():
    some = candidates()
    np.testing.assert_allclose(ROWS.encode(ROWS.of(some)), np.stack([SPACE.encode(genes) for genes in some]))


def test_drawn_rows_are_canonical_and_uniform():
    rows = ROWS.sample(6000, np.random.default_rng(0))
    for row in rows[:300]:
        genes = ROWS.genes(row)
        assert list(SPACE.canonical(genes)) == list(genes)
    kept = rows[rows[:, 0] == 1]
    assert len(kept) / len(rows) == pytest.approx(0.5, abs=0.03)
    assert np.isnan(rows[rows[:, 0] == 0, 1]).all()
    shares = [np.mean(kept[:, 1] == place) for place in range(3)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.04)
    assert rows[:, 4].mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_a_child_differs_from_its_parent_by_allowed_steps(rate):
    parents = candidates()
    children = ROWS.mutate(ROWS.of(parents), np.random.default_rng(1), rate, max_step=1)
    n_moved = []
    for parent, row in zip(parents, children, strict=True):
        child = ROWS.genes(row)
        assert SPACE.canonical(child) == pytest.approx(child)
        moved = [gene for gene in SPACE.names if gene in parent and gene in child and child[gene] != parent[gene]]
        n_moved.append(len(moved))
        assert moved or list(child) != list(parent)
        if "depth" in moved:
            assert abs(child["depth"] - parent["depth"]) == 2
        if "alpha" in moved:
            assert 0 < abs(child["alpha"] - parent["alpha"]) <= 0.081
    assert np.mean(n_moved) < 1.1 if rate == 0 else np.mean(n_moved) > 1.1


def test_every_other_value_can_be_reached():
    parent = ROWS.of([{**candidates(1)[0], "kind": "gelu", "depth": 6}] * 3000)
    children = ROWS.mutate(parent, np.random.default_rng(2), 0.5, max_step=2)
    assert set(children[:, 2]) == {0, 1, 2}
    assert set(children[:, 3]) == {0, 1, 2, 3, 4}


def test_neighbours_are_one_step_away_and_complete():
    genes = {"keep": True, "heads": 4, "kind": "relu", "depth": 2, "alpha": 0.5, "deep": 2, "fixed": 7, "point": 0.5}
    found = [ROWS.genes(row) for row in ROWS.neighbours(ROWS.of([genes])[0], np.random.default_rng(0))]
    moves = [{gene for gene in SPACE.names if genes.get(gene) != child.get(gene)} for child in found]
    assert [child["depth"] for child in found if child["depth"] != 2] == [4]
    assert sorted(child["alpha"] for child in found if child["alpha"] != 0.5) == pytest.approx([0.42, 0.58])
    assert sorted(child["kind"] for child in found if child["kind"] != "relu") == ["gelu", "tanh"]
    assert sorted(child["heads"] for child in found if child.get("heads", 4) != 4) == [2, 8]
    assert {"keep", "heads", "deep"} in moves  # switching a gene off switches its children off
    assert {"kind", "rate"} in moves  # and on
    assert all(list(SPACE.canonical(child)) == list(child) for child in found)
    assert len(found) == 1 + 2 + 2 + 1 + 2 + 2


def test_a_childs_genes_come_from_its_parents():
    first, second = ROWS.of(candidates()), ROWS.of(candidates()[::-1])
    children = ROWS.cross(first, second, np.random.default_rng(3))
    for row, a, b in zip(children, first, second, strict=True):
        genes = ROWS.genes(row)
        assert list(SPACE.canonical(genes)) == list(genes)
        assert all(np.isnan(x) or x in (y, z) for x, y, z in zip(row, a, b, strict=True))


def test_a_space_without_genes_and_one_with_a_single_candidate_work():
    rng = np.random.default_rng(0)
    assert Rows(Space({})).encode(Rows(Space({})).sample(2, rng)).shape == (2, 0)
    alone = Rows(Space({"a": Choice((1,))}))
    assert alone.genes(alone.mutate(alone.sample(1, rng), rng, 1.0)[0]) == {"a": 1}


def test_no_row_has_more_neighbours_than_most():
    counts = [len(ROWS.neighbours(row, np.random.default_rng(0))) for row in ROWS.of(candidates())]
    assert 0.6 * ROWS.most_neighbours < max(counts) <= ROWS.most_neighbours == 13
