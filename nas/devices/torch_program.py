"""A text encoder in torch itself, eager or compiled; its artefact is a safetensors file with the shape as metadata.

Knows modules; not devices' names, not threads.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save

from nas.devices.program import Feed, Port, RefusalError, refuse
from search_spaces.errors import NasError
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder

Inputs = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]


class TorchProgram:
    """A module in evaluation mode."""

    def __init__(self, model: TextEncoder, options: Mapping[str, Any]) -> None:
        """Move the model to its device, and have it compiled when it is first called."""
        config = model.config
        self._device = torch.device(options.get("device", "cpu"))
        self._model: Callable[..., torch.Tensor] = model.eval().to(self._device)
        if options.get("compile", False):
            self._model = torch.compile(self._model)
        names = ["input_ids", "attention_mask", "token_type_ids"][: 3 if config.n_token_types > 1 else 2]
        self.inputs = [Port(name, (None, None), np.dtype(np.int64)) for name in names]
        self.outputs = [Port("logits", (None, len(config.labels)), np.dtype(np.float32))]
        self.vocabulary = config.vocab_size

    def run(self, feed: Feed) -> list[np.ndarray]:
        """Return the logits.

        Raises:
            RefusalError: The model or torch refuses an input.
        """
        try:
            with torch.inference_mode():
                return [self._model(*self._inputs(feed)).float().cpu().numpy()]
        except (NasError, RuntimeError, IndexError) as error:
            raise RefusalError(str(error)) from error

    def call(self, feed: Feed) -> Callable[[], object]:
        """Return the call that is timed: inputs are there, and a GPU has finished when it returns."""
        model, inputs, is_gpu = self._model, self._inputs(feed), self._device.type == "cuda"

        def call() -> None:
            """Run the model once."""
            with torch.inference_mode():
                model(*inputs)
            if is_gpu:
                torch.cuda.synchronize()

        return call

    def _inputs(self, feed: Feed) -> Inputs:
        """Return arrays as tensors; a mask without padding is left out, as who knows that leaves it out."""
        given = {name: torch.from_numpy(values).to(self._device) for name, values in feed.items()}
        is_padded = not feed["attention_mask"].all()
        return given["input_ids"], given["attention_mask"] if is_padded else None, given.get("token_type_ids")


def to_blob(model: TextEncoder) -> bytes:
    """Return a model as one safetensors file: its weights, and its shape as JSON in the metadata."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    content: bytes = save(weights, metadata={"config": json.dumps(model.config.to_json())})
    return content


def from_blob(artefact: bytes) -> TextEncoder:
    """Return the model of a file that `to_blob` wrote.

    Raises:
        RefusalError: The file is none, or its weights and shape do not belong together.
    """
    try:
        size = int.from_bytes(artefact[:8], "little")
        metadata = json.loads(artefact[8 : 8 + size]).get("__metadata__", {})
        model = TextEncoder(EncoderConfig.from_json(json.loads(metadata["config"])))
        model.load_state_dict(load_tensors(artefact))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        refuse(f"no text encoder in safetensors ({type(error).__name__}: {error})")
    return model


def load(artefact: bytes, threads: int, options: Mapping[str, Any]) -> TorchProgram:
    """Return the model of a file that `to_blob` wrote.

    Args:
        artefact: The file.
        threads: Not used here: torch has one number for the whole process, which the caller sets.
        options: ``device`` (default cpu) and ``compile`` (default false).

    Raises:
        RefusalError: The file is none, or its weights and shape do not belong together.
    """
    return TorchProgram(from_blob(artefact), options)
