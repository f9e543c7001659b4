"""Fast tokenizers with fewer tokens, and what happens to ids then.

Works on the JSON that a tokenizer of the ``tokenizers`` library is stored as. Knows nothing of models.
"""

import copy
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from search_spaces.errors import ConfigError, ShapeError

KINDS = ("WordLevel", "WordPiece", "BPE")
Merge = tuple[str, str]


def required_ids(tokenizer: Any, ids: Iterable[int]) -> np.ndarray:
    """Return some ids and all others that a tokenizer needs to still make them, and to spell any word.

    These are the special and added tokens; of WordPiece and BPE all tokens of a single letter (also those that
    continue a word); of BPE the tokens on the way to a kept one, since it is merged step by step.

    Args:
        tokenizer: A fast tokenizer of `transformers`.
        ids: What is to be kept.

    Returns:
        ``(n,)`` int64, ascending.

    Raises:
        ConfigError: The tokenizer is of a kind that cannot be shrunk.
    """
    content = _content(tokenizer)
    model, vocab = content["model"], content["model"]["vocab"]
    needed = (
        {int(token) for token in ids} | {box[key] for box, key in _places(content)} | set(tokenizer.all_special_ids)
    )
    needed |= {vocab[text] for text in (model.get("unk_token"),) if text in vocab}
    if model["type"] != "WordLevel":
        prefix = model.get("continuing_subword_prefix") or ""
        needed |= {token for text, token in vocab.items() if len(text.removeprefix(prefix)) == 1}
    if model["type"] == "BPE":
        parts = (part for left, right in _used_merges(content, needed) for part in (left, right, left + right))
        needed |= {vocab[part] for part in parts}
    return np.array(sorted(needed), np.int64)


def shrink_tokenizer(tokenizer: Any, kept_ids: np.ndarray) -> Any:
    """Return a tokenizer that knows only some tokens, the i-th of ``kept_ids`` as number i; the argument stays.

    A text whose tokens are all kept becomes the same tokens: WordPiece takes the longest token that fits, and a
    longer one is not added; BPE makes the same merges in the same order, since all of them are kept.

    Args:
        tokenizer: A fast tokenizer of `transformers`: WordLevel, WordPiece or BPE.
        kept_ids: ``(n,)`` int64, ascending; from `required_ids`.

    Raises:
        ConfigError: The tokenizer is of a kind that cannot be shrunk, or an id is missing that it needs.
    """
    content = _content(tokenizer)
    missing = np.setdiff1d(required_ids(tokenizer, kept_ids), kept_ids)
    if len(missing):
        raise ConfigError(
            f"tokenizer: {len(missing)} tokens are missing that it cannot do without, first id {missing[0]}; "
            "all of required_ids stay. Pass the ids through required_ids."
        )
    new = {int(old): place for place, old in enumerate(kept_ids)}
    model = content["model"]
    if model["type"] == "BPE":
        used = _used_merges(content, set(new))
        model["merges"] = [merge for merge in model["merges"] if tuple(merge) in used]
    model["vocab"] = {text: new[old] for text, old in model["vocab"].items() if old in new}
    for box, key in _places(content):
        box[key] = new[box[key]]
    small = copy.deepcopy(tokenizer)
    small._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(content))
    _check_numbers(tokenizer, small, new)
    return small


def remap(ids: np.ndarray, kept: np.ndarray, unknown: int | None = None) -> np.ndarray:
    """Return token ids of a tokenizer as those of the shrunken one.

    Args:
        ids: Any shape, int; padding included.
        kept: ``(n,)`` int64, ascending: the old id of each new one.
        unknown: New id for tokens that are gone; None refuses them. Better is to tokenise such texts again.

    Returns:
        Shape and type of ``ids``.

    Raises:
        ShapeError: An id is gone and ``unknown`` is None.
    """
    places = np.searchsorted(kept, ids)
    known = kept[np.minimum(places, len(kept) - 1)] == ids
    if unknown is None and not known.all():
        raise ShapeError(
            f"remap: id {ids[~known][0]} is not among the {len(kept)} kept ones; all ids must be. Tokenise the texts "
            "again with the shrunken tokenizer."
        )
    result: np.ndarray = np.where(known, places, 0 if unknown is None else unknown).astype(ids.dtype)
    return result


def _content(tokenizer: Any) -> dict[str, Any]:
    """Return a tokenizer as JSON values of its own, if it is of a known kind."""
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError(f"tokenizer: {type(tokenizer).__name__} is not a fast tokenizer; only those can be shrunk.")
    content: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    model = content["model"]
    if model["type"] not in KINDS:
        raise ConfigError(
            f"tokenizer: a {model['type']} model cannot be shrunk: every token's score depends on the others; "
            f"{', '.join(KINDS)} can. Leave vocabulary out."
        )
    marks = [name for name in ("continuing_subword_prefix", "end_of_word_suffix") if model.get(name)]
    if model["type"] == "BPE" and marks:
        raise ConfigError(
            f"tokenizer: BPE with {marks[0]} {model[marks[0]]!r} cannot be shrunk; byte-level BPE can. "
            "Leave vocabulary out."
        )
    return content


def _places(content: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Yield where a tokenizer's JSON holds ids outside its vocabulary: a container and a key of it."""
    yield from ((token, "id") for token in content["added_tokens"])
    if content["padding"]:
        yield content["padding"], "pad_id"
    steps = [content["post_processor"] or {}]
    for step in steps:
        steps += step.get("processors", [])
        for special in step.get("special_tokens", {}).values():
            yield from ((special["ids"], place) for place in range(len(special["ids"])))
        yield from ((step[key], 1) for key in ("sep", "cls") if key in step)


def _used_merges(content: dict[str, Any], ids: set[int]) -> set[Merge]:
    """Return the merges that make some tokens."""
    model = content["model"]
    ranks = {(left, right): rank for rank, (left, right) in enumerate(model["merges"])}
    added = {token["content"] for token in content["added_tokens"]}
    texts = (text for text, token in model["vocab"].items() if token in ids and text not in added)
    return {merge for text in texts for merge in _merges_of(text, ranks)}


def _merges_of(text: str, ranks: Mapping[Merge, int]) -> Iterator[Merge]:
    """Yield the merges that make a token of its letters: the earliest learnt first, of equal ones the leftmost.

    Within a longer word the same merges happen, since none crosses the token's ends.

    Source: Sennrich et al. 2016, https://arxiv.org/abs/1508.07909, algorithm 1.
    """
    parts = list(text)
    while len(parts) > 1:
        pairs = list(pairwise(parts))
        first = min(range(len(pairs)), key=lambda place: ranks.get(pairs[place], math.inf))
        if pairs[first] not in ranks:
            return
        yield pairs[first]
        parts[first : first + 2] = ["".join(pairs[first])]


def _check_numbers(tokenizer: Any, small: Any, new: Mapping[int, int]) -> None:
    """Refuse a result whose tokens are not numbered as wanted."""
    wanted = {text: new[old] for text, old in tokenizer.get_vocab().items() if old in new}
    wrong = [text for text, number in small.get_vocab().items() if wanted.get(text) != number]
    if wrong or len(wanted) != len(small.get_vocab()):
        raise ConfigError(
            f"tokenizer: {len(wrong)} of {len(wanted)} tokens would get other numbers, first {wrong[:1]}; "
            "tokens added at the end can be kept, others not. Leave vocabulary out."
        )
