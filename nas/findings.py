"""What a comparison has found so far, in files: one JSON and one model a method and seed, one JSON a measurement.

A file that was made under other conditions, which its key says, counts as not there. Knows names and files; not how
anything is found.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas.files import atomic_write, read_json, run_path, write_json


class Findings:
    """The files of one comparison."""

    def __init__(self, folder: Path) -> None:
        """Name the folder, which is made when something is kept."""
        self.folder = folder

    def result(self, name: str, seed: int, key: str) -> dict[str, Any] | None:
        """Return what is kept of a method and seed under a key; None when it is not finished."""
        return _read(self._path(name, f"seed-{seed}"), key)

    def keep(self, name: str, seed: int, key: str, artefact: bytes, told: Mapping[str, Any]) -> None:
        """Keep a result; the JSON comes last and marks it as finished."""
        atomic_write(self.artefact(name, seed), artefact)
        write_json(self._path(name, f"seed-{seed}"), {"key": key, **told})

    def artefact(self, name: str, seed: int) -> Path:
        """Return where the model of a method and seed is kept."""
        return self._path(name, f"seed-{seed}").with_suffix(".onnx")

    def measurement(self, name: str, key: str) -> dict[str, float] | None:
        """Return the measurement of a method that is kept under a key; None when there is none."""
        told = _read(self._path(name, "measured"), key)
        return None if told is None else told["figures"]

    def keep_measurement(self, name: str, key: str, figures: Mapping[str, float]) -> None:
        """Keep a measurement."""
        write_json(self._path(name, "measured"), {"key": key, "figures": dict(figures)})

    def _path(self, name: str, what: str) -> Path:
        """Return a path whose name any file system takes."""
        return run_path(self.folder, f"{name.replace(':', '-')}.{what}.json")


def _read(path: Path, key: str) -> dict[str, Any] | None:
    """Return the content of a file if it has this key."""
    told = read_json(path) if path.exists() else {}
    return dict(told) if told.get("key") == key else None
