from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from compressors.base import Material
from compressors.tokenizer import remap
from compressors.vocabulary import Vocabulary
from nas.data.tables import read_table
from search_spaces.errors import ConfigError
from search_spaces.families.encoder_hf import from_hf, save_hf
from search_spaces.families.encoder_model import TextEncoder
from tests.compressors.encoders import encoder
from tests.conftest import WORDS, needs_data, tiny_tokenizer
from tests.search_spaces.families.tiny import tiny_hf

TEXTS = ["w3 w5 w5 w8", "w8 w70", "w3"]


def counted(tokenizer: Any, texts: list[str], vocab_size: int) -> np.ndarray:
    return np.bincount(np.concatenate(tokenizer(texts)["input_ids"]), minlength=vocab_size)


def material(tokenizer: Any, texts: list[str], vocab_size: int) -> Material:
    return Material([], corpus=counted(tokenizer, texts, vocab_size), tokenizer=tokenizer)


@pytest.fixture
def teacher(tiny_teacher: Path) -> TextEncoder:
    return from_hf(str(tiny_teacher))[0]


def logits(model: Any, tokenizer: Any, text: str) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([tokenizer(text)["input_ids"]]))


def test_covered_texts_have_the_same_logits_and_the_table_only_their_words(teacher: TextEncoder) -> None:
    tokenizer, compressor = tiny_tokenizer(), Vocabulary()
    small = compressor.apply(teacher, material(tokenizer, TEXTS, 94))
    assert small.embeddings.word.weight.shape == (4 + 4, 32)
    assert small.config.vocab_size == 8
    for text in TEXTS:
        assert torch.equal(logits(small, compressor.tokenizer, text), logits(teacher, tokenizer, text))
    report = compressor.report()
    assert [(change.before, change.after) for change in report.changed] == [(94, 8)]
    assert report.figures["bytes_before"] - report.figures["bytes_after"] == 86 * 32 * 4
    assert report.figures["covered"] == 1


def test_rows_that_were_tokenised_before_are_renumbered(teacher: TextEncoder) -> None:
    tokenizer, compressor = tiny_tokenizer(), Vocabulary()
    compressor.apply(teacher, material(tokenizer, TEXTS, 94))
    assert compressor.kept is not None
    for text in TEXTS:
        ids = np.array(tokenizer(text)["input_ids"], np.int32)
        assert remap(ids, compressor.kept).tolist() == compressor.tokenizer(text)["input_ids"]


def test_rare_words_of_the_corpus_become_unknown_and_the_report_says_how_many(teacher: TextEncoder) -> None:
    tokenizer, compressor = tiny_tokenizer(), Vocabulary(min_count=2)
    small = compressor.apply(teacher, material(tokenizer, TEXTS, 94))
    assert small.config.vocab_size == 4 + 3
    assert compressor.tokenizer("w70")["input_ids"] == compressor.tokenizer("w999")["input_ids"]
    n_tokens = sum(len(tokenizer(text)["input_ids"]) for text in TEXTS)
    assert compressor.report().figures["covered"] == pytest.approx(1 - 1 / n_tokens)


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "electra"])
def test_the_smaller_model_is_a_plain_hugging_face_model_of_its_kind(kind: str, tmp_path: Path) -> None:
    tiny_hf(kind).save_pretrained(tmp_path / "teacher")
    teacher = from_hf(str(tmp_path / "teacher"))[0]
    small = Vocabulary().apply(teacher, material(tiny_tokenizer(), WORDS[:20], 90))
    save_hf(small, tmp_path / "small")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "small").eval()
    again = from_hf(str(tmp_path / "small"))[0]
    ids = torch.tensor([[2, 5, 9, 4, 3], [2, 6, 7, 8, 3]])
    with torch.no_grad():
        assert torch.allclose(theirs(ids).logits, small(ids), atol=1e-5)
        assert torch.equal(again(ids), small(ids))
    assert theirs.config.vocab_size == small.config.vocab_size == again.config.vocab_size


def test_padding_that_moves_takes_robertas_positions_along(tmp_path: Path) -> None:
    """Hugging Face's RoBERTa counts positions from the padding id."""
    config = replace(encoder().config, model_type="roberta", vocab_size=94, pad_token_id=5, position_offset=6)
    torch.manual_seed(0)
    teacher = TextEncoder(replace(config, n_token_types=1, head_activation="tanh", ffn=(64, 64))).eval()
    small = Vocabulary().apply(teacher, material(tiny_tokenizer(), ["w9"], 94))
    assert (small.config.pad_token_id, small.config.position_offset) == (4, 5)
    save_hf(small, tmp_path)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    ids, mask = torch.tensor([[2, 5, 3], [2, 3, 4]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    with torch.no_grad():
        assert torch.allclose(theirs(ids, mask).logits, small(ids, mask), atol=1e-6)


def test_weights_survive_a_file(teacher: TextEncoder) -> None:
    small = Vocabulary().apply(teacher, material(tiny_tokenizer(), TEXTS, 94))
    again = TextEncoder(small.config).eval()
    again.load_state_dict(load(save(small.state_dict())))
    ids = torch.tensor([[2, 4, 5, 3]])
    assert torch.equal(again(ids), small(ids))


def test_the_argument_is_untouched_and_no_memory_is_shared(teacher: TextEncoder) -> None:
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    small = Vocabulary().apply(teacher, material(tiny_tokenizer(), TEXTS, 94))
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert teacher.config.vocab_size == 94
    assert all(parameter.requires_grad for parameter in small.parameters())


def test_a_second_time_is_refused(teacher: TextEncoder) -> None:
    compressor = Vocabulary()
    small = compressor.apply(teacher, material(tiny_tokenizer(), TEXTS, 94))
    with pytest.raises(ConfigError, match=r"all 8 tokens occur 1 times or more.*Leave vocabulary out"):
        Vocabulary().apply(small, material(compressor.tokenizer, TEXTS, 8))
    with pytest.raises(ConfigError, match=r"counts of \(94,\) tokens, the word table has 8 rows"):
        Vocabulary().apply(small, material(tiny_tokenizer(), TEXTS, 94))


def test_a_count_of_zero_leaves_the_model_as_it_is(teacher: TextEncoder) -> None:
    compressor, tokenizer = Vocabulary(min_count=0), tiny_tokenizer()
    small = compressor.apply(teacher, material(tokenizer, TEXTS, 94))
    assert torch.equal(logits(small, tokenizer, "w50 w60"), logits(teacher, tokenizer, "w50 w60"))
    assert [skip.why for skip in compressor.report().skipped] == ["min_count is 0"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Material([]), "the counts of the corpus is None"),
        (Material([], corpus=np.ones(100, np.int64)), "the tokenizer is None"),
    ],
)
def test_missing_material_is_named(given: Material, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Vocabulary().apply(encoder(), given)


def test_a_model_without_words_and_a_negative_count_are_refused() -> None:
    with pytest.raises(ConfigError, match="a Linear has no word table"):
        Vocabulary().apply(torch.nn.Linear(2, 2), Material([]))
    with pytest.raises(ConfigError, match=r"vocabulary\.min_count: -1 is out of range; 0 or more"):
        Vocabulary(min_count=-1)


def test_a_real_teacher_answers_the_same_and_every_text_of_the_corpus_keeps_its_pieces(tmp_path: Path) -> None:
    folder = needs_data("teachers/sst2-minilm")
    texts = read_table(needs_data("text/sst2/train.csv.gz"), ["text"])["text"].tolist()[:8000]
    tokenizer, teacher = AutoTokenizer.from_pretrained(folder), from_hf(str(folder))[0]
    compressor = Vocabulary()
    small = compressor.apply(teacher, material(tokenizer, texts, teacher.config.vocab_size))
    assert small.config.vocab_size < 0.5 * teacher.config.vocab_size
    compressor.tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    old, new = tokenizer(texts)["input_ids"], again(texts)["input_ids"]
    assert compressor.kept is not None
    assert (compressor.kept[np.concatenate(new)] == np.concatenate(old)).all()
    for text in texts[:20]:
        assert torch.equal(logits(small, again, text), logits(teacher, tokenizer, text))
    unseen = "xylophonists quibbled zestfully 12345 déjà"
    assert again.unk_token_id not in again(unseen)["input_ids"]
