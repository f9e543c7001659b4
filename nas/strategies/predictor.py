"""Predictor-assisted search: surrogates of what only a trial can tell choose among a thousand candidates.

Costs that are known beforehand (latency, size) are exact; the others are drawn from surrogates that learn from all
finished trials. The candidate of the largest expected gain of hypervolume is tried next. Candidates that run count as
if they had given what was predicted, so that parallel workers get different ones.

Sources: expected hypervolume improvement: Emmerich et al. 2006, https://doi.org/10.1109/TEVC.2005.859463; evolution
on predictions: Cummings et al. 2022 (LINAS), https://arxiv.org/abs/2205.10358, algorithm 1.
"""

import math
from typing import Any

import numpy as np
from pydantic import Field
from scipy.stats import norm

from nas.strategies.archive import Archive, make_pool
from nas.strategies.base import Strategy
from nas.strategies.description import Description
from nas.strategies.forecast import Forecast, worst_of_interest
from nas.strategies.gain import hypervolume_gain
from nas.strategies.history import History
from nas.strategies.options import Options
from search_spaces.rows import Rows
from search_spaces.space import Genes, Space

SPREAD = 64  # random candidates of which the farthest from all tried is taken
NEAREST = 300  # tried ones that it is compared with, the latest
ASKED = 200  # candidates that may be refused before the best one is tried all the same
GROWTH = 1.04  # surrogates are fitted again when there are so many times as many trials


class PredictorOptions(Options):
    """Options of predictor-assisted search."""

    initial: int = Field(10, ge=2, description="trials before the first prediction, enqueued ones included")
    pool: int = Field(1000, ge=10, description="candidates that are predicted for one that is tried")
    exploration: float = Field(0.02, ge=0, le=1, description="chance of a candidate far from all tried ones")
    draws: int = Field(16, ge=1, description="draws of the costs of every candidate")
    optimism: float = Field(
        0.6, ge=0, description="share of the predicted deviation in a draw; 1 lets the least known of the pool win"
    )


class Milestone:
    """Holds the forecast of a history as of its latest milestone."""

    forecast: Forecast | None = None


class PredictorSearch(Strategy):
    """Tries what is expected to add most to the front."""

    name = "predictor"
    suits = "trials that cost minutes: needs the fewest of them, most of all where latency or size is known beforehand"
    options_model = PredictorOptions
    uses_features = True
    _options: PredictorOptions

    def __init__(self, space: Space | None = None, seed: int | None = None, **options: Any) -> None:
        """Prepare the vectorised view of the space; see `Strategy`."""
        super().__init__(space, seed, **options)
        self._rows = Rows(self.space)
        self._description = Description(self._rows)

    def propose(self, history: History, rng: np.random.Generator) -> Genes:
        """Return the candidate of the largest expected gain, now and then whatever is farthest from all tried."""
        options = self._options
        archive = history.keep(Archive, lambda: Archive(self._rows))
        archive.update(history)
        n_trials = len(history.finished) + len(history.pending)
        if len(archive) < 2 or n_trials < options.initial or rng.random() < options.exploration:
            return self._rows.genes(self._farthest(archive, rng))
        pool = archive.untried(make_pool(self._rows, archive, options.pool, rng))
        scores = self._scores(archive, self._forecast(history, archive), pool, rng)
        order = np.argsort(-scores, kind="stable")
        best = (self._rows.genes(pool[i]) for i in order[:ASKED])
        return next((genes for genes in best if self.foreknowledge.accept(genes)), self._rows.genes(pool[order[0]]))

    def _farthest(self, archive: Archive, rng: np.random.Generator) -> np.ndarray:
        """Return the random row that is farthest from the nearest tried one."""
        pool = self._rows.sample(SPREAD, rng)
        codes, tried = self._rows.encode(pool), self._rows.encode(archive.rows[-NEAREST:])
        distances = ((codes[:, None] - tried[None]) ** 2).sum(axis=2).min(axis=1, initial=np.inf)
        farthest: np.ndarray = pool[int(distances.argmax())]
        return farthest

    def _forecast(self, history: History, archive: Archive) -> Forecast:
        """Return the surrogates, fitted on the history up to its latest milestone, so that a resume has the same."""
        kept = history.keep(Milestone, Milestone)
        n = milestone(len(archive), self._options.initial)
        if kept.forecast is None or kept.forecast.n != n:
            kept.forecast = Forecast(archive, n, self._description, self.foreknowledge)
        return kept.forecast

    def _scores(self, archive: Archive, forecast: Forecast, pool: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return ``(n,)`` what is expected of each row of the pool: gain times chance to be feasible."""
        n, rows = len(pool), np.concatenate([pool, archive.pending])
        needs_genes = bool(self.foreknowledge.costs or self.foreknowledge.features)
        candidates = [self._rows.genes(row) for row in rows] if needs_genes else [{}] * len(rows)
        draws, chance = forecast.draws(rows, candidates, self._levels(), rng)
        if (archive.violations[archive.front] > 0).all():
            return chance[:n]  # nothing is feasible yet: that comes first
        expected = archive.expected(len(archive))
        reference, best = worst_of_interest(expected), expected.min(axis=0)
        span = np.where(reference > best, reference - best, 1.0)
        front = np.concatenate([archive.costs[archive.front], draws[:, n:].mean(axis=0)])
        gains = hypervolume_gain((front - best) / span, (reference - best) / span, (draws[:, :n] - best) / span, rng)
        scores: np.ndarray = gains.mean(axis=0) * chance[:n]
        return scores

    def _levels(self) -> np.ndarray:
        """Return ``(draws,)`` deviations from the predicted means, in predicted standard deviations."""
        n = self._options.draws
        levels: np.ndarray = self._options.optimism * norm.ppf((np.arange(n) + 0.5) / n)
        return levels


def milestone(n: int, first: int) -> int:
    """Return the last of a growing row of numbers, ``first`` and so on, that is at most ``n``; or ``n`` before it."""
    found = min(n, first)
    while (following := max(found + 1, math.ceil(found * GROWTH))) <= n:
        found = following
    return found
