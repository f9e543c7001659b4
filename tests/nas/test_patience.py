import numpy as np
import pytest
import torch

from compressors.distillation import Distillation
from compressors.weights import WeightPruning
from nas.bundle import Outputs
from nas.distill import distill
from nas.patience import Patience
from nas.recipe import SearchSettings, TrainSettings
from nas.schedule import Rung, Schedule, learning_rate_share
from search_spaces.errors import ConfigError, ShapeError
from tests.compressors.encoders import encoder, texts

LENGTHS = np.random.default_rng(0).integers(2, 30, 400)


def settings(**changes):
    return TrainSettings(**{"epochs": 20, "lr": 3e-3, "batch_size": 16, "precision": "fp32", "patience": 2, **changes})


def teaching(tokens):
    return Outputs(np.where(np.eye(2)[tokens.labels] > 0, 3.0, -3.0).astype(np.float16))


def test_patience_is_lost_after_so_many_looks_without_a_lower_loss_and_the_best_student_comes_back():
    student, patience = torch.nn.Linear(1, 1, bias=False), Patience(2)
    answers = []
    for value, loss in enumerate([3.0, 2.0, 2.0, 1.5, 1.6, float("nan"), 1.7]):
        with torch.no_grad():
            student.weight.fill_(value)
        answers.append(patience.look(loss, student))
    assert answers == [False, False, False, False, False, True, True]
    patience.restore(student)
    assert (patience.lowest, student.weight.item()) == (1.5, 3)


def test_without_a_look_a_student_stays_as_it_is():
    student = torch.nn.Linear(1, 1, bias=False)
    before = student.weight.item()
    Patience(1).restore(student)
    assert student.weight.item() == before


def test_rows_that_are_held_out_are_a_twentieth_and_never_learned_from():
    plan = Schedule(settings(), LENGTHS)
    held_out = np.concatenate(list(plan.held_out(3)))
    learned = np.concatenate(list(plan.batches(3, 0)))
    assert (len(held_out), len(learned)) == (20, 380)
    assert sorted([*held_out, *learned]) == list(range(400))
    assert sorted(np.concatenate(list(plan.batches(3, 7)))) == sorted(learned)
    assert set(np.concatenate(list(plan.held_out(4)))) != set(held_out)
    few = Schedule(settings(share=0.5), LENGTHS)
    assert len(np.concatenate(list(few.batches(0, 0)))) == 200
    assert not set(np.concatenate(list(few.held_out(0)))) & set(np.concatenate(list(few.batches(0, 0))))


def test_without_patience_nothing_is_held_out():
    assert list(Schedule(settings(patience=None), LENGTHS).held_out(0)) == []


def test_a_training_that_winds_up_lets_the_rate_fall_for_a_third_of_its_steps_and_only_once():
    plan = Schedule(settings(warmup=0.0), LENGTHS)
    assert (plan.n_steps, plan.stop) == (480, 480)
    plan.wind_up(90)
    plan.wind_up(96)
    assert plan.stop == 120
    shares = [plan.learning_rate_share(step) for step in range(plan.stop)]
    assert shares[:90] == [learning_rate_share(step, 480, 0.0) for step in range(90)]
    assert shares == sorted(shares, reverse=True)
    assert 0 < shares[-1] < 0.04
    plan = Schedule(settings(), LENGTHS)
    plan.wind_up(450)
    assert plan.stop == 480


def test_a_quarter_of_an_epoch_lies_between_looks_and_the_last_step_has_one():
    plan = Schedule(settings(epochs=1.05), LENGTHS)
    assert [step for step in range(1, plan.stop + 1) if plan.is_look(step)] == [6, 12, 18, 24, 26]


def run_of(student, compressors=(), **changes):
    """Train on noise, from which nothing general can be learned; return the epochs and the steps taken."""
    tokens, steps = texts(200), []
    noise = Outputs(np.random.default_rng(1).normal(0, 3, (200, 2)).astype(np.float16))
    loss = Distillation(alpha=0.0)
    epochs, _ = distill(
        student,
        tokens,
        noise,
        settings(**changes),
        seed=0,
        loss=loss,
        compressors=compressors,
        on_step=lambda step, total: steps.append(step),
    )
    held_out = np.concatenate(list(Schedule(settings(**changes), tokens.lengths).held_out(0)))
    with torch.no_grad():
        said = student(*tokens.collate(held_out))
        kept = loss.loss(said, torch.from_numpy(noise.logits[held_out]).float(), torch.zeros(len(held_out))).item()
    return epochs, len(steps), kept


def test_a_student_that_only_learns_by_heart_stops_early_and_is_kept_as_it_was_at_its_best():
    epochs, n_steps, kept = run_of(encoder(), patience=8)
    assert n_steps < 12 * 20 / 2
    assert epochs[-1].loss < epochs[0].loss
    looks = [epoch.held_out for epoch in epochs]
    assert kept <= min(looks) + 1e-5
    assert kept < looks[-1]


def test_a_student_that_goes_on_learning_is_not_stopped():
    tokens, student = texts(1500), encoder()
    run = settings(epochs=4, train_embeddings=True, patience=4)
    epochs, _ = distill(student, tokens, teaching(tokens), run, seed=0, loss=Distillation())
    assert len(epochs) == 4
    assert [epoch.held_out for epoch in epochs] == sorted((epoch.held_out for epoch in epochs), reverse=True)


def test_nobody_is_stopped_before_compressors_have_done_their_work():
    pruning = WeightPruning(0.5)
    student = encoder()
    epochs, n_steps, _ = run_of(student, [pruning], epochs=10, patience=1)
    assert n_steps > 0.7 * 120
    assert [epoch.held_out for epoch in epochs[:6]] == [None] * 6
    assert pruning.is_settled
    assert pruning.report().figures["sparsity"] == pytest.approx(0.5, abs=1e-2)


def test_the_same_training_with_patience_gives_the_same_student():
    students = [encoder(), encoder()]
    for student in students:
        run_of(student, epochs=3)
    assert all(torch.equal(p, q) for p, q in zip(students[0].parameters(), students[1].parameters(), strict=True))


def test_patience_of_a_part_of_a_training_is_refused():
    tokens = texts(20)
    with pytest.raises(ConfigError, match=r"train\.patience: 2, in the part 0 to 0\.3 of a training"):
        distill(encoder(), tokens, None, settings(), seed=0, loss=Distillation(), rung=Rung(0.0, 0.3))
    with pytest.raises(ValueError, match=r"train\.patience 3 and fidelity do not go together"):
        SearchSettings.model_validate({"train": {"patience": 3}, "fidelity": {}})


def test_a_single_row_cannot_be_held_out():
    with pytest.raises(ShapeError, match=r"train\.patience: 2 holds rows out, of 1 training rows"):
        distill(encoder(), texts(1), None, settings(), seed=0, loss=Distillation())
