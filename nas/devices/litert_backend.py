"""LiteRT on this machine: the files that Android runs, with XNNPACK, on this processor."""

from typing import ClassVar

from pydantic import BaseModel, Field, field_validator

from nas.devices.base import Format
from nas.devices.elsewhere import Elsewhere, ElsewhereOptions
from nas.devices.runtimes import LITERT, Runtime
from search_spaces.errors import ConfigError


class LiteRtOptions(ElsewhereOptions):
    """Where LiteRT is, and what its files are made for."""

    lengths: tuple[int, ...] = Field(
        (16, 32, 64, 128), min_length=1, description="of rows; a shorter row is filled up, as it is in production"
    )

    @field_validator("lengths")
    @classmethod
    def _check_lengths(cls, lengths: tuple[int, ...]) -> tuple[int, ...]:
        """Refuse a length that no row has."""
        if min(lengths) < 1:
            raise ConfigError(f"{min(lengths)} tokens in a row; at least 1")
        return lengths


class LiteRt(Elsewhere):
    """``.tflite`` files in LiteRT: their rows are the device's batch, their tokens one of several lengths."""

    suits: ClassVar[str] = "LiteRT on this machine: .tflite files with XNNPACK, as Android runs them"
    options_model: ClassVar[type[BaseModel]] = LiteRtOptions
    runtime: ClassVar[str] = LITERT.name
    title: ClassVar[str] = LITERT.title
    where: ClassVar[Runtime] = LITERT
    format: Format = "litert"
