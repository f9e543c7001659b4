"""What every method of the table keeps to that tells its shape beforehand."""

from dataclasses import replace

import pytest
import torch

from compressors import COMPRESSORS
from search_spaces.errors import ConfigError
from search_spaces.families.encoder_costs import parameters
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder
from search_spaces.seeding import rng_for
from tests.compressors.encoders import encoder, material

PLAIN = encoder((4, 4, 4), (64, 64, 64)).config
CONFIGS = {
    "plain": PLAIN,
    "one head and odd widths": replace(PLAIN, heads=(1, 1), ffn=(9, 9)),
    "tables of their own": replace(PLAIN, embedding=24),
    "factored words": replace(PLAIN, embedding_rank=6),
    "factored layers": replace(PLAIN, ranks=(("layers.1.up", 5), ("head.dense", 3))),
    "shared layers": replace(PLAIN, sharing=(0, 0, 2)),
    "everything": replace(PLAIN, sharing=(0, 0, 0), ranks=(("layers.0.key", 5),), embedding_rank=4, embedding=24),
}
TELLING = [name for name in COMPRESSORS if hasattr(COMPRESSORS.load(name), "shape")]
N_SAMPLES = 20


def told(name: str, knobs: dict[str, object], config: EncoderConfig) -> EncoderConfig | str:
    """Return the shape a method tells, or its refusal without the words that differ."""
    try:
        return COMPRESSORS.load(name)(**knobs).shape(config)
    except ConfigError as error:
        return str(error).split(":")[0]


def made(name: str, knobs: dict[str, object], model: TextEncoder) -> TextEncoder | str:
    """Return what a method makes, or its refusal likewise."""
    try:
        return COMPRESSORS.load(name)(**knobs).apply(model, material())
    except ConfigError as error:
        return str(error).split(":")[0]


def test_methods_of_structure_tell_their_shape_unless_the_data_decide() -> None:
    assert set(TELLING) == {"layer_pruning", "layer_sharing", "low_rank", "unit_pruning"}


@pytest.mark.parametrize("name", TELLING)
@pytest.mark.parametrize("kind", list(CONFIGS))
def test_the_shape_it_tells_is_that_of_what_it_makes(name: str, kind: str) -> None:
    torch.manual_seed(0)
    model, space, rng = TextEncoder(CONFIGS[kind]).eval(), COMPRESSORS.load(name).space(), rng_for(0, name, kind)
    for _ in range(N_SAMPLES):
        knobs = space.sample(rng)
        student, config = made(name, knobs, model), told(name, knobs, model.config)
        if isinstance(student, str):
            assert config == student, knobs
            continue
        assert config == student.config, knobs
        assert parameters(config) == sum(p.numel() for p in student.parameters())


@pytest.mark.parametrize("which", ["*.up+head.*", "layers.1.*", "embeddings.*", "head.out", "layers.?.key", "nothing"])
def test_low_rank_tells_the_shape_of_any_pattern(which: str) -> None:
    for config in CONFIGS.values():
        knobs = {"share": 0.6, "which": which, "aware": False}
        student = made("low_rank", knobs, TextEncoder(config).eval())
        shape = student if isinstance(student, str) else student.config
        assert told("low_rank", knobs, config) == shape


def test_layers_are_told_apart_by_place_where_they_differ() -> None:
    uneven = encoder((4, 2, 1), (64, 32, 96))
    for choice in ("stride", "first", "last"):
        student = made("layer_pruning", {"keep": 2, "choice": choice}, uneven)
        assert isinstance(student, TextEncoder)
        assert student.config == told("layer_pruning", {"keep": 2, "choice": choice}, uneven.config)
    config = told("layer_pruning", {"keep": 2, "choice": "importance"}, uneven.config)
    assert isinstance(config, EncoderConfig)
    assert config.depth == 2
