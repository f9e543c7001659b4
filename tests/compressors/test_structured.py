import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from compressors.schedule import geometric, rounds
from compressors.structured import StructuredPruning
from compressors.units import Cut, cut_parameter, head_scores, neuron_scores
from search_spaces.errors import ConfigError, StateError
from tests.compressors.encoders import encoder


def batch(rows: int = 8):
    return torch.randint(1, 99, (rows, 6)), torch.ones(rows, 6, dtype=torch.int64), None


def train(student, pruning, n_steps):
    """Run the compressor as the loop does and return the configs after every step."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    pruning.begin(student, n_steps)
    configs = []
    for step in range(n_steps):
        student(*batch()).logsumexp(1).sum().backward()
        pruning.after_backward(step)
        optimizer.step()
        optimizer.zero_grad()
        pruning.after_step(step, optimizer)
        configs.append(student.config)
    return configs, optimizer


def aimed(student, heads, ffn, **knobs):
    pruning = StructuredPruning(schedule="cubic", **knobs)
    pruning.aim(replace(student.config, heads=heads, ffn=ffn))
    return pruning


@pytest.mark.parametrize("schedule", ["cubic", "progressive"])
@pytest.mark.parametrize("criterion", ["first_order", "magnitude"])
@pytest.mark.parametrize("n_steps", [1, 3, 20])
def test_the_student_ends_at_exactly_its_target(schedule, criterion, n_steps):
    student = encoder()
    target = replace(student.config, heads=(1, 4), ffn=(24, 50))
    pruning = StructuredPruning(schedule, criterion)
    pruning.aim(target)
    train(student, pruning, n_steps)
    assert student.config == target
    assert student.layers[0].query.weight.shape == (8, 32)
    assert student.layers[0].out.weight.shape == (32, 8)
    assert student.layers[1].down.weight.shape == (32, 50)
    assert student(*batch()).shape == (8, 2)


def test_widths_shrink_step_by_step_and_fastest_at_first():
    student = encoder(heads=(4, 4), ffn=(320, 320))
    configs, _ = train(student, aimed(student, (2, 2), (32, 32), end=1.0), 16)
    widths = [320] + [config.ffn[0] for config in configs]
    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) > 4
    assert widths[0] - widths[4] > widths[-5] - widths[-1]
    assert configs[7].ffn[0] > 32
    assert widths[-1] == 32


def test_the_target_is_reached_at_the_share_of_steps_asked_for():
    student = encoder()
    configs, _ = train(student, aimed(student, (1, 1), (32, 32), end=0.5), 20)
    assert configs[1].ffn != (32, 32)
    assert configs[9].ffn == (32, 32)


def test_optimiser_state_is_cut_like_its_parameter():
    student = encoder()
    _, optimizer = train(student, aimed(student, (1, 2), (32, 32)), 8)
    parameters = {id(p) for p in student.parameters()}
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == parameters
    for parameter, state in optimizer.state.items():
        assert id(parameter) in parameters
        assert state["exp_avg"].shape == parameter.shape


def test_a_cut_parameter_keeps_the_state_of_what_stays():
    layer = torch.nn.Linear(3, 4)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    layer(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    weight, moment = layer.weight.detach().clone(), optimizer.state[layer.weight]["exp_avg"].clone()
    keep = torch.tensor([1, 3])
    cut_parameter(layer, "weight", Cut(0, keep), optimizer)
    assert torch.equal(layer.weight, weight[keep])
    assert torch.equal(optimizer.state[layer.weight]["exp_avg"], moment[keep])
    assert float(optimizer.state[layer.weight]["step"]) == 1


@pytest.mark.parametrize("criterion", ["first_order", "magnitude"])
def test_dead_units_are_cut_first_and_change_nothing(criterion):
    student = encoder(heads=(4,), ffn=(64,), dropout=0.0)
    dead = torch.arange(0, 64, 2)
    with torch.no_grad():
        for p in (student.layers[0].up.weight, student.layers[0].up.bias, student.layers[0].down.weight.T):
            p[dead] = 0
        student.layers[0].out.weight[:, 8:16] = 0
    inputs = batch()
    expected = student(*inputs).detach()
    pruning = aimed(student, (3,), (32,), criterion=criterion, end=1.0)
    pruning.begin(student, 1)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.0)
    student(*inputs).sum().backward()
    pruning.after_backward(0)
    assert pruning.after_step(0, optimizer)
    assert torch.allclose(student(*inputs), expected, atol=1e-5)


def test_head_scores_are_the_gradient_of_a_gate():
    student = encoder(heads=(4,), ffn=(64,), dropout=0.0)
    layer, inputs = student.layers[0], batch()
    student(*inputs)[:, 0].sum().backward()
    scores = head_scores(layer, with_gradient=True)
    weight, eps = layer.out.weight.detach().clone(), 1e-2
    for head in range(4):
        sums = []
        for gate in (1 + eps, 1 - eps):
            with torch.no_grad():
                layer.out.weight.copy_(weight)
                layer.out.weight[:, 8 * head : 8 * head + 8] *= gate
                sums.append(float(student(*inputs)[:, 0].double().sum()))
        assert float(scores[head]) == pytest.approx(abs(sums[0] - sums[1]) / (2 * eps), rel=0.05, abs=1e-4)


def test_magnitude_scores_need_no_gradients():
    layer = encoder().layers[0]
    assert neuron_scores(layer, with_gradient=False).shape == (64,)
    assert np.all(head_scores(layer, with_gradient=False).numpy() > 0)


def test_the_report_says_every_width_before_and_after():
    student = encoder()
    pruning = aimed(student, (2, 4), (32, 96))
    train(student, pruning, 8)
    report = pruning.report()
    assert [(c.where, c.before, c.after) for c in report.changed] == [
        ("heads.0", 4, 2),
        ("ffn.0", 64, 32),
    ]
    assert {skip.where for skip in report.skipped} == {"heads.1", "ffn.1"}


def test_oneshot_leaves_the_student_alone_and_says_so():
    student = encoder()
    before, pruning = student.config, StructuredPruning()
    train(student, pruning, 4)
    assert student.config == before
    assert not pruning.is_gradual
    assert "oneshot" in pruning.report().skipped[0].why


def test_a_gradual_schedule_without_a_target_is_refused():
    with pytest.raises(StateError, match="no target shape"):
        StructuredPruning(schedule="cubic").begin(encoder(), 4)


def test_a_target_wider_than_the_student_is_refused():
    student = encoder()
    with pytest.raises(ConfigError, match=r"only heads and ffn can shrink"):
        aimed(student, (4, 4), (64, 128)).begin(student, 4)


@pytest.mark.parametrize("knobs", [{"schedule": "linear"}, {"criterion": "luck"}, {"end": 0.0}])
def test_a_wrong_knob_is_named(knobs):
    (name,) = knobs
    with pytest.raises(ConfigError, match=rf"structured_pruning\.{name}: "):
        StructuredPruning(**knobs)


def test_the_criterion_is_no_gene_of_oneshot_students():
    assert StructuredPruning.space().active({"schedule": "oneshot"}) == ("schedule",)


@pytest.mark.parametrize(
    ("start", "target", "n"), [(10, 10, 1), (100, 70, 1), (100, 69, 2), (100, 49, 2), (100, 48, 3), (12, 1, 7)]
)
def test_progressive_pruning_takes_as_many_rounds_as_thirty_per_cent_each_need(start, target, n):
    assert rounds(start, target) == n
    sizes = [start - (start - target) * geometric(start, target, done / n) for done in range(n + 1)]
    assert sizes[0] == pytest.approx(start)
    assert sizes[-1] == pytest.approx(target)
    kept = [after / before for before, after in itertools.pairwise(sizes)]
    assert kept == pytest.approx([(target / start) ** (1 / n)] * n)
    assert min(kept) >= 0.7 - 1e-9


def test_a_progressive_student_is_cut_rarely_and_learns_as_long_after_each_cut():
    student = encoder(heads=(4, 4), ffn=(320, 320))
    pruning = StructuredPruning(schedule="progressive", end=0.75)
    pruning.aim(replace(student.config, heads=(2, 4), ffn=(128, 320)))
    configs, _ = train(student, pruning, 24)
    widths = [config.ffn[0] for config in configs]
    assert widths == [320] * 5 + [224] * 6 + [160] * 6 + [128] * 7  # 320 * .4^(1/3), .4^(2/3), .4, in steps of 32
    assert [config.heads[0] for config in configs[4::6]] == [4, 3, 3, 2]
    assert student.config.heads == (2, 4)
    assert pruning.report().figures["milestones"] == 3


def test_a_progressive_student_that_is_at_its_target_is_left_alone():
    student = encoder()
    before, pruning = student.config, StructuredPruning(schedule="progressive")
    pruning.aim(before)
    train(student, pruning, 4)
    assert student.config == before
    assert not pruning.report().changed
