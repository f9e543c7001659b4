import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressors.adapters import ALPHA, Adapter
from compressors.distillation import Distillation
from compressors.penalties import Penalties
from compressors.structured import StructuredPruning
from compressors.tuning import Tuning
from compressors.weights import WeightPruning
from nas.distill import distill
from nas.recipe import TrainSettings
from search_spaces.errors import ConfigError, StateError
from tests.compressors.encoders import encoder, texts

PRECISIONS = ["fp32", "bf16"]


def tuned(tuning, precision="fp32", others=(), student=None, **settings):
    """Return a student after training with large weight decay, and its state before."""
    student = student or encoder()
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    train = TrainSettings(
        **{"epochs": 2, "lr": 1e-2, "batch_size": 16, "weight_decay": 0.5, "precision": precision, **settings}
    )
    distill(student, texts(), None, train, seed=0, loss=Distillation(alpha=1.0), compressors=[tuning, *others])
    return student, before


def moved(student, before):
    return {name for name, tensor in student.state_dict().items() if not torch.equal(tensor, before[name])}


HEAD = {f"head.{part}.{kind}" for part in ("dense", "out") for kind in ("weight", "bias")}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("train_embeddings", [False, True])
def test_only_the_last_layers_and_the_head_move(precision, train_embeddings):
    student, before = tuned(Tuning("last_k", k=1), precision, train_embeddings=train_embeddings)
    # what a key adds is the same for all tokens and lost in the softmax: its gradient is rounding
    last = {name for name in before if name.startswith("layers.1.")} | HEAD
    assert moved(student, before) | {"layers.1.key.bias"} == last


def test_more_layers_than_there_are_is_all_of_them():
    student, before = tuned(Tuning("last_k", k=3))
    assert {"layers.0.up.weight", "layers.1.up.weight"} <= moved(student, before)
    assert not any(name.startswith("embeddings") for name in moved(student, before))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_only_the_biases_and_the_head_move(precision):
    student, before = tuned(Tuning("bias"), precision)
    found = moved(student, before)
    assert {name for name in found if not name.endswith(".bias")} == {"head.dense.weight", "head.out.weight"}
    assert {"layers.0.up.bias", "layers.0.attention_norm.bias", "layers.1.down.bias"} <= found
    assert not any(name.startswith("embeddings") for name in found)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("targets", "parts"),
    [("query_value", ("query", "value")), ("all", ("query", "key", "value", "out", "up", "down"))],
)
def test_adapters_change_their_matrices_by_a_low_rank_and_nothing_else(precision, targets, parts):
    student, before = tuned(Tuning("lora", rank=3, targets=targets), precision)
    adapted = {f"layers.{i}.{part}.weight" for i in range(2) for part in parts}
    assert moved(student, before) == adapted | HEAD
    for name in adapted:
        change = (student.state_dict()[name] - before[name]).double()
        values = torch.linalg.svdvals(change)
        assert values[2] > 1e-4
        assert values[3] < 1e-3 * values[0]


def test_the_gradients_of_an_adapter_are_those_of_autograd():
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(5, 4, generator=generator), torch.randn(7, 4, generator=generator)
    adapter = Adapter.of("a", weight, 2)
    with torch.no_grad():
        adapter.up.normal_(generator=generator)
    up, down = (p.detach().clone().requires_grad_() for p in (adapter.up, adapter.down))
    F.linear(x, weight + ALPHA / 2 * up @ down).square().sum().backward()
    merged = adapter.merged().requires_grad_()
    F.linear(x, merged).square().sum().backward()
    adapter.pull_gradient(merged.grad)
    assert torch.allclose(adapter.up.grad, up.grad, rtol=1e-4)
    assert torch.allclose(adapter.down.grad, down.grad, rtol=1e-4)


class Explicit(nn.Module):
    """A Linear with a product beside it, as LoRA is drawn in the paper."""

    def __init__(self, linear: nn.Linear, adapter: Adapter) -> None:
        super().__init__()
        self.linear, self.scale = linear, adapter.scale
        self.up, self.down = (nn.Parameter(p.detach().clone()) for p in (adapter.up, adapter.down))

    def forward(self, x):
        return self.linear(x) + self.scale * F.linear(F.linear(x, self.down), self.up)


def test_a_run_with_adapters_is_that_of_a_model_with_explicit_products():
    student, rank, n_steps = encoder(), 3, 6
    explicit = copy.deepcopy(student)
    explicit.requires_grad_(False)
    for index, layer in enumerate(explicit.layers):
        for part in ("query", "value"):
            linear = getattr(layer, part)
            setattr(layer, part, Explicit(linear, Adapter.of(f"layers.{index}.{part}.weight", linear.weight, rank)))
            getattr(layer, part).up.requires_grad_(True)
            getattr(layer, part).down.requires_grad_(True)
    explicit.head.requires_grad_(True)
    factors = [p for name, p in explicit.named_parameters() if name.endswith((".up", ".down"))]
    optimizer = torch.optim.AdamW([*explicit.head.parameters(), *factors], lr=1e-2, weight_decay=0.0)

    tuning = Tuning("lora", rank=rank)
    tuning.begin(student, n_steps)
    ours = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    tokens = texts(96)
    for step in range(n_steps):
        rows = np.arange(16) + 16 * step
        batch, labels = tokens.collate(rows), torch.from_numpy(tokens.labels[rows])
        for model in (explicit, student):
            F.cross_entropy(model(*batch), labels).backward()
        optimizer.step()
        tuning.after_backward(step)
        ours.step()
        tuning.after_step(step, ours)
        explicit.zero_grad()
        student.zero_grad()
    tuning.end()
    with torch.no_grad():
        expected, found, start = (model(*tokens.collate(np.arange(96))) for model in (explicit, student, encoder()))
    assert torch.allclose(found, expected, atol=1e-4)
    assert (found - start).abs().max() > 0.05


def test_adapters_that_have_not_learned_change_nothing():
    student = encoder()
    tuning = Tuning("lora", rank=4)
    tuning.begin(student, 1)
    tuning.end()
    assert all(torch.equal(tensor, encoder().state_dict()[name]) for name, tensor in student.state_dict().items())
    assert set(student.state_dict()) == set(encoder().state_dict())


def test_a_student_learns_with_adapters():
    tokens, student = texts(256), encoder()
    train = TrainSettings(epochs=12, lr=3e-3, batch_size=16, precision="fp32")
    tuning = Tuning("lora", targets="all")
    epochs, _ = distill(student, tokens, None, train, seed=0, loss=Distillation(alpha=1.0), compressors=[tuning])
    assert epochs[-1].loss < 0.75 * epochs[0].loss


def test_penalties_are_the_gradients_of_their_formula():
    start, weight = torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0, -1.0]], requires_grad=True)
    value = 0.5 / 2 * weight.square().sum() + 0.25 * weight.abs().sum() + 2.0 / 2 * (weight - start).square().sum()
    value.backward()
    gradient = torch.ones(1, 2)
    Penalties(0.5, 0.25, 2.0).add(weight.detach(), start, gradient)
    assert torch.allclose(gradient, 1 + weight.grad)
    assert gradient.tolist() == [[1 + 1.5 + 0.25 + 4, 1 - 0.5 - 0.25 + 2]]


def test_biases_are_not_pulled_to_zero_but_to_their_start():
    gradient = torch.zeros(2)
    Penalties(1.0, 1.0, 0.0).add(torch.ones(2), None, gradient)
    assert gradient.tolist() == [0, 0]
    Penalties(1.0, 1.0, 0.5).add(torch.ones(2), torch.zeros(2), gradient)
    assert gradient.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("mode", ["full", "lora"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_student_held_near_its_start_goes_less_far(mode, precision):
    ways = {}
    for l2_sp in (0.0, 0.1, 10.0):
        student, before = tuned(Tuning(mode, l2_sp=l2_sp), precision, weight_decay=0.0)
        state = student.state_dict()
        ways[l2_sp] = sum((state[name] - before[name]).square().sum() for name in before).sqrt().item()
    assert ways[10.0] < 0.7 * ways[0.0]
    assert ways[10.0] < ways[0.1] < ways[0.0]


@pytest.mark.parametrize(("knob", "norm"), [("l2", 2), ("l1", 1)])
def test_a_student_pulled_to_zero_has_smaller_weights(knob, norm):
    norms = []
    for weight in (0.0, 1.0):
        student, _ = tuned(Tuning(**{knob: weight}), weight_decay=0.0)
        norms.append(torch.linalg.vector_norm(student.layers[0].up.weight.detach(), norm).item())
    assert norms[1] < 0.9 * norms[0]


def test_the_default_trains_exactly_as_without_it():
    students = [tuned(tuning)[0] for tuning in (Tuning(), WeightPruning())]  # the other is at its default, too
    assert all(torch.equal(a, b) for a, b in zip(*(s.state_dict().values() for s in students), strict=True))


def test_the_report_counts_what_learns_and_says_why_the_rest_does_not():
    tuning = Tuning("lora", rank=2)
    assert tuning.report().skipped[0].why == "training has not begun"
    student, _ = tuned(tuning)
    report = tuning.report()
    learned = {change.where: (change.before, change.after) for change in report.changed}
    assert learned["layers.0.query.weight"] == (32 * 32, 2 * (32 + 32))
    assert set(learned) == {f"layers.{i}.{part}.weight" for i in range(2) for part in ("query", "value")} | HEAD
    why = {skip.where: skip.why for skip in report.skipped}
    assert why["embeddings.word.weight"] == "the training run froze it"
    assert why["layers.0.up.weight"] == "mode is lora"
    assert report.figures["parameters"] == sum(p.numel() for p in student.parameters())
    assert report.figures["learned"] == sum(after for _, after in learned.values())
    assert set(why) | set(learned) == set(student.state_dict())


def test_everything_can_be_trained_again_afterwards():
    student, _ = tuned(Tuning("bias"))
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_adapters_and_single_weight_pruning_go_together():
    student, _ = tuned(Tuning("lora", rank=2, targets="all"), others=[WeightPruning(0.5, "oneshot")])
    weight = student.layers[0].up.weight
    assert (weight == 0).float().mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("knobs", [{"mode": "lora"}, {"l2_sp": 0.1}])
def test_weights_that_are_cut_while_they_are_held_are_refused(knobs):
    pruning = StructuredPruning(schedule="cubic", criterion="magnitude")
    student = encoder()
    pruning.aim(encoder(heads=(2, 2), ffn=(32, 32)).config)
    with pytest.raises(StateError, match=r"tuning: layers\.0\.\w+\.(weight|bias) was \(.*oneshot"):
        tuned(Tuning(**knobs), others=[pruning], student=student)


@pytest.mark.parametrize("mode", ["bias", "last_k"])
def test_units_of_weights_that_do_not_learn_are_cut_by_magnitude_only(mode):
    target = encoder(heads=(2, 2), ffn=(32, 32)).config
    for criterion in ("magnitude", "first_order"):
        pruning, student = StructuredPruning("cubic", criterion), encoder()
        pruning.aim(target)
        if criterion == "magnitude":
            tuned(Tuning(mode), others=[pruning], student=student)
            assert student.config == target
            continue
        with pytest.raises(StateError, match=r"a weight of shape \(32, 32\) has no gradient.*magnitude"):
            tuned(Tuning(mode), others=[pruning], student=student)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"mode": "loar"}, r"tuning\.mode: 'loar' is unknown.*Did you mean 'lora'"),
        ({"targets": "key"}, r"tuning\.targets: 'key' is unknown"),
        ({"k": 0}, r"tuning\.k: 0 is out of range"),
        ({"rank": 0}, r"tuning\.rank: 0 is out of range"),
        ({"l2": -1.0}, r"tuning\.l2: -1\.0 is out of range"),
        ({"l2_sp": float("nan")}, r"tuning\.l2_sp: nan is out of range"),
    ],
)
def test_a_knob_out_of_range_is_named(knobs, message):
    with pytest.raises(ConfigError, match=message):
        Tuning(**knobs)


def test_a_rank_that_is_none_is_refused_before_anything_is_frozen():
    student = encoder()
    with pytest.raises(ConfigError, match=r"tuning\.rank: 32 is not below the 32 of layers\.\d\.\w+\.weight"):
        Tuning("lora", rank=32).begin(student, 1)
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_a_model_without_layers_or_biases_is_refused():
    with pytest.raises(ConfigError, match=r"tuning\.mode: 'bias' found nothing.*2 parameters, first: 0\.weight"):
        Tuning("bias").begin(nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False)), 1)
    with pytest.raises(ConfigError, match=r"'last_k' found nothing"):
        Tuning("last_k").begin(nn.Sequential(nn.Linear(2, 3)), 1)
