"""What a device is: it exports a model, measures artefacts beside a reference, and predicts with an artefact.

Knows no runtime; those are rows of ``nas.devices.DEVICES``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from search_spaces.errors import ShapeError

if TYPE_CHECKING:
    from nas.data.tokens import Tokens
    from nas.recipe import DeviceSettings
    from search_spaces.families.encoder_model import TextEncoder


@dataclass(frozen=True)
class Workload:
    """What one call of a model gets in production: ``batch`` rows of ``tokens`` tokens, none of them padding."""

    batch: int
    tokens: int

    def __post_init__(self) -> None:
        """Refuse an empty workload."""
        if self.batch < 1 or self.tokens < 1:
            raise ShapeError(f"workload: batch {self.batch}, tokens {self.tokens}; both must be at least 1.")


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
        speedup: Median over the rounds of reference / artefact; None without a reference.
        contended: Something else used the processor during too many rounds, in every attempt.
        noisy: The confidence interval stayed wider than asked for.
        load_ms: From bytes to a session that is ready.
        size_bytes: Size of the artefact.
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

    def to_json(self) -> dict[str, Any]:
        """Return the measurement as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Measurement":
        """Return the measurement that `to_json` wrote; keys of other things are ignored."""
        return cls(**{field.name: values[field.name] for field in fields(cls)})


class Device(Protocol):
    """A place where artefacts run, with the runtime that ships there; made from ``DeviceSettings``."""

    name: str

    def __init__(self, settings: "DeviceSettings") -> None:
        """Keep the settings; nothing is started."""
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
            reference: What they are compared with, measured in turns with each of them.
            workload: What one call gets.
            quick: Settle for a wider confidence interval (for fitting a predictor).

        Raises:
            DeviceError: The runtime refuses an artefact.
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
