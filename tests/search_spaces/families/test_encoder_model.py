import copy
import dataclasses
import json

import pytest
import torch

from search_spaces.errors import ConfigError, ShapeError
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder
from tests.search_spaces.families.tiny import padded_batch

CONFIG = EncoderConfig(
    model_type="bert",
    vocab_size=90,
    n_positions=40,
    n_token_types=2,
    hidden=32,
    embedding=32,
    embedding_rank=0,
    head_size=8,
    heads=(4, 1, 2),
    ffn=(64, 16, 32),
    activation="gelu",
    head_activation="tanh",
    layer_norm_eps=1e-12,
    dropout=0.1,
    pad_token_id=0,
    position_offset=0,
    labels=("no", "yes"),
)


def changed(**fields) -> EncoderConfig:
    return dataclasses.replace(CONFIG, **fields)


def model_of(config: EncoderConfig) -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(config).eval()


def test_a_config_survives_json() -> None:
    assert EncoderConfig.from_json(json.loads(json.dumps(CONFIG.to_json()))) == CONFIG


def test_a_uniform_shape_is_one_that_plain_bert_can_hold() -> None:
    uniform = changed(heads=(4, 4, 4), ffn=(64, 64, 64))
    assert uniform.is_uniform
    assert not CONFIG.is_uniform
    assert not dataclasses.replace(uniform, embedding_rank=8).is_uniform
    assert not dataclasses.replace(uniform, heads=(2, 2, 2)).is_uniform


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": (4, 4)}, "2 layers have heads and 3 have an FFN"),
        ({"heads": (), "ffn": ()}, "at least one layer"),
        ({"ffn": (64, 0, 32)}, "a width is below 1"),
        ({"activation": "gelo"}, "'gelo' is unknown; known: gelu"),
        ({"ranks": (("head.out", 0),)}, "head.out has rank 0; at least 1"),
        ({"sharing": (0, 0, 2)}, r"\(0, 0, 2\) does not fit heads \(4, 1, 2\)"),
    ],
)
def test_an_impossible_shape_is_refused(fields: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        changed(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"embedding_rank": 8},
        {"embedding": 16},
        {"embedding": 16, "embedding_rank": 4},
        {"ranks": (("layers.0.key", 4), ("head.out", 1))},
        {"heads": (2, 2), "ffn": (16, 16), "sharing": (0, 0)},
    ],
)
def test_padding_changes_no_logit(fields: dict) -> None:
    model, batch = model_of(changed(**fields)), padded_batch()
    together = model(**batch)
    for row, n_tokens in enumerate(batch["attention_mask"].sum(1).tolist()):
        alone = model(batch["input_ids"][row : row + 1, :n_tokens])
        assert torch.allclose(alone[0], together[row], atol=1e-6)


@pytest.mark.parametrize(("name", "kind"), [("layers.0.norm", "missing"), ("embeddings.norm", "a LayerNorm")])
def test_only_a_linear_can_have_a_rank(name: str, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is {kind}; only a Linear has a rank"):
        TextEncoder(changed(ranks=((name, 4),)))


def test_a_copy_of_a_model_that_shares_layers_shares_them_and_saves_them_once() -> None:
    model = copy.deepcopy(model_of(changed(heads=(2, 2, 2), ffn=(16, 16, 16), sharing=(0, 0, 2))))
    assert model.layers[0] is model.layers[1]
    assert not [name for name in model.state_dict() if name.startswith("layers.1.")]
    with torch.no_grad():
        model.layers[0].up.weight.zero_()
    other = model_of(model.config)
    other.load_state_dict(model.state_dict())
    assert not other.layers[1].up.weight.any()


def test_the_last_layer_of_one_token_gives_the_logits_of_all_tokens() -> None:
    model, batch = model_of(CONFIG), padded_batch()
    logits, states = model(**batch, hidden_states=True)
    assert torch.allclose(model(**batch), logits, atol=1e-6)
    assert [tuple(state.shape) for state in states] == [(4, 11, 32)] * 4


def test_segments_default_to_the_first() -> None:
    model, batch = model_of(CONFIG), padded_batch()
    del batch["token_type_ids"]
    without = model(**batch)
    assert torch.allclose(without, model(**padded_batch()), atol=1e-6)


def test_a_model_without_segments_ignores_them() -> None:
    model, batch = model_of(changed(n_token_types=0)), padded_batch()
    other = {**batch, "token_type_ids": torch.ones_like(batch["input_ids"])}
    assert torch.equal(model(**batch), model(**other))


def test_dropout_acts_in_training_only() -> None:
    model, batch = model_of(CONFIG), padded_batch()
    assert torch.equal(model(**batch), model(**batch))
    model.train()
    assert not torch.equal(model(**batch), model(**batch))


def test_a_text_longer_than_the_positions_says_what_to_lower() -> None:
    with pytest.raises(ShapeError, match=r"41 tokens in a row; at most 40. Lower data.max_length"):
        model_of(CONFIG)(torch.ones(1, 41, dtype=torch.long))
