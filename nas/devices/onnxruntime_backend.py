"""ONNX Runtime on this machine: its processor, or what its providers reach."""

from typing import ClassVar, Literal

import onnxruntime
from pydantic import BaseModel, Field

from nas.devices.base import Format
from nas.devices.host import HostDevice
from nas.devices.onnx_text_encoder import build_onnx
from nas.devices.onnxruntime_program import PROVIDERS, present_providers
from nas.recipe import DeviceSettings, Section
from search_spaces.errors import ConfigError
from search_spaces.families.encoder_model import TextEncoder

OWN = ("cpu", "cuda")  # the providers that know ONNX Runtime's own operators


class OnnxRuntimeOptions(Section):
    """How a session is made."""

    providers: tuple[Literal["cpu", "cuda", "tensorrt", "openvino", "coreml", "xnnpack"], ...] = Field(
        ("cpu",), min_length=1, description="of ONNX Runtime, the preferred one first"
    )
    graph: Literal["none", "basic", "extended", "all"] = Field("all", description="how much it may change the graph")


class OnnxRuntime(HostDevice):
    """ONNX files in ONNX Runtime."""

    suits: ClassVar[str] = "ONNX Runtime on this machine: fast on every processor, int8 included"
    options_model: ClassVar[type[BaseModel]] = OnnxRuntimeOptions
    runtime: ClassVar[str] = "onnxruntime"
    title: ClassVar[str] = "ONNX Runtime"

    def __init__(self, settings: DeviceSettings) -> None:
        """Keep the settings; a provider that knows only standard operators gets files of those."""
        super().__init__(settings)
        self.format: Format = "onnxruntime" if self._providers[0] in OWN else "onnx"

    def check(self) -> None:
        """Refuse providers that this build of ONNX Runtime does not have, and too many threads.

        Raises:
            ConfigError: The message lists the providers that are there.
        """
        present = present_providers()
        for name in self._providers:
            if name not in present:
                raise ConfigError(
                    f"device.options.providers: {name!r} is not in this ONNX Runtime, which has {', '.join(present)}; "
                    "others come with their own builds, cuda and tensorrt with: pip install onnxruntime-gpu"
                )
        super().check()

    @property
    def _providers(self) -> tuple[str, ...]:
        """Return the providers by our names."""
        return tuple(getattr(self.options, "providers", ("cpu",)))

    @property
    def gpu(self) -> int | None:
        """Return CUDA's first GPU, which is where ONNX Runtime computes, or None for the processor."""
        return 0 if self._providers[0] in ("cuda", "tensorrt") else None

    def export(self, model: TextEncoder) -> bytes:
        """Return the model as an ONNX file, float32."""
        return build_onnx(model, self.format)

    def version(self) -> str:
        """Return ONNX Runtime's version and providers."""
        return f"onnxruntime {onnxruntime.__version__} {' '.join(PROVIDERS[name] for name in self._providers)}"
