"""A device that does not exist: an operator takes as long as its arithmetic or its bytes need, whichever is longer.

For what-if questions and for tests of scale; every figure is marked *simulated*. Answers are computed here, as for
every ONNX device.

Source: Williams, Waterman, Patterson 2009, https://doi.org/10.1145/1498765.1498785.
"""

from collections.abc import Sequence
from typing import ClassVar

from pydantic import BaseModel, Field

from nas.devices.base import Measurement, Origin, PeakMemory, Workload
from nas.devices.onnxruntime_backend import OnnxRuntime
from nas.devices.operations import Operation, operations
from nas.devices.program import RefusalError
from nas.recipe import Section


class RooflineOptions(Section):
    """What the device can do."""

    gflops: float = Field(50.0, gt=0, description="peak of float arithmetic, a multiplication and an addition are two")
    int8_gops: float | None = Field(None, gt=0, description="peak of int8 arithmetic; None: as for floats")
    bandwidth_gbs: float = Field(10.0, gt=0, description="memory, GB/s")
    cache_mb: float = Field(0.0, ge=0, description="weights that fit into it are there when a call begins")
    cache_gbs: float = Field(100.0, gt=0, description="cache, GB/s")
    overhead_us: float = Field(2.0, ge=0, description="of every operator")


class Roofline(OnnxRuntime):
    """Latencies of a formula."""

    suits: ClassVar[str] = "a simulated device of so many GFLOP/s and GB/s: what if; always marked simulated"
    origin: ClassVar[Origin] = "simulated"
    options_model: ClassVar[type[BaseModel]] = RooflineOptions
    is_fresh: ClassVar[bool] = True

    def check(self) -> None:
        """Refuse nothing: what is simulated is always there."""

    def environment(self) -> dict[str, str]:
        """Return what is simulated."""
        told = ", ".join(f"{name} {value:g}" for name, value in self.options if value is not None)
        return {"runtime": f"simulated roofline: {told}", **self._note}

    def measure(
        self, artefacts: Sequence[bytes], reference: bytes | None, workload: Workload, quick: bool = False
    ) -> list[Measurement]:
        """Return the simulated latency of each artefact and of the reference.

        Raises:
            DeviceError: ONNX Runtime, which tells the shapes, refuses a file.
        """
        other = None if reference is None else self._latency_ms(reference, workload)
        measurements = []
        for artefact in artefacts:
            latency = self._latency_ms(artefact, workload)
            speedup = None if other is None else other / latency
            known = (latency, latency, latency, latency, 0, other, speedup, False, False, 0.0, len(artefact))
            measurements.append(Measurement(*known, p99_ms=latency, origin=self.origin))
        return measurements

    def peak_memory(self, artefact: bytes, workload: Workload) -> PeakMemory | None:
        """Return None: it is not simulated."""
        return None

    def energy_mj(self, artefact: bytes, workload: Workload) -> float | None:
        """Return None: it is not simulated."""
        return None

    def _latency_ms(self, artefact: bytes, workload: Workload) -> float:
        """Return the time of a call, the mean over a mix of lengths."""
        total = 0.0
        for tokens, share in workload.lengths:
            try:
                total += share * self.call_ms(operations(artefact, workload, tokens))
            except RefusalError as error:
                shape = f"{workload.batch}x{tokens} tokens"
                raise self._refused(f"a call of {shape} has no shapes", error) from error
        return total

    def call_ms(self, done: Sequence[Operation]) -> float:
        """Return the time of operators, one after the other."""
        has_room = sum(each.weight_bytes for each in done) <= 1e6 * self.options.cache_mb
        return 1e3 * sum(self._seconds(each, has_room) for each in done)

    def _seconds(self, operation: Operation, is_cached: bool) -> float:
        """Return the time of one operator."""
        told = self.options
        peak = told.int8_gops if operation.is_integer and told.int8_gops else told.gflops
        bandwidth = told.cache_gbs if is_cached else told.bandwidth_gbs
        arithmetic, bytes_moved = operation.flops / (1e9 * peak), operation.bytes_moved / (1e9 * bandwidth)
        return float(1e-6 * told.overhead_us + max(arithmetic, bytes_moved))
