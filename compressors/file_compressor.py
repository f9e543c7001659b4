"""What every method that rewrites an exported file shares: it may be switched off, and its report weighs both files.

Knows bytes; not what is in them.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import ClassVar, Literal, Protocol

from compressors.base import Change, Phase, Report, Run, Skip
from search_spaces.errors import ConfigError


class Rewrite(Protocol):
    """One pass over one file.

    Attributes:
        changed: What it replaced.
        skipped: What it left alone, and why.
        figures: What else the report says.
    """

    changed: list[Change]
    skipped: list[Skip]
    figures: dict[str, float]

    def run(self) -> bytes:
        """Return the file after the pass.

        Raises:
            ConfigError: Nothing in the file can be compressed so.
        """
        ...


class FileCompressor:
    """A compressor that rewrites the file in one pass, unless it is not enabled."""

    name: ClassVar[str]
    stage: ClassVar[Literal["artefact"]] = "artefact"
    phase: ClassVar[Phase] = "bits"
    formats: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    same_cost: ClassVar[tuple[str, ...]] = ()
    enabled: bool

    def __init__(self) -> None:
        """Begin without a report."""
        self._report = Report(self.name)

    def rewrite(self, artefact: bytes, run: Run | None) -> Rewrite:
        """Return the pass over one file."""
        raise NotImplementedError

    def apply(self, artefact: bytes, run: Run | None = None) -> bytes:
        """Return the compressed model; the argument is not changed.

        Args:
            artefact: A file of one of the `formats`.
            run: For a method that has to see activations.

        Raises:
            ConfigError: The model holds nothing that can be compressed so, or ``run`` is missing where it is needed.
        """
        if not self.enabled:
            skipped = (Skip("model", f"{self.name} is not enabled"),)
            self._report = Report(self.name, skipped=skipped, figures=_sizes(artefact, artefact))
            return artefact
        rewrite = self.rewrite(artefact, run)
        result = rewrite.run()
        figures = {**_sizes(artefact, result), **rewrite.figures}
        self._report = Report(self.name, tuple(rewrite.changed), tuple(rewrite.skipped), figures)
        return result

    def report(self) -> Report:
        """Return every replaced and skipped part of the latest `apply`; figures are bytes of the whole file."""
        return self._report


class Exclusion:
    """Patterns of names that a pass leaves alone."""

    def __init__(self, where: str, text: str) -> None:
        """Read the patterns, separated by commas; ``where`` is the compressor, for errors."""
        self._where = f"{where}.exclude"
        self._patterns = [pattern.strip() for pattern in text.split(",") if pattern.strip()]

    def why_not(self, name: str) -> str | None:
        """Return None for a name that no pattern matches, else the reason to leave it alone."""
        pattern = next((pattern for pattern in self._patterns if fnmatchcase(name, pattern)), None)
        return None if pattern is None else f"excluded by {pattern!r}"

    def check(self, names: Sequence[str], kind: str) -> None:
        """Refuse patterns that match none of the names there are, of which ``kind`` says what has them.

        Raises:
            ConfigError: It lists some of the names.
        """
        for pattern in self._patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ConfigError(
                    f"{self._where}: {pattern!r} matches none of {len(names)} {kind}; there are "
                    f"{', '.join(names[:3])} and so on. Use their names or patterns of them."
                )


def _sizes(before: bytes, after: bytes) -> dict[str, float]:
    """Return the bytes of both files."""
    return {"bytes_before": float(len(before)), "bytes_after": float(len(after))}
