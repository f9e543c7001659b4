"""torch itself on this machine, eager or compiled, on the processor or a GPU.

torch has one number of threads for the whole process, and threads that are there already stay on their processors. So
everything runs in a thread of its own: the workers of OpenMP that it starts are new, stay on its processors, and end
with it.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import ClassVar, ParamSpec, TypeVar

import torch
from pydantic import BaseModel, Field

from compressors.torch_file import to_blob
from nas.devices.base import Format, Measurement, Workload
from nas.devices.host import MOST_TOGETHER, HostDevice
from nas.recipe import Section
from search_spaces.errors import ConfigError
from search_spaces.families.encoder_model import TextEncoder

P = ParamSpec("P")
T = TypeVar("T")


class TorchOptions(Section):
    """How torch runs the model."""

    compile: bool = Field(
        False, description="torch.compile in the first calls, which load_ms leaves out; needs a C++ compiler"
    )
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$", description="cpu, cuda or cuda:1")


class TorchEager(HostDevice):
    """State dicts in torch."""

    suits: ClassVar[str] = "torch on this machine, eager or compiled, CPU or CUDA: for those who serve the module"
    options_model: ClassVar[type[BaseModel]] = TorchOptions
    runtime: ClassVar[str] = "torch"
    title: ClassVar[str] = "torch"
    format: Format = "torch"

    @property
    def most_together(self) -> int:
        """Return 1 for compiled files: torch gives up compiling where many models of one class are there."""
        return 1 if self.options.compile else MOST_TOGETHER

    def check(self) -> None:
        """Refuse a GPU that is not there, to compile without a compiler, and too many threads.

        Raises:
            ConfigError: It says which.
        """
        super().check()
        options = self.options
        n_there = torch.cuda.device_count() if options.device != "cpu" else 1
        if int(options.device.partition(":")[2] or 0) >= n_there:
            raise ConfigError(
                f"device.options.device: {options.device!r} is not here; torch {torch.__version__} sees {n_there} "
                "GPUs. Choose cpu."
            )
        if options.compile and not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))):
            raise ConfigError("device.options.compile: True needs a C++ compiler, and none is installed; install g++.")

    @property
    def gpu(self) -> int | None:
        """Return CUDA's number of the GPU, None for the processor."""
        kind, _, number = self.options.device.partition(":")
        return int(number or 0) if kind == "cuda" else None

    def export(self, model: TextEncoder) -> bytes:
        """Return the model as a safetensors file with its shape."""
        return to_blob(model)

    def version(self) -> str:
        """Return torch's version and how it runs."""
        how = "compiled" if self.options.compile else "eager"
        gpu = f" {torch.cuda.get_device_name(self.options.device)}" if self.options.device != "cpu" else ""
        return f"torch {torch.__version__} {how} {self.options.device}{gpu}"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Give torch the device's number of threads, and the one it had afterwards."""
        before = torch.get_num_threads()
        torch.set_num_threads(self._settings.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def measure(
        self, artefacts: Sequence[bytes], reference: bytes | None, workload: Workload, quick: bool = False
    ) -> list[Measurement]:
        """Return one measurement for each artefact; see `HostDevice.measure`."""
        return _apart(super().measure, artefacts, reference, workload, quick)


def _apart(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what a function returns, run in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args, **kwargs).result()
