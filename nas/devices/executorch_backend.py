"""ExecuTorch on this machine: the files that phones and boards run, with XNNPACK, on this processor."""

from typing import ClassVar

from nas.devices.base import Format
from nas.devices.elsewhere import Elsewhere
from nas.devices.runtimes import EXECUTORCH, Runtime


class ExecuTorch(Elsewhere):
    """``.pte`` files in ExecuTorch: their rows are the device's batch, their tokens free."""

    suits: ClassVar[str] = "ExecuTorch on this machine: .pte files with XNNPACK, as phones and boards run them"
    runtime: ClassVar[str] = EXECUTORCH.name
    title: ClassVar[str] = EXECUTORCH.title
    where: ClassVar[Runtime] = EXECUTORCH
    format: Format = "executorch"
