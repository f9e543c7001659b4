"""Few bits for torch itself: the file of a device of backend ``torch``, its matrices for torchao's kernels.

Knows the file and which layers there are; torchao is reached through a table, for it is an optional package.
"""

from typing import ClassVar

import torch
from torch import Tensor

from compressors.base import Change, Run, Skip
from compressors.file_compressor import Exclusion, FileCompressor, Rewrite
from compressors.quantizable import quantizable, untouched
from compressors.torch_file import check_torchao, from_blob, to_blob, torchao_missing
from search_spaces.dimensions import Choice
from search_spaces.errors import ConfigError
from search_spaces.registry import Table, unknown_name
from search_spaces.space import Condition, Space

SCHEMES = ("int8_dynamic", "int8_weights", "int4_weights")
BLOCKS = (32, 64, 128)  # what the 4-bit kernel knows
WORDS = "embeddings.word"  # the one table that is large
QUANTIZE = Table("rounding", {"torchao": "compressors.torchao_layers:quantize"})


class TorchAo(FileCompressor):
    """Matrices of Linear layers become int8 or int4, in ``int8_dynamic`` what they multiply, too; words become int8.

    Source: Jacob et al. 2018, https://arxiv.org/abs/1712.05877, sec. 2.1, with zero points of 0; a scale for each
    token: Dettmers et al. 2022, https://arxiv.org/abs/2208.07339, sec. 2.2 (vector-wise); blocks: Dettmers and
    Zettlemoyer 2023, https://arxiv.org/abs/2212.09720, sec. 3.
    """

    name: ClassVar[str] = "torchao"
    suits: ClassVar[str] = "8- or 4-bit weights for the torch device, by torchao: a fourth of the file or less"
    formats: ClassVar[tuple[str, ...]] = ("torch",)
    same_cost: ClassVar[tuple[str, ...]] = ("reduced",)  # smaller integers in the same bytes

    def __init__(
        self,
        enabled: bool = True,
        scheme: str = "int8_dynamic",
        per_channel: bool = True,
        reduced: bool = False,
        block: int = 32,
        words: bool = True,
        exclude: str = "",
    ) -> None:
        """Bind the knobs.

        Args:
            enabled: False leaves the model as it is.
            scheme: ``int8_dynamic``: integer products, inputs scaled token by token as they come; ``int8_weights`` and
                ``int4_weights``: stored as integers, multiplied in float32; 4 bits on processors only, and 8 for a
                matrix that is no multiple of 16 rows and of a block.
            per_channel: A scale for each row of an 8-bit matrix; False: one for all.
            reduced: 7 bits for 8 in ``int8_dynamic``: sums of 8-bit products overflow on processors without VNNI.
            block: 4-bit weights of a row that share a scale: 32, 64 or 128.
            words: Whether the word table becomes int8, with a scale for each row.
            exclude: Patterns of layers that stay float32, separated by commas, e.g. ``head.*``.

        Raises:
            ConfigError: The scheme is unknown, or the block.
        """
        super().__init__()
        if scheme not in SCHEMES:
            raise unknown_name(f"{self.name}.scheme", scheme, list(SCHEMES))
        if block not in BLOCKS:
            raise ConfigError(f"{self.name}.block: {block} is no block size; choose one of 32, 64, 128.")
        self.enabled, self.scheme, self.block = enabled, scheme, block
        self.per_channel, self.reduced, self.words, self.exclude = per_channel, reduced, words, exclude

    @classmethod
    def space(cls) -> Space:
        """Return the knobs; all others mean something only when enabled."""
        knobs = {
            "enabled": Choice((False, True)),
            "scheme": Choice(SCHEMES),
            "per_channel": Choice((True, False)),
            "reduced": Choice((False, True)),
            "block": Choice(BLOCKS, ordered=True),
            "words": Choice((True, False)),
            "exclude": Choice(("", "head.*")),
        }
        conditions = {name: Condition("enabled", (True,)) for name in ("scheme", "words", "exclude")}
        in_8_bits = {"per_channel": Condition("scheme", SCHEMES[:2]), "reduced": Condition("scheme", SCHEMES[:1])}
        return Space(knobs, {**conditions, **in_8_bits, "block": Condition("scheme", SCHEMES[2:])})

    @classmethod
    def why_not(cls) -> str | None:
        """Return what to install where torchao is missing."""
        return torchao_missing()

    def rewrite(self, artefact: bytes, run: Run | None) -> Rewrite:
        """Return the pass over one file; ``run`` is not needed.

        Raises:
            ConfigError: The file is none of the torch runtime.
            MissingDependencyError: torchao is not installed.
        """
        check_torchao(self.name)
        return _Rewrite(self, artefact)


class _Rewrite:
    """One pass over one file."""

    def __init__(self, knobs: TorchAo, artefact: bytes) -> None:
        self.knobs = knobs
        self.changed: list[Change] = []
        self.skipped: list[Skip] = []
        self.figures: dict[str, float] = {}
        self.model, self.done = from_blob(knobs.name, artefact)

    def run(self) -> bytes:
        """Return the file with integers.

        Raises:
            ConfigError: It has integers already, an exclusion matches nothing, or no layer is left.
        """
        knobs = self.knobs
        if self.done:
            raise ConfigError(f"{knobs.name}: the file has integers already ({self.done['scheme']}); leave one out.")
        weights = self._weights()
        told = {skip.where for skip in self.skipped}
        self.skipped += [skip for skip in untouched(self.model, weights) if skip.where not in told]
        rounding = {"scheme": knobs.scheme, "reduced": knobs.reduced and knobs.scheme == "int8_dynamic"}
        rounded = QUANTIZE.load("torchao")(self.model, list(weights), rounding, knobs.block, knobs.per_channel)
        if knobs.scheme == "int4_weights":
            self.figures["in_4_bits"] = float(sum(integers.dtype == torch.uint8 for integers, _ in rounded.values()))
        for name, (integers, scale) in rounded.items():
            self.changed.append(Change(f"{name}.weight", 4 * weights[name].numel(), integers.nbytes + scale.nbytes))
        return to_blob(self.model, rounded, rounding)

    def _weights(self) -> dict[str, Tensor]:
        """Return the weights to round, by layer name, and note why others are not."""
        knobs, exclusion = self.knobs, Exclusion(self.knobs.name, self.knobs.exclude)
        found = quantizable(knobs.name, self.model)
        if knobs.words:
            found[WORDS] = self.model.embeddings.word.weight
        exclusion.check(list(found), "layers")
        whys = {name: exclusion.why_not(name) for name in found}
        self.skipped += [Skip(f"{name}.weight", why) for name, why in whys.items() if why]
        if all(whys.values()):
            first = next(iter(whys))
            raise ConfigError(
                f"{knobs.name}: 0 of {len(whys)} layers can be rounded; first: {first}, {whys[first]}. Set "
                f"{knobs.name}.enabled to false."
            )
        return {name: weight for name, weight in found.items() if not whys[name]}
