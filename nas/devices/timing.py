"""How long a call takes: warm-up, turns with a reference, medians with a confidence interval, and who disturbed it.

What is timed is a call of a busy server: its predecessor was a call of the same model, so weights that fit into the
caches are there. Taking turns pushes them out; with only one call to settle, a student beside its teacher looked about
40 % slower than alone, with `SETTLE_MS` it looks 3 % slower.

Knows callables and clocks only: not models, not runtimes. All durations come from the monotonic clock.
"""

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

Call = Callable[[], object]
Mix = Sequence[tuple[Call, float]]
"""Calls of one model with inputs of several lengths, and the share that each length has in production."""

UNDISTURBED = 0.9  # share of a block's time its thread must have been on a processor
TOLERATED = 0.1  # share of disturbed blocks above which the figures are called contended
SETTLE_MS = 3.0  # untimed calls at the start of a block fill the caches again, which the other model emptied


@dataclass(frozen=True)
class Patience:
    """How much time a measurement may take to become sure.

    Attributes:
        width: Wanted half-width of the 95 % interval, as a share of the median.
        rounds: Rounds at least and at most; an interval needs six or more.
        attempts: Times to begin again after a noisy or contended attempt.
        block_ms: Timed calls of a block fill about this long.
    """

    width: float
    rounds: tuple[int, int]
    attempts: int
    block_ms: float

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Patience":
        """Return the patience that ``dataclasses.asdict`` wrote."""
        return cls(**{**values, "rounds": tuple(values["rounds"])})


THOROUGH = Patience(width=0.02, rounds=(20, 120), attempts=2, block_ms=4.0)
QUICK = Patience(width=0.04, rounds=(15, 60), attempts=1, block_ms=2.0)  # many shapes; what is off is made again


@dataclass(frozen=True)
class Timing:
    """One attempt: what `take_turns` saw.

    Attributes:
        medians_ms: ``(rounds,)`` median of each round's calls; of a mix the mean over its lengths, as they occur.
        reference_ms: ``(rounds,)`` the same of the reference; empty without one.
        calls_ms: ``(n,)`` every timed call of the candidate.
        disturbed: Share of blocks whose thread had to wait for a processor.
        weights: ``(n,)`` how often such a call occurs in production; None = all alike.
    """

    medians_ms: np.ndarray
    reference_ms: np.ndarray
    calls_ms: np.ndarray
    disturbed: float
    weights: np.ndarray | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        weights = None if self.weights is None else self.weights.tolist()
        lists = {name: getattr(self, name).tolist() for name in ("medians_ms", "reference_ms", "calls_ms")}
        return {**lists, "weights": weights, "disturbed": self.disturbed}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Timing":
        """Return the timing that `to_json` wrote."""
        lists = {name: np.array(values[name], np.float64) for name in ("medians_ms", "reference_ms", "calls_ms")}
        weights = None if values["weights"] is None else np.array(values["weights"], np.float64)
        return cls(**lists, disturbed=values["disturbed"], weights=weights)

    @property
    def is_contended(self) -> bool:
        """Return True if something else used the processor too often."""
        return self.disturbed > TOLERATED

    @property
    def width(self) -> float:
        """Return the half-width of the median's 95 % interval as a share of the median."""
        low, high = median_interval(self.medians_ms)
        return (high - low) / 2 / float(np.median(self.medians_ms))

    def percentile(self, share: float) -> float:
        """Return the time in ms that ``share`` per cent of production's calls take at most."""
        if self.weights is None:
            return float(np.percentile(self.calls_ms, share))
        return float(np.percentile(self.calls_ms, share, weights=self.weights, method="inverted_cdf"))


def time_call(candidate: Call | Mix, reference: Call | Mix | None, patience: Patience) -> Timing:
    """Return what `time_calls` says of a single candidate."""
    return time_calls([candidate], reference, patience)[0]


def time_calls(candidates: Sequence[Call | Mix], reference: Call | Mix | None, patience: Patience) -> list[Timing]:
    """Return the best of up to ``patience.attempts`` attempts of each: undisturbed first, then the narrowest interval.

    A noisy attempt is begun anew, never averaged with the next one.

    Args:
        candidates: What is timed, all in turns; of a mix, every length.
        reference: What they are compared with, in turns, too.
        patience: When to be content.
    """
    tried: list[list[Timing]] = [[] for _ in candidates]
    left = list(range(len(candidates)))
    for _ in range(patience.attempts):
        for i, timing in zip(left, take_turns([candidates[i] for i in left], reference, patience), strict=True):
            tried[i].append(timing)
        left = [i for i in left if tried[i][-1].is_contended or tried[i][-1].width > patience.width]
        if not left:
            break
    return [min(each, key=lambda timing: (timing.is_contended, timing.width)) for each in tried]


def take_turns(candidates: Sequence[Call | Mix], reference: Call | Mix | None, patience: Patience) -> list[Timing]:
    """Time blocks of calls, reference, candidates, reference, candidates, until every median is known well enough.

    A candidate whose median is known leaves the rounds. The more take turns, the longer the time that each is seen at,
    and the more alike the machine is to all of them: a neighbour who slows everything for seconds slows one measurement
    by a lot where each has its own second, and all of them by the same where they share it.
    """
    models = {} if reference is None else {REFERENCE: _mix(reference)}
    models |= {i: _mix(candidate) for i, candidate in enumerate(candidates)}
    with _no_garbage_collection():
        sizes = {i: [_size(warm_up(call), patience.block_ms) for call, _ in mix] for i, mix in models.items()}
        rounds: list[_Round] = []
        known: set[int] = set()
        while len(known) < len(candidates) and len(rounds) < patience.rounds[1]:
            rounds.append({i: _blocks(mix, sizes[i]) for i, mix in models.items() if i not in known})
            if len(rounds) >= patience.rounds[0]:
                known = {i for i in range(len(candidates)) if i in known or _timing(rounds, i).width <= patience.width}
    return [_timing(rounds, i) for i in range(len(candidates))]


def median_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % confidence interval of the median, whatever the distribution.

    The k-th smallest and k-th largest value enclose the median unless fewer than k of n values fall on one side of
    it, which is binomial. Fewer than six values give their extremes, which is less than 95 %.

    Args:
        values: ``(n,)`` independent observations, n >= 1.

    Source: Conover, Practical Nonparametric Statistics, 3rd ed., sec. 3.2.
    """
    ordered, n = np.sort(values), len(values)
    outside, k = 0.0, 0
    while k < (n - 1) // 2 and (outside := outside + 2 * math.comb(n, k) / 2**n) <= 0.05:
        k += 1
    k = max(k, 1)
    return float(ordered[k - 1]), float(ordered[n - k])


def warm_up(call: Call, chunk: int = 5, tolerance: float = 0.03, limit_s: float = 0.5) -> float:
    """Call until the median of ``chunk`` calls stays the same; return it in ms."""
    stop = time.monotonic() + limit_s
    before, now = math.inf, _median_ms(call, chunk)
    while abs(now - before) > tolerance * now and time.monotonic() < stop:
        before, now = now, _median_ms(call, chunk)
    return now


@dataclass(frozen=True)
class _Size:
    """Calls of a block: untimed ones, then timed ones."""

    settle: int
    timed: int


@dataclass(frozen=True)
class _Block:
    """Timed calls of one model and length in one round, and the share that this length has."""

    ms: np.ndarray
    is_disturbed: bool
    share: float


REFERENCE = -1  # its key in a round; candidates have their places
_Round = dict[int, list[_Block]]  # the lengths of each model that took part


def _mix(model: Call | Mix) -> Mix:
    """Return a model of which all calls are alike as a mix."""
    return [(model, 1.0)] if callable(model) else model


def _blocks(mix: Mix, sizes: Sequence[_Size]) -> list[_Block]:
    """Return one block of each length of a model."""
    return [_block(call, size, share) for (call, share), size in zip(mix, sizes, strict=True)]


def _block(call: Call, size: _Size, part: float) -> _Block:
    """Return one block; its untimed calls come first."""
    _timed(call, size.settle)
    on_processor, start = time.thread_time_ns(), time.perf_counter_ns()
    ns = np.array(_timed(call, size.timed))
    share = (time.thread_time_ns() - on_processor) / (time.perf_counter_ns() - start)
    return _Block(ns / 1e6, share < UNDISTURBED, part)


def _timed(call: Call, size: int) -> list[int]:
    """Return the ns of each of ``size`` calls."""
    marks = [time.perf_counter_ns()]
    for _ in range(size):
        call()
        marks.append(time.perf_counter_ns())
    return [after - before for before, after in pairwise(marks)]


def _median_ms(call: Call, size: int) -> float:
    """Return the median of ``size`` calls in ms."""
    return float(np.median(_timed(call, size))) / 1e6


def _size(call_ms: float, block_ms: float) -> _Size:
    """Return how many calls of that length fill a block."""
    return _Size(settle=_clip(SETTLE_MS / call_ms, 2, 50), timed=_clip(block_ms / call_ms, 3, 50))


def _clip(n_calls: float, least: int, most: int) -> int:
    """Return a number of calls within bounds."""
    return max(least, min(most, round(n_calls)))


def _timing(rounds: Sequence[_Round], candidate: int) -> Timing:
    """Return what the rounds that a candidate took part in amount to."""
    own = [each for each in rounds if candidate in each]
    medians = np.array([_mean_ms(each[candidate]) for each in own])
    reference = np.array([_mean_ms(each[REFERENCE]) for each in own if REFERENCE in each])
    seen = [block for each in own for block in (*each.get(REFERENCE, ()), *each[candidate])]
    timed = [block for each in own for block in each[candidate]]
    calls = np.concatenate([block.ms for block in timed])
    is_mix = len(own[0][candidate]) > 1
    weights = np.concatenate([np.full(len(b.ms), b.share / len(b.ms)) for b in timed]) if is_mix else None
    return Timing(medians, reference, calls, float(np.mean([block.is_disturbed for block in seen])), weights)


def _mean_ms(blocks: list[_Block]) -> float:
    """Return the mean of the lengths' medians, as often as each length occurs."""
    return float(sum(block.share * np.median(block.ms) for block in blocks))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keep Python's collector from running between two clock readings."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
