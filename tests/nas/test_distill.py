import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from compressors.answers import Need, ask
from compressors.distillation import Distillation
from compressors.live_terms import LIVE_TERMS, LiveTerms
from compressors.structured import StructuredPruning
from compressors.weights import WeightPruning
from nas.bundle import Outputs
from nas.checkpoint import load_checkpoint, save_checkpoint
from nas.distill import Left, distill
from nas.recipe import TrainSettings
from nas.schedule import Rung
from search_spaces.errors import DivergedError, ShapeError, StateError
from tests.compressors.encoders import encoder, texts

PRECISIONS = ["fp32", "bf16"]


def teaching(tokens):
    """A teacher that is sure of the labels."""
    return Outputs(np.where(np.eye(2)[tokens.labels] > 0, 3.0, -3.0).astype(np.float16))


def settings(**changes):
    return TrainSettings(**{"epochs": 1.0, "lr": 3e-3, "batch_size": 16, "precision": "fp32", **changes})


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_student_learns_what_its_teacher_knows(precision):
    tokens, student = texts(256), encoder()
    epochs, _ = distill(
        student,
        tokens,
        teaching(tokens),
        settings(epochs=12, precision=precision, train_embeddings=True),
        seed=0,
        loss=Distillation(),
    )
    assert len(epochs) == 12
    assert epochs[-1].loss < 0.5 * epochs[0].loss
    with torch.no_grad():
        predicted = student(*tokens.collate(np.arange(256))).argmax(1).numpy()
    assert (predicted == tokens.labels).mean() > 0.9


def test_bfloat16_takes_nearly_the_same_way_as_float32():
    tokens, students = texts(), [encoder(), encoder()]
    for student, precision in zip(students, PRECISIONS, strict=True):
        distill(student, tokens, teaching(tokens), settings(precision=precision), seed=0, loss=Distillation())
    start = weights(encoder())
    ways = [weights(student) - start for student in students]
    assert torch.cosine_similarity(*ways, dim=0) > 0.9
    assert students[1].head.out.weight.dtype == torch.float32


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("with_teacher", [True, False])
def test_the_same_seed_gives_the_same_student(precision, with_teacher):
    tokens, students = texts(), [encoder(), encoder(), encoder()]
    for student, seed in zip(students, (0, 0, 1), strict=True):
        torch.rand(seed + 3)  # the global generator must not matter
        targets = teaching(tokens) if with_teacher else None
        distill(student, tokens, targets, settings(precision=precision), seed=seed, loss=Distillation())
    assert torch.equal(weights(students[0]), weights(students[1]))
    assert not torch.equal(weights(students[0]), weights(students[2]))


def test_the_global_generator_is_left_as_it_was():
    tokens, student = texts(), encoder()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    distill(student, tokens, None, settings(), seed=0, loss=Distillation())
    assert torch.equal(torch.rand(3), expected)


def test_embeddings_are_frozen_unless_asked_for():
    tokens, students = texts(), [encoder(), encoder()]
    for student, trained in zip(students, (False, True), strict=True):
        distill(student, tokens, teaching(tokens), settings(train_embeddings=trained), seed=0, loss=Distillation())
    start = encoder().embeddings.word.weight
    assert torch.equal(students[0].embeddings.word.weight, start)
    assert not torch.equal(students[1].embeddings.word.weight, start)
    assert all(p.requires_grad and p.grad is None for p in students[0].parameters())
    assert not students[0].training


def test_half_an_epoch_is_half_the_steps():
    tokens, seen = texts(96), []
    epochs, _ = distill(
        encoder(),
        tokens,
        teaching(tokens),
        settings(epochs=1.5),
        seed=0,
        loss=Distillation(),
        on_step=lambda step, n: seen.append((step, n)),
    )
    assert seen == [(step, 9) for step in range(1, 10)]
    assert len(epochs) == 2
    assert all(epoch.sentences_per_s > 0 for epoch in epochs)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_stops_at_once(value):
    tokens, steps = texts(), []
    targets = teaching(tokens)
    targets.logits[:] = value
    with pytest.raises(DivergedError, match=r"step 1 of 6: the loss is (nan|inf)"):
        distill(
            encoder(),
            tokens,
            targets,
            settings(),
            seed=0,
            loss=Distillation(),
            on_step=lambda step, _: steps.append(step),
        )
    assert steps == []


@pytest.mark.parametrize("precision", PRECISIONS)
def test_pruning_on_a_schedule_shrinks_the_student_that_is_returned(precision):
    tokens, student = texts(), encoder()
    pruning = StructuredPruning(schedule="cubic")
    pruning.aim(replace(student.config, heads=(2, 1), ffn=(32, 32)))
    sparse = WeightPruning(0.3)
    distill(
        student,
        tokens,
        teaching(tokens),
        settings(epochs=3, precision=precision),
        seed=0,
        loss=Distillation(),
        compressors=[pruning, sparse],
    )
    assert student.config.heads == (2, 1)
    assert student.layers[1].query.weight.shape == (8, 32)
    assert sparse.report().figures["sparsity"] == pytest.approx(0.3, abs=1e-2)
    with torch.no_grad():
        assert student(*tokens.collate(np.arange(8))).isfinite().all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_hidden_states_of_the_teacher_pull_the_student_near(precision):
    tokens, student = texts(), encoder(heads=(4,), ffn=(64,))
    loss = Distillation(hidden=1.0)
    states = np.random.default_rng(0).normal(size=(len(tokens), 3, 48)).astype(np.float16)
    said = Outputs(teaching(tokens).logits, states)
    epochs, _ = distill(student, tokens, said, settings(epochs=4, precision=precision), seed=0, loss=loss)
    assert epochs[-1].loss < epochs[0].loss


def test_teacher_outputs_of_another_data_set_are_refused():
    tokens = texts(96)
    with pytest.raises(ShapeError, match=r"shape \(5, 2\); it must be \(96, 2\)"):
        distill(encoder(), tokens, Outputs(np.zeros((5, 2))), settings(), seed=0, loss=Distillation())


def test_no_rows_are_refused():
    with pytest.raises(ShapeError, match="0 training rows"):
        distill(encoder(), texts(8).subset(np.arange(0)), None, settings(), seed=0, loss=Distillation())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("trained", [False, True])
def test_a_training_in_parts_takes_the_very_steps_of_one_in_one_go(precision, trained):
    tokens = texts(96)  # 15 steps in all, parts of 2, 3 and 10
    run = settings(epochs=2.5, precision=precision, train_embeddings=trained, warmup=0.1)
    states = np.random.default_rng(0).normal(size=(len(tokens), 3, 48)).astype(np.float16)
    said = Outputs(teaching(tokens).logits, states)

    def parts(*rungs):
        left, losses, judged = Left(encoder(), {}), [], []
        for rung in itertools.pairwise(rungs):
            student, memory = load_checkpoint(save_checkpoint(*left))  # as between two workers
            loss = Distillation(hidden=1.0)  # learns a projection of its own
            epochs, left = distill(student, tokens, said, run, seed=0, loss=loss, rung=Rung(*rung), memory=memory)
            losses += [epoch.loss for epoch in epochs]
            judged.append(weights(student))
        return weights(left.student), losses, judged

    whole, _, _ = parts(0.0, 1.0)
    climbed, losses, judged = parts(0.0, 0.1, 0.3, 1.0)
    assert torch.equal(climbed, whole)
    assert torch.equal(judged[-1], whole)
    assert not torch.equal(judged[1], whole)
    assert len(losses) == 1 + 1 + 3  # the last part ends the first epoch


def test_a_student_judged_early_has_learned_on_at_a_falling_rate():
    tokens, student, rates = texts(96), encoder(), []
    run = settings(epochs=5, warmup=0.0, gentle=False)  # 30 steps

    class Watch(WeightPruning):
        def after_step(self, step, optimizer):
            rates.append(optimizer.param_groups[0]["lr"] / run.lr)
            return False

    _, left = distill(
        student,
        tokens,
        teaching(tokens),
        run,
        seed=0,
        loss=Distillation(),
        compressors=[Watch(0.0)],
        rung=Rung(0.0, 0.3),
    )
    assert rates[:9] == pytest.approx([(30 - step) / 30 for step in range(9)])  # on its way through the whole training
    assert rates[9:] == pytest.approx([21 / 30 * 3 / 4, 20 / 30 * 2 / 4, 19 / 30 * 1 / 4])
    assert not torch.equal(weights(student), weights(left.student))
    assert left.memory["head.out.weight/step"].item() == 9


def halves(make):
    """Yield the compressor, the judged student and what is left of each half of a training."""
    tokens, left = texts(96), Left(encoder(), {})
    for rung in (Rung(0.0, 0.5), Rung(0.5, 1.0)):
        student, compressor = left.student, make()
        run = settings(epochs=4)
        _, left = distill(
            student,
            tokens,
            teaching(tokens),
            run,
            seed=0,
            loss=Distillation(),
            compressors=[compressor],
            rung=rung,
            memory=left.memory,
        )
        yield compressor, student, left


def test_a_compressor_finishes_in_every_part_of_a_training():
    sparsities = [sparse.report().figures["sparsity"] for sparse, _, _ in halves(lambda: WeightPruning(0.5))]
    assert sparsities == pytest.approx([0.5, 0.5], abs=1e-2)


def test_a_training_goes_on_with_the_moments_of_units_that_were_left():
    target = replace(encoder().config, heads=(2, 1), ffn=(32, 32))

    def cutting():
        pruning = StructuredPruning(schedule="cubic")
        pruning.aim(target)
        return pruning

    parts = list(halves(cutting))
    assert [student.config for _, student, _ in parts] == [target, target]
    assert all(left.memory["layers.1.query.weight/exp_avg"].shape == (8, 32) for _, _, left in parts)
    assert parts[-1][2].memory["layers.1.query.weight/step"].item() == 24


def sharpened(model):
    """A teacher whose layers do something: fresh weights hardly change the stream."""
    with torch.no_grad():
        for layer in model.layers:
            for part in (layer.query, layer.key, layer.value, layer.up, layer.down):
                part.weight.mul_(6)
    return model


def distance(student, teacher, tokens, name, layer_map):
    """Return one term for all rows, unprojected; smaller is nearer."""
    batch = tokens.collate(np.arange(len(tokens)))
    weights = {**dict.fromkeys(LIVE_TERMS, 0.0), name: 1.0}
    with torch.no_grad():
        said, goal = (ask(model, batch, Need.STATES) for model in (student, teacher))
        return LiveTerms(weights, layer_map).distance(said, goal, batch.attention_mask, lambda x: x.float()).item()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("name", "layer_map"),
    [*((name, "skip") for name in LIVE_TERMS), ("tokens", "last"), ("tokens", "dynamic"), ("attention", "dynamic")],
)
def test_training_with_a_term_lowers_it(name, layer_map, precision):
    tokens, teacher = texts(), sharpened(encoder(heads=(4, 4, 4), ffn=(64, 96, 64)))
    before = {key: tensor.clone() for key, tensor in teacher.state_dict().items()}
    student = encoder(heads=(4, 4), ffn=(64, 64))
    first = distance(student, teacher, tokens, name, layer_map)
    loss = Distillation(live=True, layer_map=layer_map, **{name: 1000.0})  # so that the logits hardly count
    run = settings(epochs=8, precision=precision)
    epochs, _ = distill(student, tokens, teaching(tokens), run, seed=0, loss=loss, live=teacher)
    assert distance(student, teacher, tokens, name, layer_map) < 0.9 * first
    assert epochs[-1].loss < epochs[0].loss
    assert all(0 < epoch.teacher_share < 1 for epoch in epochs)
    assert all(torch.equal(tensor, before[key]) for key, tensor in teacher.state_dict().items())


def test_embeddings_learn_for_the_embedding_term_alone():
    tokens, teacher = texts(), encoder(heads=(4, 4, 4), ffn=(64, 96, 64))
    for name, learns in (("embedding", True), ("contrastive", False)):
        student = encoder()
        before = student.embeddings.word.weight.detach().clone()
        loss = Distillation(live=True, **{name: 1.0})
        distill(student, tokens, teaching(tokens), settings(), seed=0, loss=loss, live=teacher)
        assert torch.equal(student.embeddings.word.weight, before) != learns


def test_all_weights_at_zero_train_exactly_as_the_default_and_the_teacher_does_not_run():
    tokens, students = texts(), [encoder(), encoder()]
    losses = [Distillation(), Distillation(hidden=0.0, live=True, **dict.fromkeys(LIVE_TERMS, 0.0))]
    for student, loss in zip(students, losses, strict=True):
        epochs, _ = distill(student, tokens, teaching(tokens), settings(), seed=0, loss=loss, live=encoder())
        assert epochs[0].teacher_share == 0
    assert torch.equal(weights(students[0]), weights(students[1]))


def test_the_loss_of_a_default_run_is_that_of_the_logits_alone():
    tokens, student = texts(16), encoder()
    loss, batch = Distillation(), tokens.collate(np.arange(16))
    teacher = torch.from_numpy(teaching(tokens).logits).float()
    with torch.no_grad():
        expected = loss.loss(student(*batch), teacher, torch.from_numpy(tokens.labels)).item()
    epochs, _ = distill(student, tokens, teaching(tokens), settings(), seed=0, loss=loss)
    assert epochs[0].loss == pytest.approx(expected, rel=1e-5)


def test_a_term_that_needs_the_teacher_itself_fails_without_it():
    tokens = texts()
    loss = Distillation(live=True, attention=0.5)
    with pytest.raises(StateError, match=r"distillation\.attention: 0\.5 needs the teacher itself.*live teacher"):
        distill(encoder(), tokens, teaching(tokens), settings(), seed=0, loss=loss)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_teacher_runs_along_while_the_student_is_cut(precision):
    tokens, student, teacher = texts(), encoder(), encoder()
    pruning = StructuredPruning(schedule="cubic")
    pruning.aim(replace(student.config, heads=(2, 3), ffn=(32, 32)))
    loss = Distillation(live=True, layer_map="dynamic", hidden=0.1, **dict.fromkeys(LIVE_TERMS, 0.1))
    states = np.zeros((len(tokens), 2, 32), np.float16)
    said = Outputs(teaching(tokens).logits, states)
    run = settings(epochs=3, precision=precision)
    distill(student, tokens, said, run, seed=0, loss=loss, compressors=[pruning], live=teacher)
    assert student.config.heads == (2, 3)
    assert weights(student).isfinite().all()


def test_a_share_of_the_rows_is_the_same_in_every_epoch_and_shortens_it(monkeypatch):
    tokens = texts(96)
    seen = []
    collate = type(tokens).collate

    def watch(self, rows):
        seen.append(rows.tolist())
        return collate(self, rows)

    monkeypatch.setattr(type(tokens), "collate", watch)

    def epochs_of(seed):
        seen.clear()
        distill(
            encoder(),
            tokens,
            teaching(tokens),
            settings(epochs=2, share=0.5, gentle=False),
            seed=seed,
            loss=Distillation(),
        )
        return [sorted(row for rows in epoch for row in rows) for epoch in (seen[:3], seen[3:])]

    first, second = epochs_of(0)
    assert first == second
    assert len(set(first)) == len(first) == 48
    assert epochs_of(1)[0] != first
