"""The energy that a GPU has used, as NVIDIA's management library counts it.

Knows GPUs by CUDA's numbers, and reads nothing where it is not certain which GPU such a number is.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pynvml


@contextmanager
def gpu_counter(ordinal: int) -> Iterator[Callable[[], float | None]]:
    """Yield a counter of a GPU's energy in mJ since its driver was loaded; None where it does not tell.

    Args:
        ordinal: CUDA's number of the GPU in this process.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver
        yield lambda: None
        return
    try:
        yield lambda: _used_mj(ordinal)
    finally:
        pynvml.nvmlShutdown()


def _used_mj(ordinal: int) -> float | None:
    """Return what the counter says; GPUs before Volta have none, nor have their slices."""
    try:
        handle = _handle(ordinal)
        return None if handle is None else float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
    except pynvml.NVMLError:
        return None


def _handle(ordinal: int) -> Any:
    """Return the GPU; None where CUDA may count otherwise than the driver does, fastest first instead of by bus."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(i) for i in range(pynvml.nvmlDeviceGetCount())] if seen is None else seen.split(",")
    if ordinal >= len(names):
        return None
    name = names[ordinal].strip()
    if name.startswith("GPU-"):
        return pynvml.nvmlDeviceGetHandleByUUID(name)
    is_certain = pynvml.nvmlDeviceGetCount() == 1 or os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    return pynvml.nvmlDeviceGetHandleByIndex(int(name)) if is_certain and name.isdigit() else None
