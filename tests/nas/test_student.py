from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save as weights_of
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import nas
from compressors.base import Material
from compressors.layer_sharing import LayerSharing
from compressors.low_rank import LowRank
from compressors.vocabulary import Vocabulary
from nas.checkpoint import load_checkpoint, save_checkpoint
from nas.devices.onnx_text_encoder import build_onnx
from nas.student import save
from search_spaces.families.encoder_hf import from_hf
from search_spaces.families.encoder_model import TextEncoder
from tests.conftest import tiny_tokenizer

TEXT = "w3 w17 w5"


def compressed(teacher: TextEncoder, methods: list[str]) -> tuple[TextEncoder, Vocabulary]:
    tokenizer, words = tiny_tokenizer(), Vocabulary()
    corpus = np.bincount(tokenizer("w1 w3 w5 w17 w17")["input_ids"], minlength=94)
    small = words.apply(teacher, Material([], corpus=corpus, tokenizer=tokenizer))
    others = {"layer_sharing": LayerSharing(3), "low_rank": LowRank(0.5, "ffn+head.dense", aware=False)}
    for method in methods:
        small = others[method].apply(small, Material([]))
    return small, words


@pytest.mark.parametrize("methods", [[], ["low_rank"], ["layer_sharing"], ["layer_sharing", "low_rank"]])
def test_a_compressed_student_is_loaded_as_it_was_saved(methods: list[str], tiny_teacher: Path, tmp_path: Path) -> None:
    small, words = compressed(from_hf(str(tiny_teacher))[0], methods)
    save(tmp_path, small.config, weights_of(small.state_dict()), {"model.onnx": build_onnx(small)}, words.tokenizer, {})
    ids = torch.tensor([AutoTokenizer.from_pretrained(tmp_path)(TEXT)["input_ids"]])
    logits = small(ids)
    assert torch.equal(nas.load_student(tmp_path)(ids), logits)
    assert torch.equal(load_checkpoint(save_checkpoint(small))[0](ids), logits)
    n_bytes = 4 * sum(p.numel() for p in small.parameters())
    assert (tmp_path / "model.safetensors").stat().st_size < n_bytes + 10_000
    if not methods:
        plain = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
        assert torch.allclose(plain(ids).logits, logits, atol=1e-6)
