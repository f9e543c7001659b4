from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from compressors.answers import NOTHING, Need, ask
from compressors.distillation import Distillation
from compressors.live_terms import LIVE_TERMS, LiveTerms
from compressors.terms import (
    MASKED,
    attention_distance,
    contrastive_loss,
    relation_divergence,
    scaled_products,
    token_distance,
)
from search_spaces.errors import ConfigError, ShapeError, StateError
from search_spaces.families.attention import attend
from search_spaces.families.encoder_model import TextEncoder
from tests.compressors.encoders import encoder, texts

STUDENT = torch.tensor([[1.0, -0.5, 0.2], [0.3, 0.1, -2.0]])
TEACHER = torch.tensor([[2.0, -1.0, 0.0], [0.0, 1.0, -1.0]])
LABELS = torch.tensor([0, 1])


def test_the_loss_is_the_formula_written_out():
    value = float(Distillation(alpha=0.3, temperature=2.0).loss(STUDENT, TEACHER, LABELS))
    p, q = (np.exp(x.numpy() / 2) / np.exp(x.numpy() / 2).sum(1, keepdims=True) for x in (TEACHER, STUDENT))
    kl = (p * np.log(p / q)).sum(1).mean()
    probabilities = np.exp(STUDENT.numpy()) / np.exp(STUDENT.numpy()).sum(1, keepdims=True)
    ce = -np.log(probabilities[[0, 1], [0, 1]]).mean()
    assert value == pytest.approx(0.3 * ce + 0.7 * 4 * kl, rel=1e-5)


def test_imitating_oneself_costs_nothing():
    assert float(Distillation(alpha=0.0).loss(TEACHER, TEACHER, LABELS)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_rows_of_several_teachers_in_one_batch_cost_what_they_cost_apart(alpha):
    loss = Distillation(alpha=alpha)
    parts = ((slice(0, 2), TEACHER[:, :2], LABELS), (slice(2, 5), TEACHER.flip(1), 1 + LABELS))
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = torch.full((4, 5), MASKED)
    apart = []
    for i, (columns, teacher, labels) in enumerate(parts):
        rows = slice(2 * i, 2 * i + 2)
        target[rows, columns] = teacher
        apart.append(loss.loss(logits[rows, columns], teacher, labels))
    together = loss.loss(logits, target, torch.cat([labels + part.start for part, _, labels in parts]))
    assert together.item() == pytest.approx(torch.stack(apart).mean().item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(together, logits)
    assert not gradient[:2, 2:].any()
    assert not gradient[2:, :2].any()
    assert gradient[:2, :2].any()
    assert gradient[2:, 2:].any()


def test_without_a_teacher_only_the_labels_count():
    expected = float(F.cross_entropy(STUDENT, LABELS))
    assert float(Distillation(alpha=0.1).loss(STUDENT, None, LABELS)) == pytest.approx(expected)
    assert float(Distillation(alpha=1.0).loss(STUDENT, TEACHER, LABELS)) == pytest.approx(expected)


@pytest.mark.parametrize(
    "knobs",
    [
        {"alpha": 1.5},
        {"temperature": 0.0},
        {"hidden": -1.0},
        {"hidden": float("nan")},
        {"tokens": -0.1},
        {"similarity": float("inf")},
    ],
)
def test_a_knob_out_of_range_is_named(knobs):
    (name,) = knobs
    with pytest.raises(ConfigError, match=rf"distillation\.{name}: .*out of range"):
        Distillation(**knobs)


def test_every_choice_of_a_number_in_the_space_is_accepted():
    for name, dimension in Distillation.space().dimensions.items():
        for value in dimension.values if name not in ("live", "layer_map") else ():
            assert Distillation(**{name: value, "live": True}).report().figures[name] == value


def test_without_labels_the_labels_have_no_influence():
    loss = Distillation(alpha=0.0)
    assert torch.equal(loss.loss(STUDENT, TEACHER, LABELS), loss.loss(STUDENT, TEACHER, 1 - LABELS))


def test_an_unknown_layer_map_is_refused():
    with pytest.raises(ConfigError, match=r"distillation\.layer_map: 'lats' is unknown.*'last'"):
        Distillation(layer_map="lats")


@pytest.mark.parametrize("name", LIVE_TERMS)
def test_a_term_that_needs_the_teacher_to_run_has_to_be_allowed_to(name):
    with pytest.raises(ConfigError, match=rf"distillation\.{name}: 0\.5 needs the teacher to run.*live to true"):
        Distillation(**{name: 0.5})


@pytest.mark.parametrize("name", LIVE_TERMS)
def test_a_term_that_needs_a_live_teacher_says_so_without_one(name):
    loss = Distillation(live=True, **{name: 0.5})
    with pytest.raises(StateError, match=rf"distillation\.{name}: 0\.5 needs the teacher itself"):
        loss.begin(encoder(), teacher_width=32)


def test_a_live_teacher_of_other_words_is_refused():
    student, teacher = encoder(), encoder()
    student.config = replace(student.config, vocab_size=50)
    with pytest.raises(ShapeError, match=r"the student knows 50 words, the live teacher 100"):
        Distillation(live=True, cosine=1.0).begin(student, live=teacher)


def test_the_teacher_may_run_but_nothing_asks_for_it():
    loss = Distillation(live=True)
    assert loss.needs == NOTHING
    assert loss.begin(encoder()) == []
    assert loss.report().figures["live"] == 0


def test_hidden_states_of_the_student_need_those_of_the_teacher():
    with pytest.raises(StateError, match=r"0\.1 needs the teacher's hidden states"):
        Distillation(hidden=0.1).begin(encoder())


def test_the_teachers_own_states_are_at_distance_zero_and_others_are_not():
    teacher = encoder()
    loss = Distillation(hidden=0.5)
    (projection,) = loss.begin(teacher, 32)
    assert projection.shape == (32, 32)
    states = tuple(torch.randn(4, 6, 32) for _ in range(teacher.config.depth + 1))
    first = torch.stack([state[:, 0] for state in states[1:]], dim=1)
    assert loss.hidden_loss(states, first).item() == pytest.approx(0, abs=1e-9)
    moved = tuple(state + 1 for state in states)
    assert loss.hidden_loss(moved, first).item() == pytest.approx(0.5, rel=1e-4)


def test_layers_of_a_shallower_student_learn_from_evenly_spread_layers_of_the_teacher():
    loss = Distillation(hidden=1.0)
    student = encoder(heads=(4, 4), ffn=(64, 64))
    loss.begin(student, 32)
    teacher = torch.stack([torch.full((3, 32), float(layer)) for layer in range(1, 7)], dim=1)
    states = (torch.zeros(3, 5, 32), torch.full((3, 5, 32), 3.0), torch.full((3, 5, 32), 6.0))
    assert loss.hidden_loss(states, teacher).item() == pytest.approx(0, abs=1e-9)


def live_value(student, teacher, **knobs):
    """Return what the wanted terms add to the loss of a padded batch."""
    tokens = texts(8)
    batch = tokens.collate(np.arange(8))
    loss = Distillation(alpha=1.0, live=True, **knobs)
    loss.begin(student, live=teacher)
    labels = torch.from_numpy(tokens.labels)
    with torch.no_grad():
        said, goal = (ask(model, batch, Need.STATES) for model in (student, teacher))
        return (loss.total(said, goal, labels, batch.attention_mask) - F.cross_entropy(said.logits, labels)).item()


@pytest.mark.parametrize("layer_map", ["skip", "last", "dynamic"])
@pytest.mark.parametrize("name", [name for name in LIVE_TERMS if name != "contrastive"])
def test_every_distance_is_zero_for_the_teacher_itself_and_above_for_another_model(name, layer_map):
    teacher, other = encoder(), narrow()
    assert live_value(teacher, teacher, **{name: 1.0}, layer_map=layer_map) == pytest.approx(0, abs=1e-5)
    assert live_value(other, teacher, **{name: 1.0}, layer_map=layer_map) > 1e-7


def test_the_contrastive_term_is_lower_for_the_teacher_itself_than_for_another_model():
    teacher = encoder()
    assert 0 < live_value(teacher, teacher, contrastive=1.0) < live_value(narrow(), teacher, contrastive=1.0)


def test_only_the_embedding_term_asks_for_embeddings_that_learn():
    asking = [name for name in LIVE_TERMS if Need.EMBEDDINGS in Distillation(live=True, **{name: 1.0}).needs]
    assert asking == ["embedding"]


def narrow():
    """A student of another depth, width and number of heads, of the same words."""
    torch.manual_seed(1)
    config = replace(encoder().config, heads=(2,), ffn=(48,), hidden=24, embedding=24)
    student = TextEncoder(config)
    return student.eval()


def test_terms_are_weighted_and_summed():
    student, teacher = narrow(), encoder()
    single = {name: live_value(student, teacher, **{name: 1.0}) for name in LIVE_TERMS}
    together = live_value(student, teacher, **dict.fromkeys(LIVE_TERMS, 0.5))
    assert together == pytest.approx(0.5 * sum(single.values()), rel=1e-3)


def test_the_terms_compare_what_the_layers_compute():
    student, teacher = encoder(heads=(2, 4), ffn=(64, 96)), encoder(heads=(4, 2, 4), ffn=(64, 96, 32))
    batch = texts(8).collate(np.arange(8))
    mask = batch.attention_mask
    with torch.no_grad():
        ours, theirs = (model(*batch, hidden_states=True)[1] for model in (student, teacher))
        expected = token_distance(ours[0], theirs[0], mask)
        assert live_value(student, teacher, embedding=1.0) == pytest.approx(expected.item(), rel=1e-3, abs=1e-6)
        expected = contrastive_loss(ours[-1][:, 0], theirs[-1][:, 0])
        assert live_value(student, teacher, contrastive=1.0) == pytest.approx(expected.item(), rel=1e-3)
        first, second = (token_distance(ours[s], theirs[t], mask) for s, t in ((1, 2), (2, 3)))
        assert live_value(student, teacher, tokens=1.0) == pytest.approx(((first + second) / 2).item(), rel=1e-3)
        scores = [
            scaled_products(layer.query(x), layer.key(x), n)
            for layer, x, n in (
                (student.layers[0], ours[0], 2),
                (teacher.layers[1], theirs[1], 2),
                (student.layers[1], ours[1], 4),
                (teacher.layers[2], theirs[2], 4),
            )
        ]
        expected = (attention_distance(*scores[:2], mask) + attention_distance(*scores[2:], mask)) / 2
        assert live_value(student, teacher, attention=1.0) == pytest.approx(expected.item(), rel=1e-2)
        values = [
            scaled_products(layer.value(x), layer.value(x), 4)
            for layer, x in ((student.layers[1], ours[1]), (teacher.layers[2], theirs[2]))
        ]
        expected = relation_divergence(*scores[2:], mask) + relation_divergence(*values, mask)
        assert live_value(student, teacher, relation=1.0) == pytest.approx(expected.item(), rel=1e-2)


def test_the_scores_that_are_compared_are_those_the_attention_kernel_uses():
    model = encoder()
    batch = texts(4).collate(np.arange(4))
    with torch.no_grad():
        answers = ask(model, batch, Need.STATES)
        layer, x = model.layers[0], answers.states[0]
        keys = batch.attention_mask.bool()[:, None, None, :]
        weights = answers.scores(0).masked_fill(~keys, -torch.inf).softmax(-1)
        value = layer.value(x).unflatten(-1, (4, 8)).transpose(1, 2)
        context = (weights @ value).transpose(1, 2).flatten(2)
        expected = attend(layer.query(x), layer.key(x), layer.value(x), layer.head_size, keys)
    assert torch.allclose(context, expected, atol=1e-5)


def test_the_dynamic_map_finds_the_layers_that_a_student_kept():
    teacher = encoder(heads=(4,) * 6, ffn=(64,) * 6)
    with torch.no_grad():
        for p in teacher.parameters():
            p.mul_(4)  # so that layers differ
    student = encoder(heads=(4,) * 4, ffn=(64,) * 4)
    student.embeddings.load_state_dict(teacher.embeddings.state_dict())
    for ours, theirs in zip(student.layers, (0, 1, 2, 5), strict=True):
        ours.load_state_dict(teacher.layers[theirs].state_dict())
    batch = texts(8).collate(np.arange(8))
    terms = LiveTerms(dict.fromkeys(LIVE_TERMS, 1.0), "dynamic")
    with torch.no_grad():
        said, goal = (ask(model, batch, Need.STATES) for model in (student, teacher))
        pairs = terms.pairs(said, goal, batch.attention_mask, lambda states: states.float())
    assert pairs == [(3, 3), (4, 6)]
