"""What a device is: it exports a model, measures artefacts beside a reference, and predicts with an artefact.

Knows no runtime; those are rows of ``nas.devices.BACKENDS``. Imports nothing heavy.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np

from search_spaces.errors import ShapeError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from nas.data.tokens import Tokens
    from nas.recipe import DeviceSettings
    from search_spaces.families.encoder_model import TextEncoder

Origin = Literal["measured", "looked up", "simulated"]
Format = Literal["onnxruntime", "onnx", "torch", "executorch", "litert"]
FILES: Mapping[Format, str] = {
    "onnxruntime": "model.onnx",
    "onnx": "model.onnx",
    "torch": "artefact.safetensors",
    "executorch": "model.pte",
    "litert": "model.tflite",
}
"""What the file of an artefact is called. ``onnxruntime`` is ONNX with ONNX Runtime's own operators, ``onnx`` has the
standard's alone, ``torch`` is a state dict in safetensors with the shape as metadata."""


def file_names(formats: Iterable[Format]) -> dict[Format, str]:
    """Return what the files of one student are called, one a format; where two have one name the first keeps it."""
    found: dict[Format, str] = {}
    for each in formats:
        stem, _, ending = FILES[each].partition(".")
        found.setdefault(each, f"{stem}-{each}.{ending}" if FILES[each] in found.values() else FILES[each])
    return found


@dataclass(frozen=True)
class Workload:
    """What one call of a model gets in production: ``batch`` rows of ``tokens`` tokens, none of them padding.

    Attributes:
        batch: Rows of a call.
        tokens: Length of its rows; also of every free axis but the first of a model that is no text encoder.
        mix: Several lengths with their shares, which add up to 1; () = all calls have ``tokens``.
        shapes: Whole shapes of single inputs, for a model whose free axes mean something else.
    """

    batch: int
    tokens: int
    mix: tuple[tuple[int, float], ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse an empty workload."""
        if min(self.batch, self.tokens, *(tokens for tokens, _ in self.mix)) < 1:
            raise ShapeError(f"workload: batch {self.batch}, tokens {self.tokens}; both must be at least 1.")

    @property
    def lengths(self) -> tuple[tuple[int, float], ...]:
        """Return the lengths of calls with their shares."""
        return self.mix or ((self.tokens, 1.0),)


@dataclass(frozen=True)
class Measurement:
    """How long one artefact takes on a device, measured in turns with the reference.

    Attributes:
        median_ms: Median of the rounds' medians.
        p95_ms: 95th percentile of all timed calls.
        low_ms: Lower end of the 95 % confidence interval of the median.
        high_ms: Upper end of it.
        n: Timed calls.
        reference_ms: Median of the reference in the same rounds; None without a reference.
        speedup: Median over the rounds of reference / artefact, of several processes the geometric mean of these; None
            without a reference.
        contended: Something else used the processor during too many rounds, in every attempt.
        noisy: The confidence interval stayed wider than asked for.
        load_ms: From bytes to a session that is ready.
        size_bytes: Size of the artefact.
        p99_ms: 99th percentile of all timed calls; None where it is not known.
        origin: Whether the device was there: measured, looked up in a table, or simulated.
        starts: Processes that it was measured in; of several the intervals cover their differences, too.
        speedup_low: Lower end of the 95 % confidence interval of the speed-up; None where it is not known.
        speedup_high: Upper end of it.
    """

    median_ms: float
    p95_ms: float
    low_ms: float
    high_ms: float
    n: int
    reference_ms: float | None
    speedup: float | None
    contended: bool
    noisy: bool
    load_ms: float
    size_bytes: int
    p99_ms: float | None = None
    origin: Origin = "measured"
    starts: int = 1
    speedup_low: float | None = None
    speedup_high: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the measurement as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Measurement":
        """Return the measurement that `to_json` wrote, also before there were ``starts``; other keys are ignored."""
        told = {each.name: values[each.name] for each in fields(cls) if each.default is MISSING or each.name in values}
        return cls(**told)


@dataclass(frozen=True)
class PeakMemory:
    """Resident memory of a process that runs an artefact, at its peak.

    Attributes:
        total_bytes: With the model loaded and run.
        idle_bytes: Before: Python, numpy and the runtime, which a service in another language would not need.
    """

    total_bytes: int
    idle_bytes: int


class Device(Protocol):
    """A place where artefacts run, with the runtime that ships there; made from ``DeviceSettings``.

    Attributes:
        suits: What the backend is good for, in one line of at most 100 letters.
        origin: Where its milliseconds come from.
        options_model: Its options with defaults, ranges and meanings; extra keys are refused.
        is_fresh: Every measurement is a process of its own, or none at all.
        name: Of the device.
        format: Of the artefacts that it exports and runs.
    """

    suits: ClassVar[str]
    origin: ClassVar[Origin]
    options_model: ClassVar[type["BaseModel"]]
    is_fresh: ClassVar[bool]
    name: str
    format: Format

    @classmethod
    def why_not(cls) -> str | None:
        """Return None where the backend works on this machine, else what is missing and how to install it."""
        ...

    def __init__(self, settings: "DeviceSettings") -> None:
        """Keep the settings; nothing is started.

        Raises:
            ConfigError: An option is unknown or has a value that is not allowed.
        """
        ...

    def check(self) -> None:
        """Refuse what cannot work from this machine, as far as that can be seen in a moment.

        Raises:
            ConfigError: A setting asks for more than there is, e.g. threads.
            DeviceError: The device is not there.
            MissingDependencyError: The runtime is not installed.
        """
        ...

    def environment(self) -> dict[str, str]:
        """Return what a reader needs to repeat a measurement: processor, threads, runtime version, governor."""
        ...

    def export(self, model: "TextEncoder") -> bytes:
        """Return the artefact of a model, not yet quantized."""
        ...

    def measure(
        self, artefacts: Sequence[bytes], reference: bytes | None, workload: Workload, quick: bool = False
    ) -> list[Measurement]:
        """Return one measurement for each artefact.

        Args:
            artefacts: Exported models, quantized or not.
            reference: What they are compared with, measured in turns with them.
            workload: What one call gets.
            quick: Settle for a wider confidence interval (for fitting a predictor).

        Raises:
            DeviceError: The runtime refuses an artefact.
            MissingDependencyError: The runtime is not installed; as for all that follows.
        """
        ...

    def peak_memory(self, artefact: bytes, workload: Workload) -> PeakMemory | None:
        """Return the memory of a process that does nothing but run the artefact; None where it cannot be known.

        Raises:
            DeviceError: The process failed, or took too long.
        """
        ...

    def rows(self, artefact: bytes, workload: Workload) -> int:
        """Return how many rows a call of this workload has; an artefact may fix their number.

        Raises:
            DeviceError: The runtime refuses the artefact.
        """
        ...

    def energy_mj(self, artefact: bytes, workload: Workload) -> float | None:
        """Return the energy of one call in mJ, that of the whole processor; None where it cannot be known.

        Raises:
            DeviceError: The runtime refuses the artefact.
        """
        ...

    def predict(self, artefact: bytes, tokens: "Tokens", batch: int) -> np.ndarray:
        """Return ``(n, n_labels)`` float32 logits, rows as in ``tokens``, computed as production would.

        Args:
            artefact: An exported model.
            tokens: ``n`` rows.
            batch: Rows of a call at most; rows of a call have equal length, so nothing is padded.

        Raises:
            DeviceError: The runtime refuses the artefact or an input.
        """
        ...

    def outputs(self, artefact: bytes, tokens: "Tokens", batch: int) -> Iterator[Mapping[str, np.ndarray]]:
        """Yield all outputs of an artefact by name, call by call; a compressor adds what it wants to see to them.

        Args:
            artefact: An exported model.
            tokens: Rows; those of a call have equal length.
            batch: Rows of a call at most.

        Raises:
            DeviceError: The runtime refuses the artefact or an input.
        """
        ...
