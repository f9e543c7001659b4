"""Files that are whole or absent: atomic writes, checksums, manifests, and names that stay inside their folder.

Knows bytes, arrays and JSON; not what is in the files.
"""

import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike

from search_spaces.errors import ConfigError, StateError

MANIFEST = "nas_manifest.json"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?")  # device files on Windows, whatever the extension


def atomic_write(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file so that a crash at any moment leaves the old file or the new one, never a part.

    Args:
        path: Where; missing parent folders are made.
        content: The bytes, or a function that writes them to the open file it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.tmp.{uuid.uuid4().hex}")
    try:
        with partial.open("xb") as file:
            file.write(content) if isinstance(content, bytes) else content(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


@contextmanager
def atomic_array(path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> Iterator[np.ndarray]:
    """Yield an array of undefined content that becomes the ``.npy`` file when the block ends without an error.

    It lies in a mapped file, so it may be larger than memory.

    Args:
        path: Where; missing parent folders are made.
        shape: Of the array.
        dtype: Of the array.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.tmp.{uuid.uuid4().hex}")
    try:
        array = np.lib.format.open_memmap(partial, mode="w+", dtype=np.dtype(dtype), shape=shape)
        yield array
        array.flush()  # msync: the content is on the disk before the name is
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename inside the folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's content as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON for people and machines, atomically; NaN and infinity are refused with a ValueError."""
    atomic_write(path, (json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        StateError: The file is missing or not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise StateError(f"{path}: does not exist; it is written by the search. Check the folder's name.") from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise StateError(f"{path}: is damaged, not JSON ({error}). Delete it to have it made again.") from None


def run_path(root: Path, name: str) -> Path:
    """Return the path of ``name`` directly under ``root``, and nowhere else.

    Raises:
        ConfigError: The name is not a slug, is a device name, or a link leads out of ``root``.
    """
    if not _NAME.fullmatch(name) or _RESERVED.fullmatch(name) or name.endswith("."):
        raise ConfigError(
            f"name {_shown(name)}: cannot name a file; allowed are 1 to 64 of a-z, 0-9, '.', '_' and '-', "
            "a letter or digit first. Choose another name."
        )
    path = root.resolve() / name
    if path.resolve() != path:
        raise ConfigError(f"name {name!r}: a link leads out of {root} to {path.resolve()}. Remove the link.")
    return path


def _shown(name: str) -> str:
    """Return a name as printable text of bounded length."""
    return ascii(name) if len(name) <= 80 else f"{name[:60]!a}... ({len(name)} characters)"


def write_manifest(folder: Path, facts: Mapping[str, Any] | None = None) -> None:
    """Write sha256 and size of every file of a folder; written last, the manifest marks the folder as complete.

    Args:
        folder: Holds the files.
        facts: What the manifest says besides; JSON values.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    files = {
        path.relative_to(folder).as_posix(): {"sha256": sha256_of(path), "bytes": path.stat().st_size} for path in paths
    }
    write_json(folder / MANIFEST, {"format": 1, **(facts or {}), "files": files})


def check_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a folder, after comparing every file with its sha256.

    Raises:
        StateError: There is no manifest, or a file is missing or differs from it.
    """
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise StateError(f"{folder / MANIFEST}: is damaged, it has no 'files'. Delete {folder} to make it again.")
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
            raise StateError(f"{path}: is missing, but the manifest lists it. Delete {folder} to make it again.")
        if sha256_of(path) != entry["sha256"]:
            raise StateError(f"{path}: is damaged, its sha256 is not the manifest's. Delete {folder} to make it again.")
    return manifest
