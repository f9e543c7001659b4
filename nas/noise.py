"""Texts as careless people write them: typing errors and missing words, seeded.

Knows splits of texts; not models, not tokens.
"""

from collections.abc import Callable

import numpy as np

from nas.data.splits import Split
from search_spaces.errors import ShapeError
from search_spaces.seeding import rng_for

TYPOS = 0.2  # share of the words of at least `SHORTEST` letters that get one typing error
DROPPED = 0.2  # share of the words that are missing
SHORTEST = 4  # letters of a word; the first and the last stay, as people read on (Pruthi et al. 2019)
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def _neighbours() -> dict[str, str]:
    """Return the keys beside, above and below each letter of an English keyboard."""
    place = {key: (x, y) for y, row in enumerate(_ROWS) for x, key in enumerate(row)}
    near = {
        key: "".join(other for other, (u, v) in place.items() if other != key and abs(u - x) <= 1 and abs(v - y) <= 1)
        for key, (x, y) in place.items()
    }
    return near | {key.upper(): keys.upper() for key, keys in near.items()}


NEIGHBOURS = _neighbours()


def with_typos(split: Split, seed: int, rate: float = TYPOS) -> Split:
    """Return the split with one typing error in a share of its longer words; labels stay.

    An error swaps two inner letters, drops one, repeats one, or hits a key beside the right one, each as often.

    Args:
        split: Texts whose words are separated by white space.
        seed: Equal seeds give equal errors.
        rate: Share of the words of four letters or more, 0..1.

    Raises:
        ShapeError: ``rate`` is not in 0..1.

    Source: Pruthi et al. 2019, https://arxiv.org/abs/1905.11268, sec. 4 (swap, drop, add, keyboard; inner letters of
    words of at least four); Belinkov and Bisk 2018, https://arxiv.org/abs/1711.02173, sec. 4.2.
    """
    rng = rng_for(seed, "typos")
    return _rewritten(split, rate, lambda word: _mistyped(word, rng) if rng.random() < rate else word)


def without_words(split: Split, seed: int, rate: float = DROPPED) -> Split:
    """Return the split without a share of its words, each text keeping at least one; labels stay.

    Args:
        split: Texts whose words are separated by white space.
        seed: Equal seeds drop the same words.
        rate: Share of the words, 0..1.

    Raises:
        ShapeError: ``rate`` is not in 0..1.

    Source: Wei and Zou 2019 (EDA), https://arxiv.org/abs/1901.11196, sec. 2 (random deletion).
    """
    rng = rng_for(seed, "word dropout")
    return _rewritten(split, rate, lambda word: "" if rng.random() < rate else word)


def _rewritten(split: Split, rate: float, change: Callable[[str], str]) -> Split:
    """Return the split with every word changed; a text that would be empty keeps its first word."""
    if not 0 <= rate <= 1:
        raise ShapeError(f"noise: a rate of {rate} is out of range; 0 to 1.")
    rows = [tuple(_joined(text.split(), change) for text in row) for row in split.texts]
    return Split(tuple(rows), split.labels)


def _joined(words: list[str], change: Callable[[str], str]) -> str:
    """Return the changed words as a text."""
    changed = [new for word in words if (new := change(word))]
    return " ".join(changed or words[:1])


def _mistyped(word: str, rng: np.random.Generator) -> str:
    """Return a word with one typing error; short ones, and those without letters inside, as they are."""
    inner = [i for i in range(1, len(word) - 1) if word[i] in NEIGHBOURS]
    if len(word) < SHORTEST or not inner:
        return word
    at, kind = int(rng.choice(inner)), int(rng.integers(4))
    before, letter, after = word[:at], word[at], word[at + 1 :]
    if kind == 0:
        other = at + 1 if at + 2 < len(word) else at - 1  # the last letter stays
        first, second = sorted((at, other))
        return word[:first] + word[second] + word[first] + word[second + 1 :]
    if kind == 1:
        return before + after
    if kind == 2:
        return before + letter + letter + after
    return before + str(rng.choice(list(NEIGHBOURS[letter]))) + after
