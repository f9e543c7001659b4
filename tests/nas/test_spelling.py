import numpy as np
import pytest
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import PreTrainedTokenizerFast

from nas.data.splits import Split
from nas.data.tokenize import tokenize
from nas.spelling import Spelling, tokenizer_from_json, tokenizer_to_json

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "p", "l", "a", "y", "i", "n", "g", "s"]
WORDS += [f"##{letter}" for letter in "playings"] + ["play", "plays", "##ing", "##ings", "playing", "gain", "say"]
WORDS = list(dict.fromkeys(WORDS))
TEXTS = ["playing says", "plays gain play", "say say", "playings gains", "xyz play", ""]


def tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    model = Tokenizer(WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", words.index("[CLS]")), ("[SEP]", words.index("[SEP]"))]
    model.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=model, **names)


def spelling(gone: set[str], max_length: int = 64) -> Spelling:
    left = [word for word in WORDS if word not in gone]
    kept = np.array([i for i, word in enumerate(WORDS) if word not in gone])
    return Spelling(kept, tokenizer(WORDS), tokenizer(left), max_length)


def rows(texts: list[tuple[str, ...]]) -> Split:
    return Split(texts, np.arange(len(texts)))


@pytest.mark.parametrize(
    "gone", [set(), {"gain"}, {"playing"}, {"play", "plays", "##ings"}, {"playing", "say", "##ing"}]
)
@pytest.mark.parametrize("n_texts", [1, 2])
def test_rows_become_those_of_the_new_tokenizer(gone: set[str], n_texts: int) -> None:
    way = spelling(gone)
    texts = rows([tuple(TEXTS[(i + k) % len(TEXTS)] for k in range(n_texts)) for i in range(len(TEXTS))])
    found, wanted = way.tokens(tokenize(way.before, texts, 64)), tokenize(way.after, texts, 64)
    for part in ("ids", "types", "offsets", "labels"):
        np.testing.assert_array_equal(getattr(found, part), getattr(wanted, part))
        assert getattr(found, part).dtype == getattr(wanted, part).dtype


def test_rows_that_grow_too_long_keep_their_end() -> None:
    way = spelling({"playing", "play", "plays"}, max_length=6)
    found = way.tokens(tokenize(way.before, rows([("playing plays",)]), 6))
    np.testing.assert_array_equal(found.ids, tokenize(way.after, rows([("playing plays",)]), 6).ids)


def test_a_tokenizer_survives_json() -> None:
    before = tokenizer(WORDS)
    after = tokenizer_from_json(tokenizer_to_json(before))
    assert after(TEXTS)["input_ids"] == before(TEXTS)["input_ids"]
    assert after.special_tokens_map == before.special_tokens_map
