"""An ExecuTorch file in its runtime.

Knows methods. Runs in the Python that has ExecuTorch, in a process where nothing else uses it: its threads belong to
the process, and are there before the first file is loaded.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from executorch.extension.pybindings import portable_lib
from executorch.runtime import Program, Runtime

from nas.devices.padding import padded
from nas.devices.program import Feed, Port, RefusalError, refuse

NAMES = ("input_ids", "attention_mask", "token_type_ids")
TYPES = {
    0: "uint8",
    1: "int8",
    2: "int16",
    3: "int32",
    4: "int64",
    5: "float16",
    6: "float32",
    7: "float64",
    11: "bool",
}
"""Numpy's names of ExecuTorch's numbers, see ``runtime/core/portable_type/scalar_type.h``."""


class ExecuTorchProgram:
    """The method ``forward`` of a file; one of ours takes any number of tokens, and its rows are filled up."""

    def __init__(self, program: Program, vocabulary: int | None) -> None:
        """Read what goes in and out; a file has no names, and says of an axis only how long it may be."""
        self._program = program  # it holds the weights, which the method does not
        self._method, self.vocabulary = program.load_method("forward"), vocabulary
        told = self._method.metadata
        shapes = [(told.input_tensor_meta(i), i) for i in range(told.num_inputs())]
        names = NAMES if vocabulary else [f"input_{i}" for _, i in shapes]
        self.inputs = [_port(names[i], tensor) for tensor, i in shapes]
        self.outputs = [_port(f"output_{i}", told.output_tensor_meta(i)) for i in range(told.num_outputs())]
        self._rows = self.inputs[0].shape[0] if vocabulary else None
        if vocabulary:
            self.inputs = [Port(port.name, (self._rows, None), port.dtype) for port in self.inputs]
            self.outputs = [Port("logits", self.outputs[0].shape, self.outputs[0].dtype)]

    def run(self, feed: Feed) -> list[np.ndarray]:
        """Return the outputs of one call.

        Raises:
            RefusalError: ExecuTorch refuses an input.
        """
        n = len(next(iter(feed.values())))
        try:
            said = self._method.execute(self._tensors(feed))
        except (RuntimeError, TypeError, ValueError) as error:
            raise RefusalError(str(error)) from error
        return [tensor.numpy()[: n if self._rows else None] for tensor in said]

    def call(self, feed: Feed) -> Callable[[], object]:
        """Return the call that is timed."""
        method, tensors = self._method, self._tensors(feed)
        return lambda: method.execute(tensors)

    def _tensors(self, feed: Feed) -> list[torch.Tensor]:
        """Return inputs in order."""
        if missing := [port.name for port in self.inputs if port.name not in feed]:
            refuse(f"input {missing[0]!r} is missing")
        filled = padded(feed, self._rows) if self._rows else feed
        return [torch.from_numpy(np.ascontiguousarray(filled[port.name])) for port in self.inputs]


def load(artefact: bytes, threads: int, options: Mapping[str, Any]) -> ExecuTorchProgram:
    """Return an ExecuTorch file with its method loaded.

    Args:
        artefact: The file.
        threads: Of this process, the first time; the same number every time.
        options: Not used here.

    Raises:
        RefusalError: The file is none, or needs what this ExecuTorch does not have.
    """
    if portable_lib._threadpool_get_thread_count() != threads:
        portable_lib._unsafe_reset_threadpool(threads)  # what is loaded already would use threads that are gone
    try:
        program = Runtime.get().load_program(artefact)
        names = program.method_names
        if "forward" not in names:
            refuse(f"it has no method 'forward' but {', '.join(sorted(names))}")
        words = program.load_method("get_vocab_size").execute([]) if "get_vocab_size" in names else [None]
        return ExecuTorchProgram(program, words[0])
    except RuntimeError as error:
        raise RefusalError(str(error)) from error


def _port(name: str, told: Any) -> Port:
    """Return an input or output as ExecuTorch describes it."""
    return Port(name, tuple(told.sizes()), np.dtype(TYPES.get(told.dtype(), "object")))
