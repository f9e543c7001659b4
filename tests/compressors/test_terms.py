import math

import numpy as np
import pytest
import torch

from compressors.terms import (
    attention_distance,
    contrastive_loss,
    cosine_distance,
    relation_divergence,
    relation_heads,
    scaled_products,
    similarity_distance,
    token_distance,
)

MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])
OF_TOKENS = [token_distance, cosine_distance]
OF_PAIRS = [attention_distance, relation_divergence]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_token_distance_is_the_mean_square_over_real_tokens():
    student = torch.zeros(1, 3, 2)
    teacher = torch.tensor([[[1.0, 1.0], [3.0, 0.0], [100.0, 100.0]]])
    assert token_distance(student, teacher, MASK[:1]).item() == pytest.approx((1 + 1 + 9 + 0) / 4)


def test_the_cosine_distance_of_opposite_and_of_square_vectors_is_two_and_one():
    student = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 9.0]]])
    teacher = torch.tensor([[[-5.0, 0.0], [0.0, 2.0], [0.0, -1.0]]])
    assert cosine_distance(student, teacher, MASK[:1]).item() == pytest.approx((2 + 1) / 2)


def test_scaled_products_are_those_of_the_heads_one_by_one():
    queries, keys = noise(2, 3, 8), noise(2, 3, 8, seed=1)
    found = scaled_products(queries, keys, 2)
    assert found.shape == (2, 2, 3, 3)
    expected = queries[1, 2, 4:] @ keys[1, 0, 4:] / math.sqrt(4)
    assert found[1, 1, 2, 0].item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_attention_distance_is_the_mean_square_over_heads_and_real_pairs():
    teacher = torch.zeros(1, 2, 3, 3)
    student = torch.zeros(1, 2, 3, 3)
    student[0, 0, 0, 1], student[0, 1, 1, 1], student[0, 1, 2, 0], student[0, 0, 1, 2] = 2.0, 1.0, 50.0, 50.0
    assert attention_distance(student, teacher, MASK[:1]).item() == pytest.approx((4 + 1) / (2 * 4))


def test_with_other_numbers_of_heads_the_means_of_the_heads_are_compared():
    student, teacher = noise(2, 2, 3, 3), noise(2, 4, 3, 3, seed=1)
    expected = attention_distance(student.mean(1, keepdim=True), teacher.mean(1, keepdim=True), MASK)
    assert torch.equal(attention_distance(student, teacher, MASK), expected)
    assert attention_distance(student.repeat(1, 2, 1, 1), student, MASK).item() == pytest.approx(0, abs=1e-9)


def test_the_relation_divergence_is_the_formula_written_out():
    student, teacher = noise(2, 2, 3, 3), noise(2, 2, 3, 3, seed=1)
    values = []
    for row, n in ((0, 2), (1, 3)):
        for token in range(n):
            for head in range(2):
                p, q = (np.exp(x[row, head, token, :n].numpy().astype(float)) for x in (teacher, student))
                p, q = p / p.sum(), q / q.sum()
                values.append((p * np.log(p / q)).sum())
    assert relation_divergence(student, teacher, MASK).item() == pytest.approx(np.mean(values), rel=1e-5)


@pytest.mark.parametrize(("student", "teacher", "heads"), [(12, 12, 12), (8, 12, 4), (5, 12, 1)])
def test_relations_are_cut_into_groups_of_whole_heads_of_both(student, teacher, heads):
    assert relation_heads(student, teacher) == heads


def test_the_similarity_distance_is_the_formula_written_out():
    student, teacher = noise(4, 3), noise(4, 5, seed=1)
    grams = [x.numpy() @ x.numpy().T for x in (student, teacher)]
    grams = [gram / np.sqrt((gram**2).sum(1, keepdims=True)) for gram in grams]
    expected = ((grams[0] - grams[1]) ** 2).sum() / 4**2
    assert similarity_distance(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_similarity_does_not_see_rotation_and_size_but_sees_other_neighbours():
    states = noise(5, 4)
    rotation = torch.linalg.qr(noise(4, 4, seed=1)).Q
    assert similarity_distance(3 * states @ rotation, states).item() == pytest.approx(0, abs=1e-9)
    assert similarity_distance(states.flip(0), states).item() > 0.01


def test_the_contrastive_loss_is_the_formula_written_out():
    student, teacher = noise(4, 3), noise(4, 3, seed=1)
    said, goal = (x.numpy().astype(float) for x in (student, teacher))
    values = []
    for row in range(4):
        cosines = [said[row] @ t / np.linalg.norm(said[row]) / np.linalg.norm(t) for t in goal]
        odds = np.exp(np.array(cosines) / 0.07)
        values.append(-np.log(odds[row] / odds.sum()))
    assert contrastive_loss(student, teacher).item() == pytest.approx(np.mean(values), rel=1e-5)


def test_the_contrastive_loss_of_vectors_that_say_nothing_is_the_logarithm_of_the_rows():
    teacher = noise(5, 8)
    assert contrastive_loss(torch.ones(5, 8), torch.ones(5, 8)).item() == pytest.approx(math.log(5), rel=1e-5)
    assert contrastive_loss(7 * teacher, teacher).item() < 0.1
    assert contrastive_loss(teacher.roll(1, 0), teacher).item() > math.log(5)
    assert contrastive_loss(noise(1, 8, seed=1), noise(1, 8)).item() == 0


@pytest.mark.parametrize("term", OF_TOKENS)
def test_a_term_of_tokens_is_zero_for_equals_and_above_for_others(term):
    states = noise(2, 3, 4)
    assert term(states, states, MASK).item() == pytest.approx(0, abs=1e-6)
    assert term(states, noise(2, 3, 4, seed=1), MASK).item() > 0.1


@pytest.mark.parametrize("term", OF_PAIRS)
def test_a_term_of_pairs_is_zero_for_equals_and_above_for_others(term):
    scores = noise(2, 2, 3, 3)
    assert term(scores, scores, MASK).item() == pytest.approx(0, abs=1e-6)
    assert term(scores, noise(2, 2, 3, 3, seed=1), MASK).item() > 0.1


@pytest.mark.parametrize("term", OF_TOKENS)
def test_padding_changes_neither_a_term_of_tokens_nor_its_gradient(term):
    teacher, clean = noise(2, 3, 4), noise(2, 3, 4, seed=1)
    dirty = clean.clone()
    dirty[0, 2] = 1e6
    assert_alike(term, clean, dirty, teacher, lambda gradient: gradient[0, 2])


@pytest.mark.parametrize("term", OF_PAIRS)
def test_padding_changes_neither_a_term_of_pairs_nor_its_gradient(term):
    teacher, clean = noise(2, 2, 3, 3), noise(2, 2, 3, 3, seed=1)
    dirty = clean.clone()
    dirty[0, :, 2, :], dirty[0, :, :, 2] = 1e6, -1e6
    assert_alike(term, clean, dirty, teacher, lambda gradient: gradient[0, :, :, 2])


def assert_alike(term, clean, dirty, teacher, padding):
    """A value in the padding has no influence on the term and learns nothing."""
    values, gradients = [], []
    for student in (clean, dirty):
        leaf = student.clone().requires_grad_()
        value = term(leaf, teacher, MASK)
        value.backward()
        values.append(value.item())
        gradients.append(leaf.grad)
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    assert torch.allclose(*gradients)
    assert not padding(gradients[1]).any()
