"""A text encoder in torch itself, eager or compiled.

Knows modules; not devices' names, not threads, not what is in the file.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from compressors.torch_file import from_blob
from nas.devices.program import Feed, Port, RefusalError, refuse
from search_spaces.errors import ConfigError, NasError
from search_spaces.families.encoder_model import TextEncoder

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


def load(artefact: bytes, threads: int, options: Mapping[str, Any]) -> TorchProgram:
    """Return the model of a file that `compressors.torch_file.to_blob` wrote.

    Raises:
        MissingDependencyError: Its weights are rounded, and torchao is not installed.
        RefusalError: The file is none, its weights and shape do not belong together, or it is not for the device.
    """
    try:
        model, rounding = from_blob("artefact", artefact)
    except ConfigError as error:
        raise RefusalError(str(error)) from error
    scheme = rounding.get("scheme")
    if scheme == "int4_weights" and options.get("device", "cpu") != "cpu":
        refuse(f"4-bit weights run on processors only, device.options.device is {options['device']!r}")
    if scheme == "int8_dynamic" and options.get("compile", False):
        # torch 2.13 on a processor: garbage where a Linear of x[:, :1] meets a sum, as in the last layer
        refuse("compiled int8_dynamic gives wrong answers; set device.options.compile to false or use int8_weights")
    return TorchProgram(model, options)
