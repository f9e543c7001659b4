import json

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from compressors.base import Material
from compressors.distillation import Distillation
from compressors.low_rank import LowRank
from nas.devices.onnx_text_encoder import build_onnx
from nas.distill import distill
from nas.recipe import TrainSettings
from search_spaces.errors import ConfigError, DataError
from search_spaces.families.encoder_costs import macs, parameters
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder
from search_spaces.families.factored import FactoredLinear
from tests.compressors.convnet import convnet, image_material, images
from tests.compressors.encoders import encoder, texts


def strong() -> TextEncoder:
    """Return an encoder whose logits depend strongly on every weight."""
    model = encoder()
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.2, generator=torch.Generator().manual_seed(parameter.numel()))
    return model


def material(rows: int = 40) -> Material:
    tokens = texts(rows)
    return Material([(tuple(tokens.collate(np.arange(rows))), torch.from_numpy(tokens.labels))])


def answers(model: nn.Module, given: Material) -> torch.Tensor:
    with torch.no_grad():
        return model(*given.batches[0][0])


@pytest.mark.parametrize("which", ["ffn", "attention", "embeddings", "ffn+attention", "all"])
def test_config_costs_files_and_the_exported_graph_follow_the_factors(which: str) -> None:
    given = material()
    small = LowRank(0.4, which).apply(strong(), given)
    assert not small.config.is_uniform
    config = EncoderConfig.from_json(json.loads(json.dumps(small.config.to_json())))
    assert config == small.config
    assert parameters(config) == sum(p.numel() for p in small.parameters()) < parameters(encoder().config)
    assert macs(config, 16) < macs(encoder().config, 16) or which == "embeddings"
    again = TextEncoder(config).eval()
    again.load_state_dict(load(save(small.state_dict())))
    assert torch.equal(answers(again, given), answers(small, given))
    session = onnxruntime.InferenceSession(build_onnx(small), providers=["CPUExecutionProvider"])
    named = dict(zip(("input_ids", "attention_mask", "token_type_ids"), given.batches[0][0], strict=True))
    logits = session.run(None, {name: tensor.numpy() for name, tensor in named.items()})[0]
    np.testing.assert_allclose(logits, answers(small, given).numpy(), atol=1e-4)


def test_the_report_counts_the_weights_of_every_matrix() -> None:
    compressor, model = LowRank(0.5, "ffn", aware=False), strong()
    small = compressor.apply(model, Material([]))
    report = compressor.report()
    assert [change.where for change in report.changed] == [
        "layers.0.up",
        "layers.0.down",
        "layers.1.up",
        "layers.1.down",
    ]
    first = small.layers[0].up
    assert isinstance(first, FactoredLinear)
    rank = int(0.5 * 32 * 64 / 96)
    assert (report.changed[0].before, report.changed[0].after) == (32 * 64, rank * (32 + 64))
    n_before, n_after = (sum(p.numel() for p in each.parameters()) for each in (model, small))
    assert report.figures["weights_before"] - report.figures["weights_after"] == n_before - n_after
    tails = [torch.linalg.svdvals(layer.up.weight)[rank:].square().sum() for layer in model.layers[:1]]
    lost = torch.linalg.norm(model.layers[0].up.weight - first.outer.weight @ first.inner.weight)
    assert float(lost**2) == pytest.approx(float(tails[0]), rel=1e-4)


@pytest.mark.parametrize("which", ["layers.0.up", "layers.0.down", "layers.0.value"])
def test_the_aware_factors_answer_better_on_what_comes_in(which: str) -> None:
    given, model = material(), strong()
    seen: list[torch.Tensor] = []
    hook = model.get_submodule(which).register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    answers(model, given)
    hook.remove()
    x = seen[0][given.batches[0][0][1].bool()]
    wanted = model.get_submodule(which)(x)
    errors = [
        float((LowRank(0.4, which, aware).apply(model, given).get_submodule(which)(x) - wanted).norm())
        for aware in (True, False)
    ]
    assert errors[0] < errors[1]


def test_frequent_words_are_nearer_when_the_corpus_is_known() -> None:
    model = strong()
    counts = np.zeros(100, np.int64)
    counts[7:12] = 1000
    tables = [
        LowRank(0.3, "embeddings", aware).apply(model, Material(material().batches, corpus=counts)).embeddings
        for aware in (True, False)
    ]
    full = model.embeddings.word.weight
    errors = [(table.rank(table.word.weight) - full)[7:12].norm() for table in tables]
    assert errors[0] < 0.5 * errors[1]


def test_it_learns_like_any_student() -> None:
    small = LowRank(0.5).apply(strong(), material())
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    settings = TrainSettings(epochs=2, batch_size=16, lr=1e-3, precision="bf16")
    distill(small, texts(), None, settings, seed=0, loss=Distillation())
    moved = [name for name, tensor in small.state_dict().items() if not torch.equal(tensor, before[name])]
    assert {"layers.0.up.inner.weight", "layers.0.up.outer.weight", "embeddings.rank.weight"} <= set(moved)


def test_convolutions_and_linears_of_any_module_are_factored_and_others_skipped() -> None:
    model, compressor = convnet(), LowRank(0.5)
    small = compressor.apply(model, image_material())
    report = compressor.report()
    assert [change.where for change in report.changed] == ["0", "3", "7"]
    reasons = {skip.where: skip.why for skip in report.skipped}
    assert reasons["1"].startswith("BatchNorm2d is no Linear")
    assert reasons["5"].startswith("a convolution of 24 groups")
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    assert small(images()).shape == (12, 5)


def test_the_argument_is_untouched_and_no_memory_is_shared() -> None:
    model, given = strong(), material()
    before, config = {name: tensor.clone() for name, tensor in model.state_dict().items()}, model.config
    small = LowRank().apply(model, given)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.zero_()
    assert model.config == config
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_second_time_is_refused_but_other_matrices_can_follow() -> None:
    given = material()
    small = LowRank(0.5, "ffn").apply(strong(), given)
    with pytest.raises(ConfigError, match="no layer matched 'layers"):
        LowRank(0.5, "layers.*.down").apply(LowRank(0.5, "all").apply(strong(), given), given)
    both = LowRank(0.5, "attention").apply(small, given)
    assert len(both.config.ranks) == 4 + 8
    again = TextEncoder(both.config)
    again.load_state_dict(both.state_dict())
    with pytest.raises(ConfigError, match=r"nothing that can be factored .*word: already a product of rank 12"):
        LowRank(0.5, "embeddings").apply(LowRank(0.5, "embeddings").apply(strong(), given), given)
    with pytest.raises(ConfigError, match=r"nothing that can be factored .*already a factor"):
        LowRank(0.5, "0*").apply(LowRank(0.5, "0").apply(convnet(), image_material()), image_material())


def test_a_share_of_one_leaves_the_model_as_it_is() -> None:
    compressor, given = LowRank(1.0), material()
    assert torch.equal(answers(compressor.apply(strong(), given), given), answers(strong(), given))
    assert [skip.why for skip in compressor.report().skipped] == ["share is 1"]


def test_what_matches_nothing_names_the_layers_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no layer matched 'fnn'; the model has .* first: embeddings.word, "):
        LowRank(which="fnn").apply(encoder(), material())
    with pytest.raises(ConfigError, match=r"no layer matched 'all'; the model has 0 layers"):
        LowRank(aware=False).apply(nn.Linear(9, 9), Material([]))
    with pytest.raises(ConfigError, match=r"matched nothing that can be factored .*even rank 1 has more than 0.01"):
        LowRank(0.01, which="head.out").apply(encoder(), material())


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"share": 0.0}, r"low_rank\.share: 0.0 is out of range; above 0, at most 1"),
        ({"share": 1.5}, r"low_rank\.share: 1.5 is out of range"),
        ({"which": "ffn+"}, r"low_rank\.which: 'ffn\+' has an empty part; ffn, attention"),
    ],
)
def test_knobs_out_of_range_are_refused(knobs: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LowRank(**knobs)


def test_awareness_without_rows_is_refused() -> None:
    with pytest.raises(DataError, match=r"low_rank\.aware: True needs rows and there are 0"):
        LowRank().apply(encoder(), Material([]))
