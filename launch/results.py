"""The figures of one search, as plain values: what a report shows and a program may read.

Knows no file, no study and no layout.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Baseline:
    """The teacher: scored in float32, its fp32 artefact measured in turns with the students."""

    name: str
    accuracy: float
    latency_ms: float
    size_bytes: float
    test_accuracy: float | None = None
    parameters: float | None = None


@dataclass(frozen=True)
class Candidate:
    """A student of the search phase: trained briefly, its latency predicted.

    Attributes:
        name: E.g. ``trial 17``.
        accuracy: Of the artefact on the validation split.
        latency_ms: Predicted.
        shape: In words.
        is_front: No other candidate beats it.
        is_feasible: It meets the hard constraints.
        remark: What a reader must know, e.g. ``stopped at 10 %``; may be empty.
    """

    name: str
    accuracy: float
    latency_ms: float
    shape: str
    is_front: bool = False
    is_feasible: bool = True
    remark: str = ""


@dataclass(frozen=True)
class Rung:
    """A step of the training after which only the best went on.

    Attributes:
        share: Of the full training, 0 to 1.
        n_reached: How many students were judged here.
        tau: Rank correlation of the scores here with those at the last rung, of the students with both; None where
            unknown.
        is_widened: It stopped fewer than it was set to, since that correlation was low.
    """

    share: float
    n_reached: int
    tau: float | None = None
    is_widened: bool = False


@dataclass(frozen=True)
class Student:
    """A finalist: trained in full with several seeds, the best seed delivered and measured.

    Attributes:
        name: Of its folder.
        shape: In words.
        accuracy: Of the delivered artefact on the validation split.
        accuracy_mean, accuracy_sd: Over the seeds.
        n_seeds: How many seeds.
        latency_ms, low_ms, high_ms: Median and its 95 % confidence interval.
        p95_ms: 95th percentile.
        speedup: Over the teacher, from paired ratios.
        size_bytes: Of the artefact.
        predicted_ms: What the predictor had said.
        test_accuracy: Of the delivered artefact on the test split, None without one.
        test_mean, test_sd: Over the seeds.
        is_feasible: It meets the hard constraints.
        remarks: What a reader must know, e.g. ``noisy``.
        speedup_range: 95 % confidence interval of the speed-up; None where it is not known.
    """

    name: str
    shape: str
    accuracy: float
    accuracy_mean: float
    accuracy_sd: float
    n_seeds: int
    latency_ms: float
    low_ms: float
    high_ms: float
    p95_ms: float
    speedup: float
    size_bytes: float
    predicted_ms: float
    test_accuracy: float | None = None
    test_mean: float | None = None
    test_sd: float | None = None
    is_feasible: bool = True
    remarks: tuple[str, ...] = ()
    speedup_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class ReportData:
    """Everything a report shows.

    Attributes:
        name: Of the search.
        created: Date and time, for people.
        teacher: The baseline.
        data: Where the texts come from.
        device: Name of the device.
        workload: E.g. ``batch 1, 16 tokens, 1 thread``.
        students: Finalists, best first.
        candidates: All students trained in the search phase.
        constraints: As written in the recipe.
        limit_ms: The latency constraint in milliseconds, if there is one.
        counts: E.g. ``{"artefacts profiled": 32, "students trained": 24, "failed": 1}``.
        failures: Cause -> how often.
        phases: Phase -> seconds, in order.
        overhead: Share of the time spent neither training nor measuring.
        predictor: ``mape``, ``spearman`` and ``n`` of the latency predictor, held out.
        environment: What a reader needs to repeat the measurements.
        loading: Lines of Python that run the best student's artefact, and those that load its weights.
        rungs: Where training may have been stopped, empty when all students were trained in full.
        others: The same search on its other devices, where this is the first of several.
    """

    name: str
    created: str
    teacher: Baseline
    data: str
    device: str
    workload: str
    students: tuple[Student, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    constraints: tuple[str, ...] = ()
    limit_ms: float | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    phases: Mapping[str, float] = field(default_factory=dict)
    overhead: float | None = None
    predictor: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    loading: tuple[str, ...] = ()
    rungs: tuple[Rung, ...] = ()
    others: tuple["ReportData", ...] = ()

    @property
    def each(self) -> tuple["ReportData", ...]:
        """Return the figures of all devices."""
        return (self, *self.others)
