from dataclasses import replace

import pytest
import torch
from torch import nn

from compressors.schedule import cubic, stepwise
from compressors.structured import StructuredPruning
from compressors.weights import WeightPruning
from search_spaces.errors import ConfigError, StateError
from tests.compressors.encoders import encoder
from tests.compressors.tiny_cnn import cnn, pictures


def train(student, compressors, n_steps):
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
    for compressor in compressors:
        compressor.begin(student, n_steps)
    shares = []
    for step in range(n_steps):
        student(torch.randint(1, 99, (4, 6)), None, None).logsumexp(1).sum().backward()
        for compressor in compressors:
            compressor.after_backward(step)
        optimizer.step()
        for compressor in compressors:
            compressor.after_step(step, optimizer)
        optimizer.zero_grad()
        shares.append(zeros(student.layers[0]))
    return shares


def zeros(layer):
    weights = [p for p in layer.parameters() if p.ndim > 1]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


@pytest.mark.parametrize("criterion", ["magnitude", "first_order", "movement"])
@pytest.mark.parametrize("schedule", ["cubic", "iterative", "oneshot"])
@pytest.mark.parametrize("n_steps", [1, 2, 17])
def test_every_layer_ends_with_the_sparsity_asked_for(schedule, n_steps, criterion):
    student = encoder()
    train(student, [WeightPruning(0.7, schedule, criterion)], n_steps)
    assert [zeros(layer) for layer in student.layers] == pytest.approx([0.7, 0.7], abs=1e-3)


def test_sparsity_grows_fast_at_first_and_never_falls():
    shares = train(encoder(), [WeightPruning(0.5)], 20)
    assert shares == sorted(shares)
    assert shares[0] > 0
    assert shares[13] == pytest.approx(0.5, abs=1e-3)
    assert shares[6] > 0.25


def test_the_smallest_weights_of_the_layer_go():
    student = encoder()
    before = torch.cat([p.detach().abs().flatten() for p in student.layers[1].parameters() if p.ndim > 1])
    pruning = WeightPruning(0.3, "oneshot")
    pruning.begin(student, 4)
    after = torch.cat([p.detach().abs().flatten() for p in student.layers[1].parameters() if p.ndim > 1])
    assert before[after == 0].max() <= before[after != 0].min()


def test_matrices_cut_by_structured_pruning_stay_sparse():
    student = encoder()
    pruning = StructuredPruning(schedule="cubic")
    pruning.aim(type(student.config).from_json({**student.config.to_json(), "heads": [2, 2], "ffn": [32, 32]}))
    train(student, [pruning, WeightPruning(0.5)], 12)
    assert student.layers[0].up.weight.shape == (32, 32)
    assert zeros(student.layers[0]) == pytest.approx(0.5, abs=1e-3)


def test_the_report_counts_the_weights_that_are_left():
    student = encoder()
    pruning = WeightPruning(0.5, "oneshot")
    pruning.begin(student, 1)
    report = pruning.report()
    left = {change.where: change.after for change in report.changed}
    assert left["layers.0.up.weight"] == int(student.layers[0].up.weight.count_nonzero())
    assert report.figures["sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert "embeddings.word.weight" in {skip.where for skip in report.skipped}


def test_no_sparsity_changes_nothing_and_says_so():
    student = encoder()
    before = student.layers[0].up.weight.detach().clone()
    pruning = WeightPruning()
    pruning.begin(student, 4)
    assert not pruning.after_step(3, torch.optim.SGD(student.parameters(), lr=0.1))
    assert torch.equal(student.layers[0].up.weight, before)
    assert pruning.report().skipped[0].why == "sparsity is 0"


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"sparsity": 1.0}, r"weight_pruning\.sparsity: 1\.0 is out of range; 0 to below 1"),
        ({"schedule": "linear"}, r"weight_pruning\.schedule: 'linear' is unknown; known: cubic, iterative, oneshot"),
        ({"criterion": "obd"}, r"weight_pruning\.criterion: 'obd' is unknown; known: magnitude, first_order, mov"),
        ({"scope": "row"}, r"weight_pruning\.scope: 'row' is unknown; known: layer, global"),
        ({"sparsity": 0.7, "pattern": "2:4"}, r"weight_pruning\.pattern: 2:4 leaves 0\.5 .*sparsity is 0\.7"),
        ({"l1": -1e-3}, r"weight_pruning\.l1: -0\.001 is out of range; 0 or more"),
    ],
)
def test_a_wrong_knob_is_named(knobs, message):
    with pytest.raises(ConfigError, match=message):
        WeightPruning(**knobs)


def by_hand(knobs, weights, gradients, n_steps=4):
    """Run the compressor on one matrix whose gradients are given and whose weights do not move."""
    student = nn.Sequential(nn.Linear(len(weights), 1, bias=False))
    with torch.no_grad():
        student[0].weight.copy_(torch.tensor([weights]))
    pruning, optimizer = WeightPruning(**knobs), torch.optim.SGD(student.parameters(), lr=0.0)
    pruning.begin(student, n_steps)
    for step in range(n_steps):
        student[0].weight.grad = torch.tensor([gradients[step % len(gradients)]])
        pruning.after_backward(step)
        optimizer.step()
        pruning.after_step(step, optimizer)
    pruning.end()
    return student[0].weight.detach()[0].tolist(), student[0].weight.grad[0].tolist()


def test_movement_keeps_small_weights_that_grow_and_prunes_large_ones_that_shrink():
    knobs = {"sparsity": 0.5, "schedule": "oneshot", "criterion": "movement"}
    weights, _ = by_hand(knobs, [3.0, -2.0, 0.1, -0.1], [[1.0, -1.0, -1.0, 1.0]])
    assert weights == pytest.approx([0, 0, 0.1, -0.1])


def test_movement_is_summed_over_steps_so_what_swings_to_and_fro_counts_for_nothing():
    swings, drifts = [5.0, 0.2, -0.4], [-5.0, 0.2, -0.4]
    knobs = {"sparsity": 0.6, "schedule": "oneshot", "criterion": "movement"}
    weights, _ = by_hand(knobs, [1.0, 1.0, 1.0], [swings, drifts], n_steps=6)  # four steps until it is due
    assert weights == pytest.approx([0, 0, 1.0])


def test_first_order_keeps_what_the_loss_depends_on_either_way():
    knobs = {"sparsity": 0.5, "schedule": "oneshot", "criterion": "first_order"}
    weights, _ = by_hand(knobs, [3.0, -0.5, 0.5, 2.0], [[0.01, -1.0, 1.0, 0.0]])
    assert weights == pytest.approx([0, -0.5, 0.5, 0])


def test_l1_adds_the_sign_of_every_weight_to_its_gradient_until_pruning_is_complete():
    knobs = {"sparsity": 0.25, "l1": 0.5}
    _, gradient = by_hand(knobs, [3.0, -2.0, 1.0, 0.0], [[0.1, 0.1, 0.1, 0.1]], n_steps=1)
    assert gradient == pytest.approx([0.6, -0.4, 0.6, 0.1])
    _, gradient = by_hand(knobs, [3.0, -2.0, 1.0, 0.0], [[0.1, 0.1, 0.1, 0.1]], n_steps=4)
    assert gradient == pytest.approx([0.1, 0.1, 0.1, 0.1])


def test_the_more_l1_the_more_weights_fall_below_the_threshold_of_the_start():
    shares = []
    for l1 in (0.0, 0.05, 0.2):
        student = encoder()
        shares.append(train(student, [WeightPruning(0.3, criterion="threshold", l1=l1)], 30)[-1])
    assert shares[0] == pytest.approx(0.3, abs=0.05)
    assert shares == sorted(shares)
    assert shares[2] > shares[0] + 0.01


def test_an_iterative_schedule_prunes_in_equal_steps_and_trains_between_them():
    shares = train(encoder(), [WeightPruning(0.6, "iterative")], 40)
    assert [shares[step] for step in (5, 6, 13, 20, 27, 39)] == pytest.approx([0, 0.15, 0.3, 0.45, 0.6, 0.6], abs=2e-3)
    assert len({round(share, 2) for share in shares}) == 5


def test_globally_layers_end_with_different_sparsity():
    student = encoder()
    with torch.no_grad():
        for parameter in student.layers[0].parameters():
            parameter.mul_(3)
    train(student, [WeightPruning(0.5, scope="global")], 4)
    first, second = (zeros(layer) for layer in student.layers)
    assert first < 0.3 < 0.6 < second


@pytest.mark.parametrize("criterion", ["magnitude", "movement", "threshold"])
@pytest.mark.parametrize("schedule", ["cubic", "iterative", "oneshot"])
def test_every_four_neighbours_end_with_two_weights(schedule, criterion):
    student = encoder()
    train(student, [WeightPruning(0.5, schedule, criterion, pattern="2:4")], 20)
    for layer in student.layers:
        for weight in (p for p in layer.parameters() if p.ndim > 1):
            assert ((weight != 0).view(-1, 4).sum(1) == 2).all()


def test_a_width_that_the_pattern_does_not_divide_is_refused_before_the_first_step():
    with pytest.raises(ConfigError, match=r"layers\.1\.down\.weight: its input width 50 is not a multiple of 8"):
        WeightPruning(0.5, pattern="4:8").begin(encoder(ffn=(64, 50)), 10)


@pytest.mark.parametrize("schedule", ["cubic", "iterative"])
def test_rewinding_sets_the_weights_that_are_left_back_to_their_start(schedule):
    student = encoder()
    start = {name: value.clone() for name, value in student.state_dict().items()}
    pruning = WeightPruning(0.5, schedule, rewind=True)
    train(student, [pruning], 1)  # its only step completes the pruning
    for name, value in student.state_dict().items():
        is_pruned = name in {change.where for change in pruning.report().changed}
        assert torch.equal(value, start[name] * (value != 0) if is_pruned else start[name]), name
    assert [zeros(layer) for layer in student.layers] == pytest.approx([0.5, 0.5], abs=1e-3)


def test_after_rewinding_the_student_learns_on_under_the_mask_with_a_fresh_optimiser():
    student = encoder()
    start = student.layers[0].up.weight.detach().clone()
    pruning, optimizer = WeightPruning(0.5, rewind=True), torch.optim.AdamW(student.parameters(), lr=1e-2)
    pruning.begin(student, 10)
    for step in range(10):
        student(torch.randint(1, 99, (4, 6)), None, None).logsumexp(1).sum().backward()
        pruning.after_backward(step)
        optimizer.step()
        pruning.after_step(step, optimizer)
        optimizer.zero_grad()
        weight = student.layers[0].up.weight
        if step == 6:
            mask = weight != 0
            assert torch.equal(weight, start * mask)
            assert weight not in optimizer.state
    assert torch.equal(weight != 0, mask)
    assert not torch.equal(weight, start * mask)
    assert optimizer.state[weight]["step"] == 3


def test_a_student_that_was_cut_meanwhile_cannot_rewind():
    student = encoder()
    cutting = StructuredPruning(schedule="cubic")
    cutting.aim(replace(student.config, heads=(2, 2), ffn=(32, 32)))
    with pytest.raises(StateError, match=r"weight_pruning\.rewind: layers\.0\.query\.weight had shape \(32, 32\)"):
        train(student, [cutting, WeightPruning(0.5, rewind=True)], 10)


@pytest.mark.parametrize("criterion", ["first_order", "movement", "threshold"])
def test_matrices_that_are_cut_meanwhile_are_scored_anew(criterion):
    student = encoder()
    cutting = StructuredPruning(schedule="cubic", end=0.7)
    cutting.aim(replace(student.config, heads=(2, 2), ffn=(32, 32)))
    train(student, [cutting, WeightPruning(0.5, criterion=criterion)], 12)
    assert student.layers[0].up.weight.shape == (32, 32)
    assert zeros(student.layers[0]) == pytest.approx(0.5, abs=1e-3 if criterion != "threshold" else 0.2)


def test_frozen_weights_are_left_alone_where_gradients_decide_and_pruned_where_magnitudes_do():
    for criterion, share in (("movement", 0.0), ("magnitude", 0.5)):
        student = encoder()
        student.layers[0].requires_grad_(False)
        pruning = WeightPruning(0.5, criterion=criterion)
        train(student, [pruning], 6)
        assert [zeros(layer) for layer in student.layers] == pytest.approx([share, 0.5], abs=1e-3)
        frozen = {skip.where: skip.why for skip in pruning.report().skipped if skip.where.startswith("layers.0.up")}
        expected = {"layers.0.up.weight": "is frozen: movement has no gradient to go by"}
        assert frozen == (expected if criterion == "movement" else {})


def test_a_student_without_trained_matrices_is_refused_where_gradients_decide():
    with pytest.raises(ConfigError, match="weight_pruning: 0 weights are trained, which movement needs"):
        WeightPruning(0.5, criterion="movement").begin(encoder().requires_grad_(False), 4)


def test_a_student_without_matrices_is_refused():
    with pytest.raises(ConfigError, match=r"weight_pruning: 0 weights can be pruned; .*The model has 0 \(Embedding\)"):
        WeightPruning(0.5).begin(nn.Sequential(nn.Embedding(3, 3)), 4)


def test_a_convolutional_network_is_pruned_alike():
    student, given = cnn(), pictures()
    pruning, optimizer = WeightPruning(0.6, criterion="movement"), torch.optim.AdamW(student.parameters(), lr=1e-2)
    pruning.begin(student, 8)
    for step in range(8):
        (images,), labels = given.batches[step % 2]
        nn.functional.cross_entropy(student(images), labels).backward()
        pruning.after_backward(step)
        optimizer.step()
        pruning.after_step(step, optimizer)
        optimizer.zero_grad()
    assert pruning.report().figures["sparsity"] == pytest.approx(0.6, abs=1e-3)
    assert student.head.weight.count_nonzero() == student.head.weight.numel()


def test_the_cubic_schedule_starts_at_0_and_stops_at_1():
    assert [cubic(x) for x in (-1, 0, 0.5, 1, 2)] == [0, 0, 0.875, 1, 1]


def test_the_stepwise_schedule_has_four_steps():
    assert [stepwise(x) for x in (-1, 0, 0.24, 0.25, 0.6, 1, 2)] == [0, 0, 0, 0.25, 0.5, 1, 1]
