from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from compressors.importance import Sample, score_importance
from search_spaces.errors import ConfigError, DataError
from search_spaces.families.encoder_hf import from_hf
from search_spaces.families.encoder_model import TextEncoder
from tests.search_spaces.families.tiny import padded_batch, save_tiny_hf

CRITERIA = ["first_order", "activation", "magnitude"]


@pytest.fixture
def model(tmp_path: Path) -> TextEncoder:
    save_tiny_hf("bert", tmp_path)
    return from_hf(str(tmp_path))[0]


def samples() -> list[Sample]:
    batch = padded_batch()
    inputs = batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]
    labels = torch.tensor([0, 2, 1, 1])
    return [(tuple(x[rows] for x in inputs), labels[rows]) for rows in (slice(0, 2), slice(2, 4))]


def gate_gradient(model: TextEncoder, parts: list[tuple[Tensor, tuple[slice, ...]]]) -> float:
    """Return the sum over batches of |dL/dgate| of one gate on parts of weights, by central differences."""
    total, kept = 0.0, [weight.detach().clone() for weight, _ in parts]
    for inputs, labels in samples():
        losses = []
        with torch.no_grad():
            for gate in (1 + 1e-5, 1 - 1e-5):
                for (weight, part), original in zip(parts, kept, strict=True):
                    weight[part] = gate * original[part]
                losses.append(float(F.cross_entropy(model(*inputs), labels)))
            for (weight, _), original in zip(parts, kept, strict=True):
                weight.copy_(original)
        total += abs(losses[0] - losses[1]) / 2e-5
    return total


@pytest.mark.parametrize("head", [0, 3])
def test_first_order_of_a_head_is_the_gradient_of_a_gate_on_it(model: TextEncoder, head: int) -> None:
    scores = score_importance(model.double(), samples())
    columns = (slice(None), slice(head * 8, head * 8 + 8))
    assert scores.heads[1][head] == pytest.approx(
        gate_gradient(model, [(model.layers[1].out.weight, columns)]), rel=1e-4
    )


def test_first_order_of_a_neuron_is_the_gradient_of_gates_before_and_after_it(model: TextEncoder) -> None:
    scores = score_importance(model.double(), samples())
    layer, one = model.layers[2], slice(5, 6)
    before = gate_gradient(model, [(layer.up.weight, (one,)), (layer.up.bias, (one,))])
    after = gate_gradient(model, [(layer.down.weight, (slice(None), one))])
    assert scores.ffn[2][5] == pytest.approx(before + after, rel=1e-4)


def test_first_order_of_a_hidden_dimension_is_the_gradient_of_gates_on_all_norms(model: TextEncoder) -> None:
    scores = score_importance(model.double(), samples())
    norms = [m for m in model.modules() if isinstance(m, torch.nn.LayerNorm)]
    gates = [gate_gradient(model, [(norm.weight, (slice(9, 10),)), (norm.bias, (slice(9, 10),))]) for norm in norms]
    assert scores.hidden[9] == pytest.approx(sum(gates), rel=1e-4)


def test_first_order_is_absolute_per_batch_so_signs_do_not_cancel(model: TextEncoder) -> None:
    one, two = (score_importance(model, [sample]) for sample in samples())
    both = score_importance(model, samples())
    assert np.allclose(both.heads[0], one.heads[0] + two.heads[0], rtol=1e-4)
    assert np.allclose(both.hidden, one.hidden + two.hidden, rtol=1e-4)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_units_without_effect_come_last(model: TextEncoder, criterion: str) -> None:
    with torch.no_grad():
        for module in (model.layers[1].query, model.layers[1].key, model.layers[1].value):
            module.weight[8:16] = 0
            module.bias[8:16] = 0
        model.layers[1].out.weight[:, 8:16] = 0
        model.layers[1].up.weight[7] = 0
        model.layers[1].up.bias[7] = 0
        model.layers[1].down.weight[:, 7] = 0
    scores = score_importance(model, samples(), criterion)
    assert scores.heads[1].argmin() == 1
    assert scores.ffn[1].argmin() == 7


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_unit_has_a_finite_score(model: TextEncoder, criterion: str) -> None:
    scores = score_importance(model, samples(), criterion)
    assert [len(s) for s in scores.heads] == [4, 4, 4]
    assert [len(s) for s in scores.ffn] == [64, 64, 64]
    assert (len(scores.hidden), len(scores.layers)) == (32, 3)
    assert all(np.isfinite(array).all() for array in scores.to_arrays().values())


def test_padding_does_not_change_activation_scores(model: TextEncoder) -> None:
    (ids, mask, types), labels = samples()[0]
    longer = tuple(F.pad(x, (0, 5), value=fill) for x, fill in ((ids, 17), (mask, 0), (types, 0)))
    plain = score_importance(model, [((ids, mask, types), labels)], "activation")
    padded = score_importance(model, [(longer, labels)], "activation")
    assert all(np.allclose(a, b, rtol=1e-4) for a, b in zip(plain.ffn, padded.ffn, strict=True))
    assert np.allclose(plain.layers, padded.layers, atol=1e-5)


def test_a_layer_that_changes_nothing_is_the_least_important(model: TextEncoder) -> None:
    with torch.no_grad():
        for weight in (model.layers[1].out, model.layers[1].down):
            weight.weight.zero_()
            weight.bias.zero_()
        for norm in (model.layers[0].ffn_norm, model.layers[1].attention_norm, model.layers[1].ffn_norm):
            norm.weight.fill_(1)
            norm.bias.zero_()
    scores = score_importance(model, samples(), "activation")
    assert scores.layers.argmin() == 1
    assert scores.layers[1] == pytest.approx(0, abs=1e-6)


def test_scoring_leaves_the_model_as_it_was(model: TextEncoder) -> None:
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for criterion in CRITERIA:
        score_importance(model, samples(), criterion)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_separate_embedding_tables_are_no_part_of_the_stream(tmp_path: Path) -> None:
    save_tiny_hf("electra", tmp_path)
    electra, _ = from_hf(str(tmp_path))
    for criterion in CRITERIA:
        assert score_importance(electra, samples(), criterion).hidden.shape == (32,)


def test_no_batches_and_an_unknown_criterion_are_refused(model: TextEncoder) -> None:
    with pytest.raises(DataError, match="0 batches to score on"):
        score_importance(model, [])
    with pytest.raises(ConfigError, match=r"'taylor' is unknown; known: first_order"):
        score_importance(model, samples(), "taylor")
