"""Typing errors and missing words."""

from collections import Counter

import numpy as np
import pytest

from nas.data.splits import Split
from nas.noise import NEIGHBOURS, with_typos, without_words
from search_spaces.errors import ShapeError

TEXTS = Split(tuple((f"the wonderful film number {i} surprises everybody",) for i in range(300)), np.arange(300) % 2)


def kind_of(word: str, wrong: str) -> str:
    """What happened to a word."""
    if sorted(word) == sorted(wrong):
        return "swap"
    if len(wrong) == len(word) - 1:
        return "drop"
    if len(wrong) == len(word) + 1:
        return "repeat"
    (place,) = [i for i in range(len(word)) if word[i] != wrong[i]]
    assert wrong[place] in NEIGHBOURS[word[place]]
    return "neighbour"


def changes(split: Split) -> list[tuple[str, str]]:
    pairs = [(a.split(), b.split()) for (a,), (b,) in zip(TEXTS.texts, split.texts, strict=True)]
    return [(a, b) for before, after in pairs for a, b in zip(before, after, strict=True) if a != b]


def test_a_typo_changes_inner_letters_of_longer_words_in_one_of_four_ways() -> None:
    found = changes(with_typos(TEXTS, 0))
    kinds = Counter(kind_of(word, wrong) for word, wrong in found)
    assert set(kinds) == {"swap", "drop", "repeat", "neighbour"}
    assert min(kinds.values()) > 0.15 * len(found)
    assert all(a[0] == b[0] and a[-1] == b[-1] and len(a) >= 4 for a, b in found)


def test_about_the_asked_share_of_the_longer_words_is_mistyped() -> None:
    n_long = sum(len(word) >= 4 for (text,) in TEXTS.texts for word in text.split())
    assert len(changes(with_typos(TEXTS, 0, rate=0.3))) / n_long == pytest.approx(0.3, abs=0.05)
    assert changes(with_typos(TEXTS, 0, rate=0.0)) == []


def test_about_the_asked_share_of_the_words_goes_and_no_text_becomes_empty() -> None:
    left = [len(text.split()) for (text,) in without_words(TEXTS, 0, rate=0.2).texts]
    assert np.mean(left) / 7 == pytest.approx(0.8, abs=0.03)
    assert all(text for (text,) in without_words(TEXTS, 0, rate=1.0).texts)


def test_equal_seeds_make_equal_noise_and_labels_stay() -> None:
    for noise in (with_typos, without_words):
        assert noise(TEXTS, 1).texts == noise(TEXTS, 1).texts != noise(TEXTS, 2).texts
        assert (noise(TEXTS, 1).labels == TEXTS.labels).all()


def test_both_texts_of_a_pair_are_noisy() -> None:
    pairs = Split((("another sentence with several words",) * 2,) * 50, np.zeros(50, np.int64))
    noisy = with_typos(pairs, 0, rate=1.0)
    assert all(text != "another sentence with several words" for row in noisy.texts for text in row)


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_a_rate_that_is_no_share_is_refused(rate: float) -> None:
    with pytest.raises(ShapeError, match=f"rate of {rate}"):
        with_typos(TEXTS, 0, rate)
