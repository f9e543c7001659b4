"""Integrated gradients, against their axioms and a fine sum."""

import copy

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from nas.attribution import attribution_agreement, attributions, explained_rows
from nas.data.tokens import Tokens
from search_spaces.errors import ShapeError
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder

PAD = 0


@pytest.fixture(scope="module")
def model() -> TextEncoder:
    torch.manual_seed(0)
    config = EncoderConfig(
        "bert", 40, 32, 2, 16, 16, 0, 8, (2, 2), (24, 24), "gelu", "tanh", 1e-12, 0.0, PAD, 0, ("no", "yes")
    )
    made = TextEncoder(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(2.5)  # so that the model is not nearly linear
    return made


def rows(lengths: list[int]) -> Tokens:
    rng = np.random.default_rng(0)
    ids = np.concatenate([[2, *rng.integers(4, 40, n - 2), 3] for n in lengths]).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Tokens(ids, np.zeros(len(ids), np.uint8), offsets, np.zeros(len(lengths), np.int64))


def margin(model: TextEncoder, ids: torch.Tensor, target: int) -> float:
    with torch.no_grad():
        logits = model(ids)[0]
    return float(logits[target] - logits.mean())


def test_attributions_add_up_to_what_the_words_change(model: TextEncoder) -> None:
    tokens, targets = rows([7, 12]), np.array([1, 0])
    for i, found in enumerate(attributions(model, tokens, targets, PAD)):
        ids = tokens.collate(np.array([i])).input_ids
        empty = ids.clone()
        empty[:, 1:-1] = PAD
        change = margin(model, ids, int(targets[i])) - margin(model, empty, int(targets[i]))
        assert found.sum() == pytest.approx(change, rel=0.02, abs=1e-3)  # completeness, proposition 1 of the paper
        assert found[0] == found[-1] == 0


def test_a_word_that_the_model_cannot_see_gets_nothing(model: TextEncoder) -> None:
    blind = copy.deepcopy(model)
    tokens = rows([6])
    with torch.no_grad():
        blind.embeddings.word.weight[tokens.ids[2]] = blind.embeddings.word.weight[PAD]
    found = attributions(blind, tokens, np.array([0]), PAD)[0]
    assert found[2] == pytest.approx(0, abs=1e-7)
    assert np.abs(found[[1, 3, 4]]).min() > 1e-6


def test_explaining_leaves_the_model_as_it_was(model: TextEncoder) -> None:
    tokens = rows([6])
    batch = tokens.collate(np.array([0]))
    before = model(*batch).detach().clone()
    attributions(model, tokens, np.array([0]), PAD)
    assert torch.equal(model(*batch), before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_agreement_is_the_mean_rank_correlation_of_the_words() -> None:
    rng = np.random.default_rng(1)
    teacher, student = ([rng.normal(size=n) for n in (6, 9)] for _ in range(2))
    expected = np.mean([spearmanr(a[1:-1], b[1:-1]).statistic for a, b in zip(student, teacher, strict=True)])
    assert attribution_agreement(student, teacher) == pytest.approx(expected)
    assert attribution_agreement(teacher, teacher) == 1.0
    assert attribution_agreement([-row for row in teacher], teacher) == pytest.approx(-1.0)
    assert attribution_agreement([np.zeros(6), np.zeros(9)], teacher) == 0.0


def test_rows_too_short_to_rank_are_not_explained() -> None:
    tokens = rows([3, 8, 4, 5, 9, 7])
    assert list(explained_rows(tokens, 0)) == [1, 3, 4, 5]
    assert set(explained_rows(tokens, 0, n_rows=2)) < {1, 3, 4, 5}


def test_rows_that_do_not_belong_together_are_refused(model: TextEncoder) -> None:
    with pytest.raises(ShapeError, match="2 targets for 1 rows"):
        attributions(model, rows([6]), np.array([0, 1]), PAD)
    with pytest.raises(ShapeError, match="1 rows beside 2"):
        attribution_agreement([np.zeros(5)], [np.zeros(5), np.zeros(5)])
