import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load, save

from compressors.base import Material
from compressors.distillation import Distillation
from compressors.importance import score_importance
from compressors.int8 import DynamicInt8
from compressors.layer_sharing import LayerSharing
from compressors.low_rank import LowRank
from nas.devices.onnx_text_encoder import build_onnx
from nas.distill import distill
from nas.recipe import TrainSettings
from search_spaces.errors import ConfigError, DataError
from search_spaces.families.encoder_costs import macs, parameters
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder
from tests.compressors.encoders import encoder, texts


def deep(heads: tuple[int, ...] = (4,) * 5, ffn: tuple[int, ...] = (64,) * 5) -> TextEncoder:
    model = encoder(heads, ffn)
    for number, parameter in enumerate(model.parameters()):
        parameter.data.normal_(0, 0.2, generator=torch.Generator().manual_seed(number))
    return model


def material(rows: int = 16) -> Material:
    tokens = texts(rows)
    return Material([(tuple(tokens.collate(np.arange(rows))), torch.from_numpy(tokens.labels))])


def answers(model: torch.nn.Module, given: Material) -> torch.Tensor:
    with torch.no_grad():
        return model(*given.batches[0][0])


def run(artefact: bytes, given: Material) -> np.ndarray:
    session = onnxruntime.InferenceSession(artefact, providers=["CPUExecutionProvider"])
    named = dict(zip(("input_ids", "attention_mask", "token_type_ids"), given.batches[0][0], strict=True))
    return session.run(None, {name: tensor.numpy() for name, tensor in named.items()})[0]


def test_a_group_is_one_layer_and_the_last_group_may_be_smaller() -> None:
    compressor, model = LayerSharing(2), deep()
    small = compressor.apply(model, Material([]))
    assert small.config.sharing == (0, 0, 2, 2, 4)
    assert small.layers[0] is small.layers[1]
    assert small.layers[2] is small.layers[3]
    assert not small.config.is_uniform
    layer = sum(p.numel() for p in model.layers[0].parameters())
    figures = compressor.report().figures
    assert figures["parameters_before"] - figures["parameters_after"] == 2 * layer
    assert parameters(small.config) == sum(p.numel() for p in small.parameters()) == figures["parameters_after"]
    assert macs(small.config, 16) == macs(model.config, 16)
    assert "latency" in [skip.where for skip in compressor.report().skipped]


def test_the_taken_weights_are_the_mean_the_first_or_the_most_important_ones() -> None:
    model, given = deep(), material()
    weights = [layer.up.weight for layer in model.layers]
    mean = LayerSharing(3, "average").apply(model, given).layers[1].up.weight
    assert torch.allclose(mean, torch.stack(weights[:3]).mean(0), atol=1e-6)
    assert torch.equal(LayerSharing(3, "first").apply(model, given).layers[4].up.weight, weights[3])
    scores = score_importance(model, given.batches, "activation").layers
    best = int(np.argmax(scores[:3]))
    assert torch.equal(LayerSharing(3, "important").apply(model, given).layers[0].up.weight, weights[best])


def test_equal_layers_that_share_are_the_same_function() -> None:
    model = deep()
    for layer in model.layers[1:]:
        layer.load_state_dict(model.layers[0].state_dict())
    for take in ("average", "first", "important"):
        small = LayerSharing(5, take).apply(model, material())
        assert torch.allclose(answers(small, material()), answers(model, material()), atol=1e-5)


def test_shared_weights_get_the_gradients_of_all_their_layers() -> None:
    small = LayerSharing(5, "first").apply(deep(), material())
    apart = TextEncoder(EncoderConfig.from_json({**small.config.to_json(), "sharing": []})).eval()
    own = small.state_dict()
    state = {n: own[".".join(["layers", "0", *n.split(".")[2:]]) if "layers" in n else n] for n in apart.state_dict()}
    apart.load_state_dict(state)
    for model in (small, apart):
        inputs, labels = material().batches[0]
        torch.nn.functional.cross_entropy(model(*inputs), labels).backward()
    for name, parameter in small.layers[0].named_parameters():
        parts = [dict(layer.named_parameters())[name].grad for layer in apart.layers]
        assert torch.allclose(parameter.grad, torch.stack(parts).sum(0), atol=1e-5)


def test_a_file_holds_each_weight_once_and_gives_the_same_model() -> None:
    model, given = deep(), material()
    small = LayerSharing(5, "first").apply(model, given)
    content = save(small.state_dict())
    assert len(content) < 0.45 * len(save(model.state_dict()))
    config = EncoderConfig.from_json(json.loads(json.dumps(small.config.to_json())))
    again = TextEncoder(config).eval()
    again.load_state_dict(load(content))
    assert again.layers[0] is again.layers[4]
    assert torch.equal(answers(again, given), answers(small, given))


def test_a_config_of_before_sharing_is_still_read() -> None:
    fields = encoder().config.to_json()
    old = {name: value for name, value in fields.items() if name not in ("sharing", "ranks")}
    assert EncoderConfig.from_json(old) == encoder().config


@pytest.mark.parametrize("group", [2, 5])
def test_the_exported_file_holds_each_weight_once_and_gives_the_same_logits(group: int) -> None:
    model, given = deep(), material()
    small = LayerSharing(group).apply(model, given)
    artefact = build_onnx(small)
    np.testing.assert_allclose(run(artefact, given), answers(small, given).numpy(), atol=1e-4)
    stored = sum(np.prod(tensor.dims) for tensor in onnx.load_from_string(artefact).graph.initializer)
    assert abs(stored - parameters(small.config)) < 10
    onnx.checker.check_model(onnx.load_from_string(artefact))
    quantized = DynamicInt8().apply(artefact)
    assert np.isfinite(run(quantized, given)).all()
    assert len(quantized) < len(DynamicInt8().apply(build_onnx(model))) - 0.9 * (
        parameters(model.config) - parameters(small.config)
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_learns_and_its_layers_stay_one(precision: str) -> None:
    small = LayerSharing(2).apply(deep(), material())
    before = small.layers[1].up.weight.detach().clone()
    settings = TrainSettings(epochs=1, batch_size=16, lr=1e-3, precision=precision)
    distill(small, texts(), None, settings, seed=0, loss=Distillation())
    assert small.layers[0] is small.layers[1]
    assert not torch.equal(small.layers[1].up.weight, before)


def test_shared_layers_can_be_factored_afterwards() -> None:
    given = material()
    small = LowRank(0.5, "ffn").apply(LayerSharing(2).apply(deep(), given), given)
    assert [name for name, _ in small.config.ranks] == [
        f"layers.{i}.{part}" for i in (0, 2, 4) for part in ("up", "down")
    ]
    again = TextEncoder(small.config).eval()
    again.load_state_dict(load(save(small.state_dict())))
    assert torch.equal(answers(again, given), answers(small, given))
    np.testing.assert_allclose(run(build_onnx(small), given), answers(small, given).numpy(), atol=1e-4)
    assert parameters(small.config) == sum(p.numel() for p in small.parameters())
    with pytest.raises(ConfigError, match=r"layers.0.up is factored; share first"):
        LayerSharing(2).apply(LowRank(0.5, "ffn").apply(deep(), given), given)


def test_groups_of_several_shapes_are_left_alone() -> None:
    compressor = LayerSharing(2)
    small = compressor.apply(deep((4, 4, 4, 2), (64, 64, 64, 32)), Material([]))
    assert small.config.sharing == (0, 0, 2, 3)
    assert compressor.report().skipped[0].why == "shapes differ: [(2, 32), (4, 64)]"
    with pytest.raises(ConfigError, match=r"no 2 consecutive layers of 2 have one shape \(heads \(4, 4\), FFN"):
        LayerSharing(2).apply(encoder(), Material([]))


def test_the_argument_is_untouched_and_no_memory_is_shared() -> None:
    model = deep()
    before, config = {name: tensor.clone() for name, tensor in model.state_dict().items()}, model.config
    small = LayerSharing(2).apply(model, material())
    assert all(p.requires_grad for p in small.parameters())
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.zero_()
    assert model.config == config
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_groups_of_one_leave_the_model_as_it_is() -> None:
    compressor = LayerSharing(1)
    small = compressor.apply(deep(), Material([]))
    assert torch.equal(answers(small, material()), answers(deep(), material()))
    assert small.config == deep().config
    assert [skip.why for skip in compressor.report().skipped] == ["group is 1"]


def test_a_second_time_and_other_models_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"share weights already \(0, 0, 2, 2, 4\)"):
        LayerSharing().apply(LayerSharing().apply(deep(), Material([])), Material([]))
    with pytest.raises(ConfigError, match="a Linear has no list of layers"):
        LayerSharing().apply(torch.nn.Linear(2, 2), Material([]))
    with pytest.raises(DataError, match="'important' needs rows and there are 0"):
        LayerSharing(take="important").apply(deep(), Material([]))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"group": 0}, r"layer_sharing\.group: 0 is out of range; 1 or more"),
        ({"take": "last"}, r"layer_sharing\.take: 'last' is unknown; known: average, first, important"),
    ],
)
def test_knobs_out_of_range_are_refused(knobs: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LayerSharing(**knobs)


@pytest.mark.parametrize("sharing", [[0, 0], [0, 0, 3, 3, 4], [0, 0, -1, 2, 4], [0, 0, 1, 3, 4]])
def test_a_config_with_impossible_sharing_is_refused(sharing: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"encoder\.sharing: .* does not fit"):
        EncoderConfig.from_json({**deep().config.to_json(), "sharing": sharing})
