"""What is known of every student before it is trained: sizes by formula, latency and bytes by predictors.

Knows candidates and predictors, one set a device; not how they were measured.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nas.candidates import Candidates
from nas.goals import on
from nas.latency import LatencyPredictor
from nas.latency_fit import Prediction
from nas.objectives import LATENCY, Constraint, at
from search_spaces.space import Genes


@dataclass(frozen=True)
class Profile:
    """What is known of every student before it is trained.

    Attributes:
        candidates: The space.
        n_tokens: Sequence length of the measurements.
        latency: Predicts ms from features and variant.
        size: Predicts bytes of the artefact from the number of parameters and the variant.
        teacher: Baseline metrics: latency_ms, size_bytes, macs, parameters and, once added, accuracy.
        fastest_ms: The fastest student measured.
        environment: What the device says of itself.
        n_words: Rows of the word table by variant, as measured: methods that look at data may drop some.
        calm_ms: The longest that the teacher takes while nothing disturbs the device.
        left_out: Which measurements the predictors did not learn from, and why; empty = none.
        device: Which of several devices all of this is about; the only one is called "".
        others: The same of the other devices, where this one is the first of several.
    """

    candidates: Candidates
    n_tokens: int
    latency: LatencyPredictor
    size: LatencyPredictor
    teacher: dict[str, float]
    fastest_ms: float
    environment: dict[str, str]
    n_words: Mapping[str, int] = field(default_factory=dict)
    calm_ms: float = math.inf
    left_out: str = ""
    device: str = ""
    others: tuple["Profile", ...] = ()

    @property
    def each(self) -> tuple["Profile", ...]:
        """Return the profiles of all devices."""
        return (self, *self.others)

    @property
    def fastest(self) -> str:
        """Return how fast the fastest student was on every device, in words."""
        return ", ".join(f"{each.fastest_ms:.3f} ms{on(each.device)}" for each in self.each)

    def metrics(self, genes: Genes) -> dict[str, float]:
        """Return the metrics of a candidate that need no training; latency and size are predictions.

        With several devices each has a ``latency_ms@NAME``; all plain names are about the first.
        """
        variant = self.candidates.variant(genes)
        known = self.candidates.known(genes, self.n_tokens, self.n_words.get(variant))
        found = {
            LATENCY: self.latency.predict(known.features, variant),
            "size_bytes": self.size.predict({"parameters": known.parameters}, variant),
            "macs": known.macs,
            "parameters": known.parameters,
        }
        found[at(LATENCY, self.device)] = found[LATENCY]
        return found | {at(LATENCY, each.device): each.metrics(genes)[LATENCY] for each in self.others}

    def foretell(self, genes: Genes) -> Prediction:
        """Return the latency of a candidate with its interval, and a warning where it is an extrapolation."""
        variant = self.candidates.variant(genes)
        known = self.candidates.known(genes, self.n_tokens, self.n_words.get(variant))
        return self.latency.foretell(known.features, variant)

    def warning(self, genes: Genes) -> str:
        """Return on which devices the latency of a candidate is an extrapolation, and why; empty if on none."""
        found = {each.device: each.foretell(genes).warning for each in self.each}
        return "; ".join(f"{warning}{on(device)}" for device, warning in found.items() if warning)

    def shortfall(self, genes: Genes, constraints: Sequence[Constraint]) -> float:
        """Return by how much a candidate misses the constraints that are known, beyond what predictions may err.

        Only metrics that need no training count; at most 0 means that the candidate is worth training. It is infinite
        where a compressor cannot do its work.
        """
        if self.candidates.refusal(genes) is not None:
            return math.inf
        metrics = self.metrics(genes)
        known = [c for c in constraints if c.metric in metrics]
        return max((c.violation(metrics, self.teacher) - self._slack(genes, c.metric) for c in known), default=0.0)

    def _slack(self, genes: Genes, metric: str) -> float:
        """Return how far a prediction may miss before a candidate is given up: twice the held-out error."""
        latencies = {at(LATENCY, each.device): each.latency for each in self.each}
        predictor = {"size_bytes": self.size, LATENCY: self.latency, **latencies}.get(metric)
        if predictor is None:
            return 0.0
        return 2 * float(predictor.report.variants[self.candidates.variant(genes)]["mape"])
