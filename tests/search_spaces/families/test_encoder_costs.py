import dataclasses

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from search_spaces.families.encoder_costs import features, macs, parameters
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder
from tests.search_spaces.families.test_encoder_model import CONFIG

SHAPES = [
    CONFIG,
    dataclasses.replace(CONFIG, embedding_rank=8),
    dataclasses.replace(CONFIG, embedding=16, embedding_rank=4, n_token_types=0),
    dataclasses.replace(CONFIG, heads=(4,), ffn=(64,)),
    dataclasses.replace(
        CONFIG, ranks=(("layers.0.up", 5), ("layers.2.key", 3), ("layers.2.out", 4), ("head.dense", 6))
    ),
    dataclasses.replace(CONFIG, embedding=16, ranks=(("embeddings.project", 2), ("head.out", 1))),
    dataclasses.replace(CONFIG, heads=(2,) * 4, ffn=(16,) * 4, sharing=(0, 0, 2, 2), ranks=(("layers.2.query", 3),)),
]


@pytest.mark.parametrize("config", SHAPES)
def test_parameters_are_those_of_the_module(config: EncoderConfig) -> None:
    assert parameters(config) == sum(p.numel() for p in TextEncoder(config).parameters())


@pytest.mark.parametrize("config", SHAPES)
def test_macs_are_half_the_flops_that_torch_counts(config: EncoderConfig) -> None:
    model = TextEncoder(config).eval()
    # the counter sees the products of plain attention, not those of the fused kernel
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(torch.ones(1, 13, dtype=torch.long))
    assert 2 * macs(config, 13) == counter.get_total_flops()


@pytest.mark.parametrize("config", SHAPES)
def test_gflop_features_add_up_to_the_macs(config: EncoderConfig) -> None:
    named = features(config, 13)
    last_attention = 2 * config.heads[-1] * config.head_size * 13
    total = sum(value for name, value in named.items() if name.endswith("_gflop"))
    assert total * 1e9 == pytest.approx(2 * (macs(config, 13) - last_attention))


def test_attention_grows_with_the_square_of_the_length() -> None:
    short, long = features(CONFIG, 16), features(CONFIG, 32)
    assert long["attention_gflop"] == pytest.approx(4 * short["attention_gflop"])
    assert long["ffn_gflop"] == pytest.approx(2 * short["ffn_gflop"])
    assert long["weights_mb"] == short["weights_mb"]
