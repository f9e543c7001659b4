"""Tables of texts: local csv, tsv, jsonl and parquet files, and data sets of the Hugging Face hub.

Knows how to read rows as they are, and how reading fails; not what the columns mean.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from search_spaces.errors import DataError, MissingDependencyError
from search_spaces.registry import unknown_name

FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")
_UNREADABLE = (ValueError, OSError, EOFError, zlib.error)  # pandas and pyarrow errors are ValueErrors


@dataclass(frozen=True)
class RawTable:
    """Rows as they were stored, and the names of integer labels where the source has them."""

    rows: pd.DataFrame
    label_names: tuple[str, ...] | None = None


def is_file(source: str) -> bool:
    """Return whether a source means a local file: it exists as one, or ends like one."""
    return Path(source).is_file() or _format(Path(source)) in FORMATS


def _format(path: Path) -> str:
    """Return the ending that tells the format, without ``.gz``, in lower case."""
    return Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()


def read_table(path: Path, text_columns: Sequence[str]) -> pd.DataFrame:
    """Return the rows of a local file.

    Args:
        path: csv, tsv or jsonl (each also with .gz), or parquet; UTF-8.
        text_columns: Read as text even when they look like numbers; words such as ``NA`` and ``null`` stay words.

    Raises:
        DataError: The file is missing, of another format, or damaged.
    """
    if not path.is_file():
        raise DataError(f"data: file {str(path)!r} does not exist. Check the path.")
    if _format(path) not in FORMATS:
        raise DataError(f"data: {str(path)!r} has an unknown format; known: {', '.join(FORMATS)}, the texts also .gz.")
    try:
        return _read(path, text_columns)
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except _UNREADABLE as error:
        raise DataError(f"data: {str(path)!r} cannot be read: {_first_line(error)}. Repair or convert it.") from None


def _read(path: Path, text_columns: Sequence[str]) -> pd.DataFrame:
    """Read a file by its ending."""
    ending = _format(path)
    if ending == ".parquet":
        return pd.read_parquet(path)
    if ending == ".jsonl":
        return pd.read_json(path, lines=True, dtype=False, convert_dates=False)
    as_text = dict.fromkeys(text_columns, str)
    return pd.read_csv(path, sep="\t" if ending == ".tsv" else ",", dtype=as_text, keep_default_na=False)


def read_hub(source: str, splits: Sequence[str], label: str) -> list[RawTable]:
    """Return splits of a data set of the Hugging Face hub, or of a local folder in a layout `datasets` reads.

    Args:
        source: Hub id, ``id:configuration``, or folder.
        splits: Names of splits.
        label: Column whose names of classes are wanted.

    Raises:
        MissingDependencyError: The package `datasets` is not installed.
        DataError: No such data set, configuration or split, or no network.
    """
    found = _load_hub(source)
    for split in splits:
        if split not in found:
            raise DataError(str(unknown_name(f"data {source!r}, split", split, sorted(found))))
    return [RawTable(found[split].to_pandas(), _class_names(found[split], label)) for split in splits]


def _load_hub(source: str) -> Any:
    """Return all splits of a data set as a mapping."""
    try:
        import datasets  # an optional package
    except ImportError:
        raise MissingDependencyError(
            f"data {source!r}: is not a local file, and hub data needs the package 'datasets', which is not installed. "
            "Install it with: pip install 'prentice[data]'"
        ) from None
    name, _, configuration = source.partition(":")
    try:
        if (Path(name) / "dataset_dict.json").is_file():
            return datasets.load_from_disk(name)
        return datasets.load_dataset(name, configuration or None)
    except (ValueError, OSError, RuntimeError) as error:  # unknown id or configuration; no network; needs a script
        raise DataError(
            f"data {source!r}: cannot be loaded: {_first_line(error)}. Give a local "
            f"{', '.join(FORMATS)} file, a hub id or id:configuration, or the built-in 'docstrings'."
        ) from None


def _class_names(split: Any, label: str) -> tuple[str, ...] | None:
    """Return the names of a ClassLabel column."""
    names = getattr(split.features.get(label), "names", None)
    return tuple(names) if names else None


def _first_line(error: Exception) -> str:
    """Return an error of a library as one short line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300].rstrip(".")
