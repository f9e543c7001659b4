"""Where every random draw comes from: a fresh generator per (seed, purpose, number), never a long-lived one.

A generator that lives as long as a search loses or repeats its state when the search is resumed; a derived one
cannot, since it depends on nothing but its key.
"""

import hashlib

import numpy as np


def rng_for(seed: int, *what: str | int) -> np.random.Generator:
    """Return the generator of one purpose, equal in every process for equal arguments.

    Args:
        seed: The seed of the whole search.
        what: The purpose and its number, e.g. ``"mutate", 17``.
    """
    key = "\0".join(str(part) for part in (seed, *what)).encode()
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest()[:16], "big"))
