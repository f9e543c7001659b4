import numpy as np

from nas.data.splits import Split
from nas.data.tokenize import tokenize
from tests.conftest import tiny_tokenizer

PAD, UNK, CLS, SEP = range(4)


def test_rows_are_cut_but_never_padded():
    split = Split((("w0 w1",), ("w2",), ("w3 w4 w5 w6 w7 w8",)), np.array([1, 0, 1]))
    tokens = tokenize(tiny_tokenizer(), split, 6)
    assert tokens.lengths.tolist() == [4, 3, 6]
    assert tokens.ids.tolist() == [CLS, 4, 5, SEP, CLS, 6, SEP, CLS, 7, 8, 9, 10, SEP]
    assert tokens.types.tolist() == [0] * 13
    assert tokens.labels.tolist() == [1, 0, 1]
    assert (tokens.ids.dtype, tokens.types.dtype, tokens.offsets.dtype) == (np.int32, np.uint8, np.int64)


def test_the_second_text_of_a_pair_is_segment_one():
    tokens = tokenize(tiny_tokenizer(), Split((("w0", "w1 w2"),), np.array([0])), 16)
    assert tokens.ids.tolist() == [CLS, 4, SEP, 5, 6, SEP]
    assert tokens.types.tolist() == [0, 0, 0, 1, 1, 1]


def test_of_a_pair_the_longer_text_is_cut_first():
    tokens = tokenize(tiny_tokenizer(), Split((("w0", "w1 w2 w3 w4 w5"),), np.array([0])), 6)
    assert tokens.ids.tolist() == [CLS, 4, SEP, 5, 6, SEP]


def test_a_row_never_exceeds_what_the_tokenizer_says_the_model_takes():
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 4
    assert tokenize(tokenizer, Split((("w0 w1 w2 w3",),), np.array([0])), 128).lengths.tolist() == [4]


def test_unknown_words_are_rows_too():
    assert tokenize(tiny_tokenizer(), Split((("never seen",),), np.array([0])), 8).ids.tolist() == [CLS, UNK, UNK, SEP]
