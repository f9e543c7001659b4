import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from compressors.distillation import Distillation
from compressors.terms import MASKED
from compressors.weights import WeightPruning
from nas.bundle import Outputs
from nas.distill import distill
from nas.learners import LEAST_RATE, rate_share
from nas.outputs import predict_logits
from nas.recipe import TrainSettings
from nas.schedule import Rung
from search_spaces.families.encoder_model import TextEncoder
from tests.compressors.encoders import encoder, texts


@pytest.fixture(scope="module")
def sure():
    """A teacher with opinions, and its logits of some rows."""
    teacher, tokens = encoder(), texts(300)
    with torch.no_grad():
        teacher.head.out.weight.mul_(30)
    return teacher, tokens, predict_logits(teacher, tokens)


def disturbed(teacher, strength):
    """The teacher with a part of its last layer's weights replaced by noise."""
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        for parameter in student.head.parameters():
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
            parameter.add_(strength * parameter.std(unbiased=False) * noise)
    return student


def test_the_farther_a_student_begins_from_its_teacher_the_faster_it_learns(sure):
    teacher, tokens, logits = sure
    shares = [rate_share(disturbed(teacher, strength), tokens, logits) for strength in (0, 0.1, 0.3, 1, 10)]
    assert shares[0] == LEAST_RATE
    assert shares[-1] == 1.0
    assert shares == sorted(shares)
    assert LEAST_RATE < shares[2] < 1.0


def test_the_share_is_the_root_of_the_divergence_from_the_teacher_over_that_of_who_knows_nothing(sure):
    teacher, tokens, logits = sure
    tokens, logits = tokens.subset(np.arange(100)), logits[:100]  # fewer than are looked at: all of them are
    student = disturbed(teacher, 0.3)
    told, said = (torch.from_numpy(x).log_softmax(-1).double() for x in (logits, predict_logits(student, tokens)))
    here = (told.exp() * (told - said)).sum(-1).mean()
    farthest = (told.exp() * (told + np.log(logits.shape[1]))).sum(-1).mean()
    assert rate_share(student, tokens, logits) == pytest.approx(float((here / farthest).sqrt()), rel=1e-3)


def test_a_student_that_answers_as_a_sure_teacher_does_is_no_farther_than_nothing(sure):
    teacher, tokens, _ = sure
    surer = copy.deepcopy(teacher)
    with torch.no_grad():
        surer.head.out.weight.mul_(30)
    told = predict_logits(surer, tokens).astype(np.float16)  # as they are kept
    assert rate_share(surer, tokens, told) == LEAST_RATE


def test_what_other_teachers_are_asked_for_is_left_aside(sure):
    _, tokens, _ = sure
    student = TextEncoder(replace(encoder().config, labels=("a", "b", "c", "d"))).eval()
    with torch.no_grad():
        student.head.out.weight.mul_(30)
    logits = predict_logits(student, tokens)
    logits[:150, 2:] = logits[150:, :2] = MASKED
    assert rate_share(student, tokens, logits.astype(np.float16)) == pytest.approx(LEAST_RATE)


def test_a_teacher_without_opinions_slows_nobody(sure):
    teacher, tokens, logits = sure
    assert rate_share(teacher, tokens, np.zeros_like(logits)) == 1.0


def test_an_intact_student_forgets_less_at_the_gentle_rate(sure):
    teacher, tokens, logits = sure
    told = Outputs(logits.astype(np.float16))
    moved = {}
    for gentle in (True, False):
        student, settings = copy.deepcopy(teacher), TrainSettings(lr=3e-3, precision="fp32", gentle=gentle)
        epochs, left = distill(student, tokens, told, settings, seed=0, loss=Distillation())
        assert epochs[0].learning_rate == pytest.approx(3e-4 if gentle else 3e-3)
        assert float(left.memory["rate"]) == pytest.approx(LEAST_RATE if gentle else 1.0)
        moved[gentle] = np.abs(predict_logits(student, tokens) - logits).mean()
    assert moved[True] < 0.5 * moved[False]


@pytest.mark.parametrize(("schedule", "rate"), [("cubic", 1.0), ("none", LEAST_RATE)])
def test_a_student_that_is_still_to_be_cut_learns_at_the_full_rate(sure, schedule, rate):
    teacher, tokens, logits = sure
    cutters = [WeightPruning(sparsity=0.5)] if schedule == "cubic" else []
    settings = TrainSettings(epochs=0.5, precision="fp32")
    told = Outputs(logits.astype(np.float16))
    trained = distill(copy.deepcopy(teacher), tokens, told, settings, seed=0, loss=Distillation(), compressors=cutters)
    assert float(trained.left.memory["rate"]) == pytest.approx(rate)


def test_a_later_part_of_a_training_keeps_the_rate_of_its_beginning(sure):
    teacher, tokens, logits = sure
    settings, told = TrainSettings(precision="fp32"), Outputs(logits.astype(np.float16))
    memory = {"rate": torch.tensor(0.7, dtype=torch.float64)}
    trained = distill(
        copy.deepcopy(teacher),
        tokens,
        told,
        settings,
        seed=0,
        loss=Distillation(),
        rung=Rung(0.5, 1.0),
        memory=memory,
    )
    assert float(trained.left.memory["rate"]) == 0.7
