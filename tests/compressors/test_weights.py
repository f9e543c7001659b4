import pytest
import torch

from compressors.schedule import cubic
from compressors.structured import StructuredPruning
from compressors.weights import WeightPruning
from search_spaces.errors import ConfigError
from tests.compressors.encoders import encoder


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


@pytest.mark.parametrize("schedule", ["cubic", "oneshot"])
@pytest.mark.parametrize("n_steps", [1, 2, 17])
def test_every_layer_ends_with_the_sparsity_asked_for(schedule, n_steps):
    student = encoder()
    train(student, [WeightPruning(0.7, schedule)], n_steps)
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


@pytest.mark.parametrize("knobs", [{"sparsity": 1.0}, {"schedule": "linear"}])
def test_a_wrong_knob_is_named(knobs):
    (name,) = knobs
    with pytest.raises(ConfigError, match=rf"weight_pruning\.{name}: "):
        WeightPruning(**knobs)


def test_the_cubic_schedule_starts_at_0_and_stops_at_1():
    assert [cubic(x) for x in (-1, 0, 0.5, 1, 2)] == [0, 0, 0.875, 1, 1]
