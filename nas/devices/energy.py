"""What calls cost in energy, where the machine can tell: Intel's and AMD's RAPL counters of whole processor packages.

Other programs on the machine count as well. Knows counters and calls; not models.
"""

import time
from collections.abc import Callable
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
LEAST_S = 1.0  # of calls: the counters move once a millisecond


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
    stop, n = time.monotonic() + least_s, 0
    while n == 0 or time.monotonic() < stop:
        call()
        n += 1
    spent = [_since(zone, start) for zone, start in zip(packages, before, strict=True) if start is not None]
    return sum(spent) / 1e3 / n


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
