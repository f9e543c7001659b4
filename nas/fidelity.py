"""Asynchronous successive halving: who may train on, as far as the reports of its rung tell at any time.

Candidates compete inside buckets of like latency, so that a small fast student, which learns slower, is not stopped by
large ones. Nobody goes on before there are rivals to be better than; whoever was stopped is promoted later if it then
is among the best. Knows numbers of students, scores and latencies; not how a rung is trained, no files.

Source: Li et al. 2020, ASHA, https://arxiv.org/abs/1810.05934; non-dominated rank as the score of several objectives:
Schmucker et al. 2021, MO-ASHA, https://arxiv.org/abs/2106.12639, sec. 3; crowding distance to choose within a rank: Deb
et al. 2002, NSGA-II, https://doi.org/10.1109/4235.996017, sec. III-B.
"""

import math
from itertools import pairwise
from typing import Any

import numpy as np

from nas.recipe import FidelitySettings
from nas.strategies.evolution import tournament_order
from nas.strategies.history import Observation
from search_spaces.errors import StateError

PAIRS = 6  # trials with both scores from which on a rank correlation is believed
LOYAL = 0.5  # a rung with a lower rank correlation to the last one stops fewer
LEAST_ETA = 1.5


class SuccessiveHalving:
    """What was reported at every rung, and who is promoted; a function of the reports, whatever their order."""

    def __init__(self, settings: FidelitySettings) -> None:
        """Begin without reports."""
        self.settings = settings
        self._reports: dict[float, dict[int, tuple[float, float]]] = {rung: {} for rung in settings.rungs}

    def report(self, number: int, rung: float, score: float, latency_ms: float) -> None:
        """Take down what a trial reached at a rung; again replaces what was reported before.

        Args:
            number: Of the trial.
            rung: Share of the full training, one of the settings' rungs.
            score: Smaller is better; comparable within a rung only.
            latency_ms: Predicted, the same at every rung of a trial.

        Raises:
            StateError: There is no such rung, or a value is not finite.
        """
        if rung not in self._reports:
            known = ", ".join(f"{known:g}" for known in self.settings.rungs)
            raise StateError(f"trial {number}: reported rung {rung}; the rungs are {known}.")
        if not (math.isfinite(score) and math.isfinite(latency_ms)):
            raise StateError(f"trial {number}: reported {score} at {latency_ms} ms; both must be finite.")
        self._reports[rung][number] = (score, latency_ms)

    def reached(self, rung: float) -> int:
        """Return how many trials reported at a rung."""
        return len(self._reports[rung])

    def is_promoted(self, number: int, rung: float, is_last_call: bool = False) -> bool:
        """Return whether a trial that reported at a rung goes on to the next, as it stands now.

        It does when it is among the best 1/eta of its latency bucket at this rung: by non-dominated rank over score
        and latency, of equal rank the loneliest (both ends of a front are), of equals by score, then by number. The
        share is rounded down, so that the first of a bucket waits for others; at the last call, when there will be
        none, it is rounded up.
        """
        return rung != self.settings.rungs[-1] and number in self._promoted(rung, is_last_call)

    def overlooked(self, is_last_call: bool = False) -> list[tuple[int, float]]:
        """Return who may go on and was never seen at the next rung, with the rung it reached, the highest rung first.

        Among those are the ones that are on their way to it.
        """
        found = []
        for rung, following in reversed(list(pairwise(self.settings.rungs))):
            waiting = self._promoted(rung, is_last_call) - self._reports[following].keys()
            found += [(number, rung) for number in sorted(waiting)]
        return found

    def tau(self, rung: float) -> float | None:
        """Return Kendall's tau-b between the scores at a rung and at the last one, -1 to 1; None while undefined.

        Only trials that reached both count, so it is that of the promoted, not of all.
        """
        here, last = self._reports[rung], self._reports[self.settings.rungs[-1]]
        both = sorted(here.keys() & last.keys())
        return kendall_tau(np.array([here[n][0] for n in both]), np.array([last[n][0] for n in both]))

    def is_widened(self, rung: float) -> bool:
        """Return whether a rung stops fewer than it was set to: it has been seen to say too little of the last one."""
        last = self.settings.rungs[-1]
        n_pairs = len(self._reports[rung].keys() & self._reports[last].keys())
        tau = self.tau(rung)
        return rung != last and n_pairs >= PAIRS and tau is not None and tau < LOYAL

    def eta(self, rung: float) -> float:
        """Return one over the share that a rung promotes: that of the settings, or half of it where widened."""
        eta = self.settings.eta
        return min(eta, max(LEAST_ETA, eta / 2)) if self.is_widened(rung) else eta

    def summary(self) -> list[dict[str, Any]]:
        """Return one JSON row a rung: ``rung``, ``reached``, ``tau``, ``eta`` and ``widened``."""
        return [
            {
                "rung": rung,
                "reached": self.reached(rung),
                "tau": self.tau(rung) if rung != self.settings.rungs[-1] else None,
                "eta": self.eta(rung),
                "widened": self.is_widened(rung),
            }
            for rung in self.settings.rungs
        ]

    def _promoted(self, rung: float, is_last_call: bool) -> set[int]:
        """Return who goes on from a rung, of all buckets."""
        rivals: dict[int, list[int]] = {}
        for number, bucket in self._buckets(rung).items():
            rivals.setdefault(bucket, []).append(number)
        rounded, eta = math.ceil if is_last_call else math.floor, self.eta(rung)
        return {n for numbers in rivals.values() for n in self._ranked(rung, numbers)[: rounded(len(numbers) / eta)]}

    def _ranked(self, rung: float, numbers: list[int]) -> list[int]:
        """Return trials of a bucket, the first to be promoted first."""
        reports = self._reports[rung]
        given = sorted(numbers, key=lambda number: (reports[number][0], number))
        places = tournament_order([Observation(number, {}, np.array(reports[number]), 0.0) for number in given])
        return [given[i] for i in np.argsort(places)]

    def _buckets(self, rung: float) -> dict[int, int]:
        """Return the latency bucket of every trial at a rung; buckets divide those at the first rung evenly."""
        if not self._reports[rung]:
            return {}
        latencies = [latency_ms for _, latency_ms in self._reports[self.settings.rungs[0]].values()]
        n_buckets = self.settings.buckets
        edges = np.quantile(latencies, np.arange(1, n_buckets) / n_buckets)
        found = np.searchsorted(edges, [latency_ms for _, latency_ms in self._reports[rung].values()], side="right")
        return dict(zip(self._reports[rung], found.tolist(), strict=True))


def kendall_tau(first: np.ndarray, second: np.ndarray) -> float | None:
    """Return the rank correlation of two series, tau-b: ties count for neither side.

    Args:
        first: ``(n,)`` float.
        second: ``(n,)`` float.

    Returns:
        -1 to 1; None where all values of a series are equal, or there are less than two.

    Source: Kendall 1945, The treatment of ties in ranking problems, https://doi.org/10.1093/biomet/33.3.239.
    """
    signs = [np.sign(series[:, None] - series[None, :]) for series in (first, second)]
    scale = math.sqrt(np.square(signs[0]).sum() * np.square(signs[1]).sum())
    return float((signs[0] * signs[1]).sum() / scale) if scale else None
