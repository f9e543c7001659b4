"""What every task of a search shares: plain arrays and JSON, so that it travels through an object store uncopied."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nas.data.tokens import Tokens


@dataclass(frozen=True)
class Outputs:
    """What a teacher says of n rows.

    Attributes:
        logits: ``(n, n_labels)`` float16.
        states: ``(n, depth, hidden)`` float16, the first token after every layer; None where nobody asks for them.
    """

    logits: np.ndarray
    states: np.ndarray | None = None


@dataclass(frozen=True)
class Bundle:
    """Teacher, data and settings of one search.

    Attributes:
        family: Row of ``FAMILIES``.
        mode: The family's mode, ``uniform`` or ``per_layer``.
        teacher_config: JSON of the family's config.
        teacher_weights: Name -> float32 array, the family's own names.
        importance: Name -> array, see `search_spaces.families.importance.Importance`.
        train, validation, test: Tokenised splits; test may be None.
        outputs: What the teacher says of ``train``.
        recipe: The resolved recipe as JSON.
        fingerprint: Names this content; workers keep what they derive from it under this key.
        tokenizer: JSON of the teacher's, see `spelling.tokenizer_to_json`; {} where no compressor asks for it.
    """

    family: str
    mode: str
    teacher_config: Mapping[str, Any]
    teacher_weights: Mapping[str, np.ndarray]
    importance: Mapping[str, np.ndarray]
    train: Tokens
    validation: Tokens
    test: Tokens | None
    outputs: Outputs
    recipe: Mapping[str, Any]
    fingerprint: str
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
