"""Small methods for the tests of composition, which must work with any row of the table."""

import copy
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import nn

from compressors import COMPRESSORS
from compressors.base import Change, Material, Report
from search_spaces.dimensions import Choice
from search_spaces.errors import ConfigError
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder
from search_spaces.space import Space


class Method:
    """A method of the stage ``model`` that reports how many parameters there were and are."""

    suits: ClassVar[str] = "for tests"
    stage: ClassVar[str] = "model"
    calls: ClassVar[list[str]] = []

    def __init__(self) -> None:
        self._changed: tuple[Change, ...] = ()

    @classmethod
    def space(cls) -> Space:
        return Space({})

    def apply(self, model: nn.Module, material: Material) -> nn.Module:
        self.calls.append(self.name)
        made = self.make(copy.deepcopy(model)).eval()
        before, after = (sum(p.numel() for p in each.parameters()) for each in (model, made))
        self._changed = (Change("model", before, after),)
        return made

    def report(self) -> Report:
        return Report(self.name, self._changed)


class Shallow(Method):
    """Drops the last layers."""

    name: ClassVar[str] = "shallow"
    phase: ClassVar[str] = "structure"

    def __init__(self, layers: int = 1) -> None:
        super().__init__()
        if layers < 0:
            raise ConfigError(f"shallow.layers: {layers} is out of range; 0 or more.")
        self.layers = layers

    @classmethod
    def space(cls) -> Space:
        return Space({"layers": Choice((0, 1), ordered=True)})

    def shape(self, config: EncoderConfig) -> EncoderConfig:
        left = config.depth - self.layers
        return replace(config, heads=config.heads[:left], ffn=config.ffn[:left])

    def make(self, model: TextEncoder) -> TextEncoder:
        model.config = self.shape(model.config)
        model.layers = model.layers[: model.config.depth]
        return model


class Rounding(Method):
    """Rounds every weight to a multiple of 1/64."""

    name: ClassVar[str] = "rounding"
    phase: ClassVar[str] = "bits"

    def make(self, model: TextEncoder) -> TextEncoder:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_((parameter * 64).round() / 64)
        return model


class Hooked(Method):
    """Computes what its weights do not say."""

    name: ClassVar[str] = "hooked"
    phase: ClassVar[str] = "structure"

    def make(self, model: TextEncoder) -> TextEncoder:
        model.head.register_forward_hook(lambda module, given, out: out + 1)
        return model


class Failing(Method):
    """Finds nothing to compress."""

    name: ClassVar[str] = "failing"
    phase: ClassVar[str] = "bits"

    def make(self, model: TextEncoder) -> TextEncoder:
        raise ConfigError("failing: 0 of 3 layers can be compressed; none ever can. Leave it out.")


@pytest.fixture
def methods(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Add the methods to the table; return the names of those applied since."""
    for cls in (Shallow, Rounding, Hooked, Failing):
        monkeypatch.setitem(COMPRESSORS._rows, cls.name, f"tests.compressors.methods:{cls.__name__}")
    monkeypatch.setattr(Method, "calls", [])
    return Method.calls
