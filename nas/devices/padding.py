"""Inputs of a text encoder brought to the fixed shape that a file has: more rows, more tokens, all of them masked.

Knows arrays only.
"""

import numpy as np

from nas.devices.program import Feed, refuse


def padded(feed: Feed, rows: int, tokens: int | None = None) -> Feed:
    """Return inputs with zeros behind their rows and tokens.

    A row of zeros has no token to attend to, so what is answered for it means nothing; it is no number that is not
    finite, since padding is masked by a sum.

    Args:
        feed: ``(n, length)`` arrays.
        rows: At least ``n``.
        tokens: At least ``length``; None = it stays.

    Raises:
        RefusalError: There are more rows or tokens.
    """
    n, length = next(iter(feed.values())).shape
    if n > rows or length > (tokens or length):
        refuse(f"{n} rows of {length} tokens; the file is made for {rows} of at most {tokens or length}")
    more = ((0, rows - n), (0, (tokens or length) - length))
    return {name: np.pad(values, more) for name, values in feed.items()}
