import dataclasses

import pytest

from search_spaces.errors import ConfigError
from search_spaces.families.encoder_shapes import spread
from search_spaces.families.text_encoder import TextEncoderFamily
from search_spaces.seeding import rng_for
from tests.search_spaces.families.test_encoder_model import CONFIG

FAMILY = TextEncoderFamily()
MINILM = dataclasses.replace(
    CONFIG, vocab_size=30522, n_positions=512, hidden=384, embedding=384, head_size=32, heads=(12,) * 6, ffn=(1536,) * 6
)
ELECTRA = dataclasses.replace(MINILM, model_type="electra", hidden=256, embedding=128, head_size=64, heads=(4,) * 6)
MODES = ["uniform", "per_layer"]


def test_the_uniform_space_of_minilm_is_as_large_as_counted_by_hand() -> None:
    space = FAMILY.space(MINILM, "uniform")
    assert space.dimensions["hidden"].values == (96, 192, 256, 320, 384)
    assert space.dimensions["ffn"].values == (128, 256, 512, 768, 1152, 1536)
    assert space.size == 2**5 * 5 * 6


def test_the_per_layer_space_of_minilm_is_as_large_as_counted_by_hand() -> None:
    assert FAMILY.space(MINILM, "per_layer").size == 4 * 3 * (4 * 6) * (1 + 4 * 6) ** 5


def test_every_uniform_student_fits_a_plain_model() -> None:
    space = FAMILY.space(MINILM, "uniform")
    for number in range(50):
        genes = space.sample(rng_for(number, "shape"))
        assert FAMILY.architecture(MINILM, genes, "uniform").config.is_uniform


@pytest.mark.parametrize("mode", MODES)
def test_a_search_begins_with_the_teacher_the_smallest_and_a_ladder_down(mode: str) -> None:
    shapes = [FAMILY.architecture(MINILM, genes, mode) for genes in FAMILY.warm_start(MINILM, mode)]
    macs = [FAMILY.macs(shape.config, 16) for shape in shapes]
    assert shapes[0].config == MINILM
    assert min(macs) == macs[1]
    assert macs[2:] == sorted(macs[2:], reverse=True)
    assert "3 layers (0,2,5), hidden 384, ffn 768" in [shape.describe() for shape in shapes]
    assert [shape.layers for shape in shapes[2:]] == [(0, 2, 3, 5), (0, 2, 5), (0, 5), (0,)]


@pytest.mark.parametrize("mode", MODES)
def test_a_teacher_of_one_layer_has_students_too(mode: str) -> None:
    small = dataclasses.replace(MINILM, heads=(12,), ffn=(1536,))
    for genes in FAMILY.warm_start(small, mode):
        assert FAMILY.architecture(small, genes, mode).layers == (0,)


def test_a_dropped_layer_has_no_genes_of_its_own() -> None:
    genes = FAMILY.warm_start(MINILM, "per_layer")[1]
    assert [gene for gene in genes if gene.startswith(("heads", "ffn"))] == ["heads_0", "ffn_0"]


def test_a_per_layer_student_is_described_layer_by_layer() -> None:
    genes = {**FAMILY.warm_start(MINILM, "per_layer")[4], "heads_5": 3, "ffn_5": 128, "embedding_rank": 64}
    described = FAMILY.architecture(MINILM, genes, "per_layer").describe()
    assert described == "2 layers (0,5), hidden 384, heads 12,3, ffn 512,128, rank 64"


def test_one_layer_is_not_called_layers() -> None:
    genes = FAMILY.warm_start(MINILM, "uniform")[1]
    assert FAMILY.architecture(MINILM, genes, "uniform").describe() == "1 layer (0), hidden 96, ffn 128"


def test_separate_tables_keep_their_width_and_their_projection() -> None:
    space = FAMILY.space(ELECTRA, "uniform")
    assert space.dimensions["hidden"].values == (64, 192, 256)
    smallest = FAMILY.architecture(ELECTRA, FAMILY.warm_start(ELECTRA, "uniform")[1], "uniform").config
    assert (smallest.hidden, smallest.embedding, smallest.heads) == (64, 128, (1,))


@pytest.mark.parametrize("teacher", [MINILM, ELECTRA], ids=["minilm", "electra"])
def test_ranks_are_below_every_width_and_the_last_is_the_full_table(teacher) -> None:
    space = FAMILY.space(teacher, "per_layer")
    *ranks, full = space.dimensions["embedding_rank"].values
    narrowest = min(teacher.embedding, *space.dimensions["hidden"].values) if teacher is MINILM else teacher.embedding
    assert full == 0
    assert ranks == sorted(ranks)
    assert 0 < ranks[0] <= ranks[-1] < narrowest


def test_a_missing_gene_and_a_wrong_value_are_named() -> None:
    genes = FAMILY.warm_start(MINILM, "uniform")[0]
    with pytest.raises(ConfigError, match=r"space.ffn: 4000"):
        FAMILY.architecture(MINILM, {**genes, "ffn": 4000}, "uniform")
    with pytest.raises(ConfigError, match="hidden"):
        FAMILY.architecture(MINILM, {gene: value for gene, value in genes.items() if gene != "hidden"}, "uniform")


def test_widening_keeps_layers_and_hidden_width_and_takes_all_heads_and_neurons() -> None:
    space = FAMILY.space(MINILM, "per_layer")
    narrow = FAMILY.architecture(MINILM, space.sample(rng_for(3, "shape")), "per_layer")
    wide = FAMILY.widen(narrow, MINILM)
    assert wide.layers == narrow.layers
    assert (wide.config.hidden, wide.config.embedding_rank) == (narrow.config.hidden, narrow.config.embedding_rank)
    assert set(wide.config.heads) == {12}
    assert set(wide.config.ffn) == {1536}


def test_layers_are_spread_evenly_with_first_and_last() -> None:
    assert [spread(n, 12) for n in (1, 2, 4)] == [(0,), (0, 11), (0, 4, 7, 11)]
    assert spread(6, 6) == (0, 1, 2, 3, 4, 5)
