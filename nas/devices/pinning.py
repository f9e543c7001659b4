"""Keeps the measuring thread, and the threads it starts, on a few processors.

Knows processors only.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psutil

from search_spaces.errors import DeviceError


@contextmanager
def pinned(device: str, n_threads: int, affinity: Sequence[int] | None) -> Iterator[tuple[int, ...]]:
    """Stay on the processors named, or on the idlest ones, one a thread; yield them, () where a system cannot pin.

    Threads that exist already stay where they are; all is as before afterwards.

    Args:
        device: Name, for the error.
        n_threads: Of the runtime.
        affinity: Processors to use; None chooses the idlest.

    Raises:
        DeviceError: This process may use fewer processors, or not those.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield ()
        return
    allowed = os.sched_getaffinity(0)
    if n_threads > len(allowed):
        raise DeviceError(
            f"device {device!r}: {n_threads} threads; this process may use {len(allowed)} "
            "processors. Lower device.threads."
        )
    chosen = _idlest(allowed, n_threads) if affinity is None else tuple(sorted(affinity))
    if not set(chosen) <= allowed:
        raise DeviceError(
            f"device {device!r}: processors {_listed(chosen)} are not all allowed; this process may use "
            f"{_listed(sorted(allowed))}. Change device.affinity."
        )
    os.sched_setaffinity(0, chosen)
    try:
        yield chosen
    finally:
        os.sched_setaffinity(0, allowed)


def _idlest(allowed: set[int], n: int) -> tuple[int, ...]:
    """Return the processors that had the least to do a moment ago."""
    busy = psutil.cpu_percent(interval=0.05, percpu=True)
    return tuple(sorted(sorted(allowed, key=lambda each: busy[each])[:n]))


def _listed(processors: Sequence[int]) -> str:
    """Return processors as words."""
    return ", ".join(map(str, processors))
