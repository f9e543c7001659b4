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


def test_hidden_states_need_a_teacher():
    with pytest.raises(StateError, match="needs a live teacher"):
        Distillation(hidden=0.1).begin(encoder())


def test_the_teachers_own_states_are_at_distance_zero_and_others_are_not():
    teacher = encoder()
    loss = Distillation(hidden=0.5)
    loss.observe(teacher)
    (projection,) = loss.begin(teacher)
    assert projection.shape == (32, 32)
    batch = (torch.randint(1, 99, (4, 6)), torch.ones(4, 6, dtype=torch.int64), torch.zeros(4, 6, dtype=torch.int64))
    with torch.no_grad():
        _, states = teacher(*batch, hidden_states=True)
    assert loss.hidden_loss(states, batch).item() == pytest.approx(0, abs=1e-9)
    moved = tuple(state + 1 for state in states)
    assert loss.hidden_loss(moved, batch).item() == pytest.approx(0.5, rel=1e-4)
