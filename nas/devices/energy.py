"""What calls cost in energy, where the machine can tell: RAPL counters of whole packages, or NVML's of a whole GPU.

RAPL is Intel's and AMD's, NVML is NVIDIA's and needs the package ``nvidia-ml-py``. Other programs on the same processor
count as well. Knows counters and calls; not models.
"""

import importlib.util
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from search_spaces.registry import Table

POWERCAP = Path("/sys/class/powercap")
LEAST_S = 1.0  # of calls: the counters move once a millisecond
LEAST_GPU_S = 5.0  # NVML's move up to 100 ms apart: 2 % of error
COUNTERS = Table("energy counter", {"nvml": "nas.devices.nvml:gpu_counter"})


def energy_mj(call: Callable[[], object], counters: Path = POWERCAP, least_s: float = LEAST_S) -> float | None:
    """Return the energy of one call in mJ, all packages together; None where the counters cannot be read.

    Args:
        call: Made again and again.
        counters: Folder of the powercap interface of Linux.
        least_s: Seconds of calls at least.
    """
    packages = [zone for zone in sorted(counters.glob("intel-rapl:*")) if zone.name.count(":") == 1]
    before = [_microjoules(zone) for zone in packages]
    if not packages or None in before:
        return None
    n = _repeated(call, least_s)
    spent = [_since(zone, start) for zone, start in zip(packages, before, strict=True) if start is not None]
    return sum(spent) / 1e3 / n


def gpu_energy_mj(call: Callable[[], object], ordinal: int, least_s: float = LEAST_GPU_S) -> float | None:
    """Return the energy of one call in mJ, of the GPU alone; None where NVML is not installed or does not tell.

    Args:
        call: Made again and again; the GPU has finished when it returns.
        ordinal: CUDA's number of the GPU in this process.
        least_s: Seconds of calls at least.
    """
    if importlib.util.find_spec("pynvml") is None:
        return None
    with COUNTERS.load("nvml")(ordinal) as counter:
        before = counter()
        if before is None:
            return None
        n = _repeated(call, least_s)
        after = counter()
    return None if after is None else (after - before) / n


def mean_mj(spent: Sequence[tuple[float | None, float]]) -> float | None:
    """Return the mean of several calls by their shares; None where one is not known."""
    known = [mj * share for mj, share in spent if mj is not None]
    return sum(known) if len(known) == len(spent) else None


def _repeated(call: Callable[[], object], least_s: float) -> int:
    """Call for so many seconds, once at least; return how often."""
    stop, n = time.monotonic() + least_s, 0
    while n == 0 or time.monotonic() < stop:
        call()
        n += 1
    return n


def _microjoules(zone: Path) -> int | None:
    """Return a counter; None where only the administrator may read it."""
    try:
        return int((zone / "energy_uj").read_text())
    except OSError:
        return None


def _since(zone: Path, start: int) -> int:
    """Return by how much a counter grew; it begins again after its largest value."""
    grown = (_microjoules(zone) or start) - start
    return grown if grown >= 0 else grown + int((zone / "max_energy_range_uj").read_text()) + 1
