"""What a board says it saw, believed only where it can be true.

Knows JSON and timings; not boards.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nas.devices.base import PeakMemory
from nas.devices.timing import Timing

LIMIT_BYTES = 16 << 20
SLACK = 1.05  # clocks of two machines


class AbsurdError(Exception):
    """An answer that cannot be true."""


class BoardRefusalError(Exception):
    """The board works, and its runtime refuses the model."""


@dataclass(frozen=True)
class Answer:
    """One measurement of a board."""

    timing: Timing
    load_ms: float
    memory: PeakMemory | None
    environment: dict[str, str]


def read_answer(content: bytes, has_reference: bool, elapsed_ms: float) -> Answer:
    """Return an answer after looking whether it can be true.

    Args:
        content: JSON of `board_runner`, or of a runner of one's own that writes the same keys; of these only
            ``medians_ms``, ``calls_ms`` and, with a reference, ``reference_ms`` are needed.
        has_reference: A reference was sent along.
        elapsed_ms: How long the board took for everything, by our clock: all calls together took no longer.

    Raises:
        AbsurdError: No JSON, numbers that are not positive and finite, or calls that took longer than everything.
        BoardRefusalError: The board says that its runtime refuses the model.
    """
    told = _parsed(content)
    if "error" in told:
        raise BoardRefusalError(str(told["error"])[:300])
    medians, calls = _times(told, "medians_ms"), _times(told, "calls_ms")
    reference = _times(told, "reference_ms") if has_reference else np.empty(0)
    weights = _times(told, "weights") if told.get("weights") is not None else None
    _check_counts(len(medians), len(reference) if has_reference else None, len(calls), weights)
    if calls.sum() + reference.sum() > SLACK * elapsed_ms:
        raise AbsurdError(f"calls of {calls.sum() + reference.sum():.4g} ms in all within {elapsed_ms:.4g} ms")
    slack = 1e-9 * calls.max()
    if weights is None and not calls.min() - slack <= medians.min() <= medians.max() <= calls.max() + slack:
        raise AbsurdError(f"medians of {medians.min():.4g} to {medians.max():.4g} ms of other calls")
    disturbed = _number(told.get("disturbed", 0.0), "disturbed")
    timing = Timing(medians, reference, calls, min(disturbed, 1.0), weights)
    environment = told.get("environment")
    words = {str(key): str(value)[:200] for key, value in environment.items()} if isinstance(environment, dict) else {}
    return Answer(timing, _number(told.get("load_ms", 0.0), "load_ms"), _memory(told), words)


def _parsed(content: bytes) -> dict[str, Any]:
    """Return the JSON object of an answer."""
    if len(content) > LIMIT_BYTES:
        raise AbsurdError(f"{len(content):,} bytes; at most {LIMIT_BYTES:,} are read")
    try:
        told = json.loads(content)
    except (ValueError, RecursionError):
        start = " ".join(content[:80].decode(errors="replace").split())
        raise AbsurdError(f"no JSON but {start!r}") from None
    if not isinstance(told, dict):
        raise AbsurdError(f"a {type(told).__name__} instead of an object")
    return told


def _times(told: dict[str, Any], key: str) -> np.ndarray:
    """Return a list of positive numbers."""
    values = told.get(key)
    if not isinstance(values, list) or not values or not all(type(each) in (int, float) for each in values):
        raise AbsurdError(f"{key!r} is no list of numbers")
    times = np.array(values, np.float64)
    wrong = times[~((times > 0) & np.isfinite(times))]
    if len(wrong):
        raise AbsurdError(f"{key!r} holds {wrong[0]:g}")
    return times


def _number(value: Any, key: str) -> float:
    """Return a number that is not negative."""
    if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
        raise AbsurdError(f"{key!r} is {value!r}")
    return float(value)


def _check_counts(rounds: int, references: int | None, calls: int, weights: np.ndarray | None) -> None:
    """Refuse lists that do not belong together."""
    wrong = references not in (None, rounds) or calls < rounds or (weights is not None and len(weights) != calls)
    if wrong:
        raise AbsurdError(f"{rounds} rounds, {references} of the reference and {calls} calls do not belong together")


def _memory(told: dict[str, Any]) -> PeakMemory | None:
    """Return the peak memory where a board tells it."""
    if "total_bytes" not in told or "idle_bytes" not in told:
        return None
    total, idle = (int(_number(told[key], key)) for key in ("total_bytes", "idle_bytes"))
    return PeakMemory(total, idle)
