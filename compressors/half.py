"""Half-precision storage: the constants of an exported model in 16 bits, cast back to float32 when it is loaded.

ONNX Runtime's CPU computes in float32 (it has no float16 kernels for most operators and would insert the casts
itself), and folds the casts of constants away while loading: the file is half as large, a call as fast as before.
Knows ONNX; not sessions, not models in torch.
"""

from typing import ClassVar, NamedTuple

import numpy as np
import torch
from onnx import TensorProto

from compressors.base import Change, Run, Skip
from compressors.file_compressor import FileCompressor
from compressors.onnx_rewrite import GraphRewrite
from search_spaces.dimensions import Choice
from search_spaces.registry import unknown_name
from search_spaces.space import Condition, Space


class _Format(NamedTuple):
    """One type in both libraries."""

    onnx: int
    torch: torch.dtype


FORMATS = {
    "float16": _Format(TensorProto.FLOAT16, torch.float16),
    "bfloat16": _Format(TensorProto.BFLOAT16, torch.bfloat16),
}
SMALLEST = 256  # constants of fewer numbers stay: the node that casts them back would weigh as much as they save


class Half(FileCompressor):
    """Float32 constants are stored as float16 (11 bits of precision, up to 65504) or bfloat16 (8 bits, any float32).

    Source: IEEE 754-2019, sec. 3.6 (binary16); Kalamkar et al. 2019, https://arxiv.org/abs/1905.12322 (bfloat16).
    """

    name: ClassVar[str] = "half"
    suits: ClassVar[str] = "16-bit storage of float weights and scales: half the file, exact enough, not faster on CPUs"
    formats: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnx")  # it writes standard operators only
    same_cost: ClassVar[tuple[str, ...]] = ("format",)  # two bytes a number in both, cast while loading

    def __init__(self, enabled: bool = True, format: str = "float16") -> None:
        """Bind the knobs.

        Args:
            enabled: False leaves the model as it is.
            format: ``float16`` or ``bfloat16``.

        Raises:
            ConfigError: The format is unknown.
        """
        super().__init__()
        if format not in FORMATS:
            raise unknown_name(f"{self.name}.format", format, list(FORMATS))
        self.enabled, self.format = enabled, format

    @classmethod
    def space(cls) -> Space:
        """Return the knobs; ``format`` means something only when enabled."""
        return Space(
            {"enabled": Choice((False, True)), "format": Choice(tuple(FORMATS))},
            {"format": Condition("enabled", (True,))},
        )

    def rewrite(self, artefact: bytes, run: Run | None) -> GraphRewrite:
        """Return the pass over one file; ``run`` is not needed."""
        return _Rewrite(self.name, artefact, self.format)


class _Rewrite(GraphRewrite):
    """Casts give the constants under their old names, so no other node changes."""

    def __init__(self, method: str, artefact: bytes, format: str) -> None:
        super().__init__(method, artefact)
        self.format = format

    def replace(self) -> None:
        """Store the larger float32 constants in 16 bits; their casts come before all other nodes."""
        for name, tensor in self.constants.items():
            if tensor.data_type != TensorProto.FLOAT:
                continue
            numbers = self.matrix(name)
            why_not = self._why_not(numbers)
            if why_not is None:
                self._store(name, numbers)
            else:
                self.skipped.append(Skip(name, why_not))
        self.nodes += list(self.graph.node)
        self.skipped.append(Skip("latency", "constants are cast to float32 while loading: smaller, not faster"))

    def nothing_changed(self) -> str:
        """Return what is wrong with a graph without large constants."""
        return (
            f"half: 0 of {len(self.constants)} constants can be stored in 16 bits; float32 ones of at least {SMALLEST} "
            "numbers can. Set half.enabled to false."
        )

    def _why_not(self, numbers: np.ndarray) -> str | None:
        """Return None if a constant can be stored in 16 bits, else the reason."""
        if numbers.size < SMALLEST:
            return f"its {numbers.size} numbers would save less than their cast weighs"
        peak, largest = float(np.abs(numbers).max()), torch.finfo(FORMATS[self.format].torch).max
        return f"its largest number, {peak:g}, is beyond {self.format}" if not peak <= largest else None

    def _store(self, name: str, numbers: np.ndarray) -> None:
        """Store a constant in 16 bits, with a cast to float32."""
        rounded = torch.tensor(numbers).to(FORMATS[self.format].torch)
        stored = self.added[f"{name}_{self.format}"] = TensorProto(
            name=f"{name}_{self.format}", data_type=FORMATS[self.format].onnx, dims=numbers.shape
        )
        stored.raw_data = rounded.view(torch.int16).numpy().astype("<i2").tobytes()
        self.add("Cast", [stored.name], [name], to=TensorProto.FLOAT)
        self.changed.append(Change(name, 4 * numbers.size, 2 * numbers.size))
