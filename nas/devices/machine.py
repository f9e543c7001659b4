"""What a machine is, for whoever wants to repeat a measurement: processor, instructions, governor, system.

Imports nothing but the standard library, for it also runs on boards.
"""

import os
import platform
from pathlib import Path

GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
CPUINFO = Path("/proc/cpuinfo")
INSTRUCTIONS = (  # that decide what kernels a runtime has for float32, int8 and 16 bits
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "asimddp",
    "asimdhp",
    "i8mm",
    "bf16",
    "sve",
)


def machine() -> dict[str, str]:
    """Return what a machine is, in words; ``unknown`` where the system does not tell."""
    flags = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    return {
        "processor": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "processors": str(os.cpu_count()),
        "instructions": " ".join(name for name in INSTRUCTIONS if name in flags) or "unknown",
        "governor": GOVERNOR.read_text().strip() if GOVERNOR.exists() else "unknown",
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _cpuinfo(key: str) -> str:
    """Return what Linux says of the first processor under a key, else ''."""
    lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")
