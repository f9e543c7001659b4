"""OpenVINO on this machine: ONNX files of standard operators, on Intel's processors first of all."""

import importlib.metadata
import importlib.util
from typing import ClassVar, Literal

from pydantic import BaseModel, Field

from nas.devices.base import Format
from nas.devices.host import HostDevice
from nas.devices.onnx_text_encoder import build_onnx
from nas.recipe import Section
from search_spaces.errors import ConfigError
from search_spaces.families.encoder_model import TextEncoder
from search_spaces.registry import Table

TARGETS = Table("runtime", {"openvino": "nas.devices.openvino_program:targets"})


class OpenVinoOptions(Section):
    """How OpenVINO compiles a model."""

    target: str = Field(
        "CPU", pattern=r"^[A-Z]+(\.\d+)?$", description="OpenVINO's own name of a device: CPU, GPU, NPU"
    )
    precision: Literal["f32", "bf16", "f16", "auto"] = Field("f32", description="of the arithmetic; auto: its choice")


class OpenVino(HostDevice):
    """ONNX files in OpenVINO."""

    suits: ClassVar[str] = "OpenVINO on this machine: Intel's processors, graphics and NPUs"
    options_model: ClassVar[type[BaseModel]] = OpenVinoOptions
    runtime: ClassVar[str] = "openvino"
    title: ClassVar[str] = "OpenVINO"
    format: Format = "onnx"

    @classmethod
    def why_not(cls) -> str | None:
        """Return what to install where OpenVINO is missing."""
        if importlib.util.find_spec("openvino") is not None:
            return None
        return "the package openvino is not installed. Install it with: pip install 'prentice[openvino]'"

    def check(self) -> None:
        """Refuse a missing OpenVINO, too many threads, and a target that it does not find.

        Raises:
            ConfigError: The target is not here, or there are fewer processors than threads.
            MissingDependencyError: OpenVINO is not installed.
        """
        super().check()
        there = TARGETS.load("openvino")()
        if self.options.target not in there:
            found = ", ".join(there)
            raise ConfigError(f"device.options.target: {self.options.target!r} is not here; OpenVINO finds {found}.")

    def export(self, model: TextEncoder) -> bytes:
        """Return the model as an ONNX file of standard operators, float32."""
        return build_onnx(model, self.format)

    def version(self) -> str:
        """Return OpenVINO's version, target and precision."""
        return f"openvino {importlib.metadata.version('openvino')} {self.options.target} {self.options.precision}"
