"""What the contracts of compressors act on: a tiny text encoder, a tiny CNN and their files, with knobs to try."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from compressors import COMPRESSORS
from compressors.base import Compressor, Material
from compressors.distillation import Distillation
from nas.bundle import Outputs
from nas.data.splits import Split
from nas.data.tokenize import tokenize
from nas.data.tokens import Tokens
from nas.distill import distill
from nas.recipe import TrainSettings
from nas.stages import Corpus, State, apply_model_step, calibration_rows, runner
from search_spaces.errors import ConfigError
from search_spaces.families.encoder_hf import from_hf
from search_spaces.families.encoder_model import TextEncoder
from search_spaces.seeding import rng_for
from tests.compressors.artefacts import DEVICE, TORCH
from tests.compressors.tiny_cnn import cnn, pictures
from tests.conftest import WORDS, tiny_tokenizer

N_ROWS = 64
N_DRAWS = 200


class Subject(Protocol):
    """A model with rows for it."""

    @property
    def model(self) -> nn.Module: ...

    def apply(self, compressor: Any) -> Self:
        """Return what a compressor of the stage ``model`` makes of it."""

    def copied(self) -> Self:
        """Return the same with a model of its own."""

    def answers(self) -> Tensor:
        """Return the model's logits of its rows."""


@dataclass(frozen=True)
class Text:
    """A text encoder as a recipe's steps pass it on, spelling included."""

    state: State
    corpus: Corpus

    @classmethod
    def of(cls, folder: Path) -> "Text":
        model, _ = from_hf(str(folder))
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)  # every weight matters
        rng = rng_for(0, "texts")
        picks = [rng.integers(0, 40, rng.integers(3, 12)) for _ in range(N_ROWS)]  # most words are never read
        split = Split(tuple((" ".join(WORDS[i] for i in row),) for row in picks), np.arange(N_ROWS) % 2)
        tokens = tokenize(tiny_tokenizer(), split, 32)
        return cls(State(model), Corpus(tokens, tiny_tokenizer(), 32))

    @property
    def model(self) -> TextEncoder:
        return self.state.model

    @property
    def tokens(self) -> Tokens:
        return self.state.tokens(self.corpus.train)

    def apply(self, compressor: Any) -> "Text":
        return Text(apply_model_step(self.state, compressor, self.corpus, seed=0), self.corpus)

    def copied(self) -> "Text":
        return Text(replace(self.state, model=copy.deepcopy(self.model)), self.corpus)

    def answers(self) -> Tensor:
        with torch.no_grad():
            return self.model(*self.tokens.collate(np.arange(N_ROWS)))


@dataclass(frozen=True)
class Pictures:
    """A convolutional network."""

    model: nn.Module

    def apply(self, compressor: Any) -> "Pictures":
        return Pictures(compressor.apply(self.model, pictures()))

    def copied(self) -> "Pictures":
        return Pictures(copy.deepcopy(self.model))

    def answers(self) -> Tensor:
        with torch.no_grad():
            return torch.cat([self.model(*inputs) for inputs, _ in pictures().batches])


@dataclass(frozen=True)
class File:
    """An exported model, and what runs it."""

    content: bytes
    predict: Callable[[bytes], np.ndarray]
    run: Callable[[bytes], Iterator[Mapping[str, np.ndarray]]]

    def apply(self, compressor: Any) -> "File":
        return replace(self, content=compressor.apply(self.content, self.run))

    def copied(self) -> "File":
        return self

    def answers(self) -> Tensor:
        return torch.from_numpy(self.predict(self.content))


@dataclass(frozen=True)
class Trial:
    """What one point of a row's space did to a subject; ``after`` is None where it was refused."""

    knobs: Mapping[str, Any]
    before: Any
    config: Any  # of the model before, the object itself
    compressor: Compressor
    after: Any
    error: str = ""

    @property
    def has_acted(self) -> bool:
        return self.after is not None and bool(self.compressor.report().changed)


class Bench:
    """Everything that the contracts look at; each trial is made once."""

    def __init__(self, folder: Path) -> None:
        text = Text.of(folder)
        rows = runner(DEVICE, calibration_rows(text.tokens, 0))
        predict, in_torch = (partial(device.predict, tokens=text.tokens, batch=8) for device in (DEVICE, TORCH))
        pictures_file = File(convolution(), _answers, lambda file: iter([_outputs(file)]))
        self._subjects: dict[tuple[str, str], Any] = {
            ("model", "encoder"): text,
            ("model", "cnn"): Pictures(cnn()),
            ("training", "encoder"): text,
            ("artefact", "encoder"): File(DEVICE.export(text.model), predict, rows),
            ("artefact", "cnn"): pictures_file,
            ("torch", "encoder"): File(TORCH.export(text.model), in_torch, rows),
            ("torch", "cnn"): pictures_file,  # which it refuses: the torch runtime's file holds a text encoder
        }
        self.trials = cache(self._trials)

    def subject(self, name: str, kind: str) -> Any:
        """Return what a row is tried on, with a model of its own."""
        cls = COMPRESSORS.load(name)
        return self._subjects["torch" if getattr(cls, "formats", ()) == ("torch",) else cls.stage, kind].copied()

    def acting(self, name: str, kind: str) -> list[Trial]:
        """Return the trials that changed something."""
        return [trial for trial in self.trials(name, kind) if trial.has_acted]

    def _trials(self, name: str, kind: str) -> list[Trial]:
        return [self.attempt(name, knobs, self.subject(name, kind)) for knobs in points(name)]

    def attempt(self, name: str, knobs: Mapping[str, Any], before: Any) -> Trial:
        """Return what one point does to a subject; skips where a package is missing."""
        if (why := getattr(COMPRESSORS.load(name), "why_not", lambda: None)()) is not None:
            pytest.skip(why)
        compressor = COMPRESSORS.load(name)(**knobs)
        config = before.model.config if isinstance(before, Text) else None
        try:
            after = train(before, compressor) if compressor.stage == "training" else before.apply(compressor)
        except ConfigError as error:
            return Trial(knobs, before, config, compressor, None, str(error))
        return Trial(knobs, before, config, compressor, after)


def points(name: str) -> list[dict[str, Any]]:
    """Return points of a row's space, always the same, that have every value of every knob."""
    cls, rng = COMPRESSORS.load(name), rng_for(0, "contracts", name)
    seen: set[tuple[str, Any]] = set()
    found = []
    for _ in range(N_DRAWS):
        knobs = dict(cls.space().sample(rng))
        if not seen.issuperset(knobs.items()):
            found.append(knobs)
            seen.update(knobs.items())
    return found


def train(before: Text, *compressors: Any, seed: int = 0) -> Text:
    """Return what a short training run with some compressors of the stages ``loss`` and ``training`` leaves."""
    student = copy.deepcopy(before.model)
    losses = [compressor for compressor in compressors if compressor.stage == "loss"]
    others = [compressor for compressor in compressors if compressor.stage == "training"]
    for compressor in others:
        if hasattr(compressor, "aim"):
            depth = before.model.config.depth
            compressor.aim(replace(before.model.config, heads=(2,) * depth, ffn=(32,) * depth))
    rng = rng_for(0, "teacher")
    states = rng.normal(size=(N_ROWS, before.model.config.depth, before.model.config.hidden))
    teacher = Outputs(rng.normal(size=(N_ROWS, 2)).astype(np.float16), states.astype(np.float16))
    settings = TrainSettings(epochs=2, lr=3e-3, batch_size=16, precision="fp32")
    loss = losses[0] if losses else Distillation()
    distill(student, before.tokens, teacher, settings, seed=seed, loss=loss, compressors=others, live=before.model)
    return replace(before, state=replace(before.state, model=student))


def bare() -> Material:
    """Return rows for a model that hands its input on."""
    return Material([((torch.randn(4, 3, generator=torch.Generator().manual_seed(0)),), torch.arange(4) % 3)])


def convolution() -> bytes:
    """Return the file of a convolution and a Gemm."""
    rng = rng_for(0, "convolution")
    shapes = {"kernel": (16, 3, 3, 3), "matrix": (16 * 64, 3)}
    constants = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["maps"], "conv", pads=[1] * 4),
        helper.make_node("Flatten", ["maps"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "matrix"], ["logits"], "gemm"),
    ]
    return _file(nodes, constants, ["n", 3, 8, 8])


def relu() -> bytes:
    """Return a file without any constant."""
    return _file([helper.make_node("Relu", ["x"], ["logits"], "relu")], [], ["n", 3])


def _file(nodes: list[Any], constants: list[Any], shape: list[Any]) -> bytes:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph(nodes, "tiny", [x], [logits], constants)
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def _outputs(file: bytes) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"x": pictures().batches[0][0][0].numpy()}), strict=True))


def _answers(file: bytes) -> np.ndarray:
    return _outputs(file)["logits"]
