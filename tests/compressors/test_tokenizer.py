import json
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from compressors.tokenizer import remap, required_ids, shrink_tokenizer
from search_spaces.errors import ConfigError, ShapeError
from tests.conftest import tiny_tokenizer

CORPUS = [
    "the lowest of the low towers",
    "newer towers are wider than the older",
    "naïve lowering of widths, slowly; and of lowlands",
    "the older the newer, the wider the lower the tower's slow flow",
] * 3
COVERED = CORPUS[:2]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def bpe() -> PreTrainedTokenizerFast:
    """RoBERTa's kind: byte-level, with its own post-processor."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def wordpiece() -> PreTrainedTokenizerFast:
    """BERT's kind, its special tokens not at the beginning."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=150, show_progress=False))
    content = json.loads(made.to_str())
    for text in ("[PAD]", "[UNK]", "[CLS]", "[SEP]"):
        content["model"]["vocab"][text] = len(content["model"]["vocab"])
    made = Tokenizer.from_str(json.dumps(content))
    marks = [(text, made.token_to_id(text)) for text in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=marks
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )


def words() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()


TEXTS = {"bpe": COVERED, "wordpiece": COVERED, "words": ["w1 w80 w7", "w7"]}
MAKERS = {"bpe": bpe, "wordpiece": wordpiece, "words": words}


def shrunk(kind: str) -> tuple[Any, Any, np.ndarray]:
    tokenizer = MAKERS[kind]()
    kept = required_ids(tokenizer, np.unique(np.concatenate(tokenizer(TEXTS[kind])["input_ids"])))
    return tokenizer, shrink_tokenizer(tokenizer, kept), kept


@pytest.mark.parametrize("kind", MAKERS)
def test_covered_texts_become_the_same_tokens(kind: str) -> None:
    tokenizer, small, kept = shrunk(kind)
    assert len(kept) == len(small) < len(tokenizer)
    for text in TEXTS[kind]:
        old, new = tokenizer(text)["input_ids"], small(text)["input_ids"]
        assert small.convert_ids_to_tokens(new) == tokenizer.convert_ids_to_tokens(old)
        assert remap(np.array(old), kept).tolist() == new
        assert small.decode(new) == tokenizer.decode(old)
    pair = small(*TEXTS[kind][:2])
    assert pair["input_ids"] == remap(np.array(tokenizer(*TEXTS[kind][:2])["input_ids"]), kept).tolist()


@pytest.mark.parametrize("kind", MAKERS)
def test_roles_follow_their_tokens(kind: str) -> None:
    tokenizer, small, kept = shrunk(kind)
    assert small.special_tokens_map == tokenizer.special_tokens_map
    for role in ("pad_token_id", "unk_token_id", "cls_token_id", "eos_token_id"):
        old = getattr(tokenizer, role)
        assert getattr(small, role) == (None if old is None else int(np.searchsorted(kept, old)))


@pytest.mark.parametrize("kind", MAKERS)
def test_it_survives_a_folder(kind: str, tmp_path: Any) -> None:
    _, small, _ = shrunk(kind)
    small.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(TEXTS[kind])["input_ids"] == small(TEXTS[kind])["input_ids"]


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_a_new_word_of_known_letters_is_spelled(kind: str) -> None:
    _, small, _ = shrunk(kind)
    pieces = small.tokenize("slowness")
    assert small.unk_token not in pieces
    assert "".join(piece.removeprefix("##") for piece in pieces) == "slowness"


@pytest.mark.parametrize("kind", MAKERS)
def test_the_argument_is_untouched(kind: str) -> None:
    tokenizer = MAKERS[kind]()
    before = tokenizer.backend_tokenizer.to_str()
    shrink_tokenizer(tokenizer, required_ids(tokenizer, []))
    assert tokenizer.backend_tokenizer.to_str() == before


def test_bpe_keeps_the_tokens_on_the_way_to_a_word() -> None:
    tokenizer = bpe()
    (word,) = tokenizer("the", add_special_tokens=False)["input_ids"]
    kept = {tokenizer.convert_ids_to_tokens(int(token)) for token in required_ids(tokenizer, [word])}
    assert sorted(text for text in kept if len(text) > 1 and text not in SPECIAL) == ["th", "the"]
    with pytest.raises(ConfigError, match=r"\d+ tokens are missing that it cannot do without, first id 0"):
        shrink_tokenizer(tokenizer, np.array([word]))


def test_ids_that_are_gone_are_refused_or_become_unknown() -> None:
    kept = np.array([0, 3, 7])
    assert remap(np.array([[7, 0], [3, 3]], np.int32), kept).tolist() == [[2, 0], [1, 1]]
    assert remap(np.array([7, 9, 4], np.int32), kept, unknown=1).tolist() == [2, 1, 1]
    with pytest.raises(ShapeError, match="id 9 is not among the 3 kept ones"):
        remap(np.array([9]), kept)


def test_tokenizers_of_other_kinds_are_refused() -> None:
    unigram = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0, byte_fallback=False))
    with pytest.raises(ConfigError, match="a Unigram model cannot be shrunk"):
        required_ids(PreTrainedTokenizerFast(tokenizer_object=unigram), [0])
    with pytest.raises(ConfigError, match="str is not a fast tokenizer"):
        required_ids("bert", [0])
    suffixed = Tokenizer(models.BPE({"a": 0, "a</w>": 1}, [], end_of_word_suffix="</w>"))
    with pytest.raises(ConfigError, match="BPE with end_of_word_suffix '</w>' cannot be shrunk"):
        required_ids(PreTrainedTokenizerFast(tokenizer_object=suffixed), [0])
