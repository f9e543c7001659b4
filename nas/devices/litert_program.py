"""A LiteRT file in its interpreter, which hands all that it can to XNNPACK.

Knows signatures. Runs in the Python that has LiteRT.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from nas.devices.padding import padded
from nas.devices.program import Feed, Port, RefusalError, refuse

OURS = re.compile(r"tokens_(\d+)")


class LiteRtProgram:
    """The signatures of a file: of ours, the shortest that a row fits into; of another, its only one."""

    def __init__(self, interpreter: Any) -> None:
        """Read what goes in and out."""
        names = list(interpreter.get_signature_list())
        if not names:
            refuse("it has no signature")
        lengths = {int(found[1]): name for name in names if (found := OURS.fullmatch(name))}
        if not lengths and len(names) > 1:
            refuse(f"it has {len(names)} signatures, {', '.join(names)}; one is expected")
        self._lengths = {length: interpreter.get_signature_runner(lengths[length]) for length in sorted(lengths)}
        self._only = interpreter.get_signature_runner(names[0])
        self.inputs = [_port(*told) for told in self._only.get_input_details().items()]
        self.outputs = [_port(*told) for told in self._only.get_output_details().items()]
        self.vocabulary = None
        if self._lengths:
            self._rows = int(self.inputs[0].shape[0] or 0)
            self.inputs = [Port(port.name, (self._rows, None), port.dtype) for port in self.inputs]
            self.outputs = [Port("logits", self.outputs[0].shape, self.outputs[0].dtype)]

    def run(self, feed: Feed) -> list[np.ndarray]:
        """Return the outputs of one call.

        Raises:
            RefusalError: LiteRT refuses an input, or no signature is long enough.
        """
        n = len(next(iter(feed.values())))
        runner, given = self._fitting(feed)
        try:
            said = runner(**given)
        except (RuntimeError, ValueError) as error:
            raise RefusalError(str(error)) from error
        return [array[: n if self._lengths else None] for array in said.values()]

    def call(self, feed: Feed) -> Callable[[], object]:
        """Return the call that is timed."""
        runner, given = self._fitting(feed)
        return lambda: runner(**given)

    def _fitting(self, feed: Feed) -> tuple[Any, Feed]:
        """Return the signature for inputs, and the inputs brought to its shape."""
        if not self._lengths:
            return self._only, feed
        tokens, longest = next(iter(feed.values())).shape[1], max(self._lengths)
        if tokens > longest:
            refuse(f"{tokens} tokens are more than the {longest} of the longest signature; see option lengths")
        length = min(length for length in self._lengths if length >= tokens)
        return self._lengths[length], padded(feed, self._rows, length)


def load(artefact: bytes, threads: int, options: Mapping[str, Any]) -> LiteRtProgram:
    """Return a LiteRT file in an interpreter.

    Args:
        artefact: The file.
        threads: Of one call.
        options: Not used here.

    Raises:
        RefusalError: The file is none, or holds what LiteRT does not know.
    """
    try:
        interpreter = Interpreter(model_content=artefact, num_threads=threads)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise RefusalError(str(error)) from error
    return LiteRtProgram(interpreter)


def _port(name: str, told: Mapping[str, Any]) -> Port:
    """Return an input or output as LiteRT describes it; -1 is a free axis."""
    shape = tuple(None if size < 0 else int(size) for size in told["shape_signature"])
    return Port(name, shape, np.dtype(told["dtype"]))
