"""What two measurements mean, in words: whether a change of a model made it faster on the device.

Knows measurements; not models.
"""

from nas.devices.base import Measurement


def verdict(before: Measurement, after: Measurement) -> str:
    """Return in words whether ``after`` is faster than ``before``, e.g. ``1.84x faster: 2.10 -> 1.14 ms``.

    Only a difference that both 95 % intervals allow counts: where they overlap there is none to speak of. With a
    common reference both are taken relative to it, since the machine may have been slower for one of them; the
    milliseconds are those of the time of ``after``.

    Args:
        before: Of the model as it was.
        after: Of the changed model, same device and workload.
    """
    scale = _drift(before, after)
    was_ms = before.median_ms * scale
    figures, gain = f"{was_ms:.3g} -> {after.median_ms:.3g} ms", was_ms / after.median_ms
    if after.low_ms <= before.high_ms * scale and before.low_ms * scale <= after.high_ms:
        said = f"no difference: {figures}, the 95 % intervals overlap"
    elif gain > 1:
        said = f"{gain:.2f}x faster: {figures}"
    else:
        said = f"{1 / gain:.2f}x slower here: {figures}"
    doubts = [word for word in ("contended", "noisy") if getattr(before, word) or getattr(after, word)]
    return f"{said} ({' and '.join(doubts)} measurement)" if doubts else said


def _drift(before: Measurement, after: Measurement) -> float:
    """Return how much slower the reference was beside ``after``; 1 where one of them had no reference."""
    if before.reference_ms is None or after.reference_ms is None:
        return 1.0
    return after.reference_ms / before.reference_ms
