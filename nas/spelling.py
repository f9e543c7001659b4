"""A pruned vocabulary: how rows of the teacher's tokens are spelled with the tokens that are left.

Knows token rows and tokenizers; not models, not which tokens had to go.
"""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from nas.data.tokens import Tokens


def with_content(tokenizer: Any, content: str) -> Any:
    """Return a copy of a fast tokenizer with other words.

    Args:
        tokenizer: Of `transformers`; left as it is.
        content: What ``backend_tokenizer.to_str()`` gave of the words.
    """
    other = copy.deepcopy(tokenizer)
    other._tokenizer = type(tokenizer.backend_tokenizer).from_str(content)
    return other


def tokenizer_to_json(tokenizer: Any) -> dict[str, Any]:
    """Return a fast tokenizer as plain JSON values, its words and the roles of special tokens."""
    return {"content": tokenizer.backend_tokenizer.to_str(), "special": dict(tokenizer.special_tokens_map)}


def tokenizer_from_json(told: Mapping[str, Any]) -> Any:
    """Return the tokenizer that `tokenizer_to_json` told of."""
    words = Tokenizer.from_str(told["content"])
    return PreTrainedTokenizerFast(tokenizer_object=words, **told["special"])


@dataclass(frozen=True)
class Spelling:
    """The way from one tokenizer's rows to those of another that knows some of its tokens.

    Attributes:
        kept: ``(n,)`` int64, ascending: the old id of each new one.
        before: The tokenizer that made the rows.
        after: The tokenizer with fewer tokens.
        max_length: Tokens of a row at most.
    """

    kept: np.ndarray
    before: Any
    after: Any
    max_length: int

    def tokens(self, tokens: Tokens) -> Tokens:
        """Return the rows with new ids; words with a token that is gone are spelled anew, as the texts would be.

        Rows that become too long lose what is before their last token. WordPiece spells word by word, which is exact;
        of other kinds the lost token alone is spelled.
        """
        places = np.minimum(np.searchsorted(self.kept, tokens.ids), len(self.kept) - 1)
        is_gone = self.kept[places] != tokens.ids
        ids = places.astype(tokens.ids.dtype)
        if not is_gone.any():
            return Tokens(ids, tokens.types, tokens.offsets, tokens.labels)
        rows: list[tuple[np.ndarray, np.ndarray]] = []
        for start, end in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True):
            row = slice(int(start), int(end))
            if is_gone[row].any():
                rows.append(self._spelled(tokens.ids[row].tolist(), tokens.types[row].tolist()))
            else:
                rows.append((ids[row], tokens.types[row]))
        offsets = np.concatenate([[0], np.cumsum([len(row) for row, _ in rows])]).astype(np.int64)
        spelled, types = (np.concatenate([row[part] for row in rows]) for part in (0, 1))
        return Tokens(spelled.astype(tokens.ids.dtype), types.astype(tokens.types.dtype), offsets, tokens.labels)

    def _spelled(self, ids: Sequence[int], types: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the new ids of one row with their segments."""
        pairs = [(new, kind) for word, kind in self._words(ids, types) for new in self._spell(tuple(word))]
        if len(pairs) > self.max_length:
            pairs = [*pairs[: self.max_length - 1], pairs[-1]]
        return np.array([new for new, _ in pairs]), np.array([kind for _, kind in pairs])

    def _words(self, ids: Sequence[int], types: Sequence[int]) -> Iterator[tuple[list[int], int]]:
        """Yield the words of a row, each with its segment; a token that continues no word begins one."""
        word: list[int] = []
        for place, token in enumerate(ids):
            if word and not (self._prefix and self._texts[token].startswith(self._prefix)):
                yield word, types[place - 1]
                word = []
            word.append(token)
        yield word, types[-1]

    def _spell(self, word: tuple[int, ...]) -> list[int]:
        """Return the new ids of a word."""
        if word not in self._known:
            new = [self._new.get(token) for token in word]
            text = self._texts[word[0]] + "".join(self._texts[t].removeprefix(self._prefix) for t in word[1:])
            whole = [token for token in new if token is not None]
            is_whole = len(whole) == len(word)
            spelled = whole if is_whole else [piece.id for piece in self.after.backend_tokenizer.model.tokenize(text)]
            self._known[word] = spelled
        return self._known[word]

    @cached_property
    def _known(self) -> dict[tuple[int, ...], list[int]]:
        """Return the words spelled so far."""
        return {}

    @cached_property
    def _new(self) -> dict[int, int]:
        """Return the new id of every old one that is left."""
        return {int(old): place for place, old in enumerate(self.kept)}

    @cached_property
    def _texts(self) -> dict[int, str]:
        """Return the text of every old token."""
        return {number: text for text, number in self.before.get_vocab().items()}

    @cached_property
    def _prefix(self) -> str:
        """Return what WordPiece's tokens inside of words begin with; '' of other kinds."""
        model = json.loads(self.before.backend_tokenizer.to_str())["model"]
        return str(model.get("continuing_subword_prefix") or "") if model["type"] == "WordPiece" else ""
