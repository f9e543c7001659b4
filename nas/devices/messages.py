"""What two Pythons say to each other: plain values in JSON and arrays in numpy's own format, no pickles.

Knows bytes; not what is asked.
"""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

Message = tuple[dict[str, Any], list[bytes]]
"""What is said, and the files and arrays that belong to it."""


def send(line: Connection, told: Mapping[str, Any], files: Sequence[bytes] = ()) -> None:
    """Send one message.

    Raises:
        OSError: Nobody is there any more.
    """
    line.send_bytes(json.dumps({"told": told, "n_files": len(files)}).encode())
    for content in files:
        line.send_bytes(content)


def receive(line: Connection) -> Message:
    """Return the next message.

    Raises:
        EOFError: Nobody is there any more.
    """
    head = json.loads(line.recv_bytes())
    return head["told"], [line.recv_bytes() for _ in range(head["n_files"])]


def to_files(arrays: Iterable[np.ndarray]) -> list[bytes]:
    """Return each array as a file of numpy."""
    return [_saved(array) for array in arrays]


def to_arrays(files: Iterable[bytes]) -> list[np.ndarray]:
    """Return what `to_files` was given."""
    return [np.load(io.BytesIO(content), allow_pickle=False) for content in files]


def _saved(array: np.ndarray) -> bytes:
    """Return one array as a file."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getvalue()
