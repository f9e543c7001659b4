import numpy as np
import pytest
import torch
from torch.nn import functional as F

from compressors.distillation import Distillation
from search_spaces.errors import ConfigError, StateError
from tests.compressors.encoders import encoder

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


def test_without_a_teacher_only_the_labels_count():
    expected = float(F.cross_entropy(STUDENT, LABELS))
    assert float(Distillation(alpha=0.1).loss(STUDENT, None, LABELS)) == pytest.approx(expected)
    assert float(Distillation(alpha=1.0).loss(STUDENT, TEACHER, LABELS)) == pytest.approx(expected)


@pytest.mark.parametrize("knobs", [{"alpha": 1.5}, {"temperature": 0.0}, {"hidden": -1.0}, {"hidden": float("nan")}])
def test_a_knob_out_of_range_is_named(knobs):
    (name,) = knobs
    with pytest.raises(ConfigError, match=rf"distillation\.{name}: .*out of range"):
        Distillation(**knobs)


def test_every_choice_of_the_space_is_accepted():
    for name, dimension in Distillation.space().dimensions.items():
        for value in dimension.values:
            assert Distillation(**{name: value}).report().figures[name] == value


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
