"""From a recipe's data section to checked splits: built-in data sets, local files, hub data sets.

Knows columns and labels; `tables` knows formats, `splits` what every data set must fulfil.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from nas.data.splits import Split, TextData, at_most, check_split, hold_out, without_texts
from nas.data.tables import RawTable, is_file, read_hub, read_table
from nas.recipe import DataSettings
from search_spaces.errors import DataError
from search_spaces.registry import Table, unknown_name

__all__ = ["DATASETS", "Split", "TextData", "load_data"]

DATASETS = Table("built-in data set", {"docstrings": "nas.data.docstrings:load_docstrings"})
_WORDS = {"train": "training", "validation": "validation"}


def load_data(
    settings: DataSettings,
    seed: int,
    n_labels_of_teacher: int | None = None,
    label_names: Sequence[str] | None = None,
) -> TextData:
    """Return the splits of a data section.

    Where no validation data is named, a stratified share of train is held out. A training row whose text is also
    a validation or test row is removed, and a note says how many were.

    Args:
        settings: The recipe's data section.
        seed: Equal seeds give equal splits.
        n_labels_of_teacher: Bound of integer labels; None takes the largest label of train.
        label_names: Names in the teacher's order; None takes the source's own, sorted where they are words.

    Raises:
        DataError: The data cannot be used: see `nas.data.splits.check_split`; or a missing column, text or label.
        MissingDependencyError: Hub data without the package `datasets`.
    """
    if settings.source in DATASETS:
        return _limited(_built_in(settings), settings, seed)
    tables = _read_tables(settings)
    known = list(label_names or tables["train"].label_names or [])
    labels = known or _names_of(_column(tables["train"].rows, settings.label, "train"), n_labels_of_teacher)
    splits = {name: _split(table.rows, name, settings, labels) for name, table in tables.items()}
    for name, split in splits.items():
        check_split(split, name, labels, several=name != "test")
    return _limited(_disjoint(splits, settings, seed, tuple(labels)), settings, seed)


def _built_in(settings: DataSettings) -> TextData:
    """Return a built-in data set, which brings its own splits."""
    for key, value in (("validation", settings.validation), ("test", settings.test)):
        if value is not None:
            raise DataError(f"data.{key}: {value!r} does not go with built-in {settings.source!r}; remove the key.")
    data: TextData = DATASETS.load(settings.source)()
    return data


def _read_tables(settings: DataSettings) -> dict[str, RawTable]:
    """Return the raw rows of train, and of validation and test where they are named."""
    named = {"validation": settings.validation, "test": settings.test}
    wanted = {name: value for name, value in named.items() if value is not None}
    if is_file(settings.source):
        paths = {"train": settings.source, **wanted}
        return {name: RawTable(read_table(Path(path), settings.text)) for name, path in paths.items()}
    splits = {"train": "train", **wanted}
    return dict(zip(splits, read_hub(settings.source, list(splits.values()), settings.label), strict=True))


def _column(rows: pd.DataFrame, name: str, split: str) -> pd.Series:
    """Return one column without missing values."""
    if not len(rows):
        raise DataError(f"data.{split}: has no rows; at least one is needed. Check the file or the name of the split.")
    if name not in rows.columns:
        raise DataError(f"{unknown_name(f'data.{split}, column', name, [str(column) for column in rows.columns])}")
    column = rows[name]
    missing = np.flatnonzero(column.isna() | (column.astype(str) == "" if column.dtype.kind not in "iufb" else False))
    if len(missing):
        raise DataError(f"data.{split}: row {missing[0]} has nothing in column {name!r}; fill it or remove the row.")
    return column


def _split(rows: pd.DataFrame, name: str, settings: DataSettings, labels: Sequence[str]) -> Split:
    """Return the text columns as strings and the label column as positions in ``labels``."""
    columns = [[str(value) for value in _column(rows, text, name)] for text in settings.text]
    return Split(tuple(zip(*columns, strict=True)), _positions(_column(rows, settings.label, name), name, labels))


def _as_integers(column: pd.Series) -> np.ndarray | None:
    """Return whole numbers (also those written as text or 1.0) as int64, None when the labels are words."""
    if column.dtype.kind in "iub":
        return column.to_numpy(dtype=np.int64)
    try:
        numbers = pd.to_numeric(column).to_numpy(dtype=np.float64)
    except (ValueError, TypeError):
        return None
    if not (np.isfinite(numbers) & (numbers == np.floor(numbers))).all():
        odd = float(column.iloc[int(np.flatnonzero(~np.isfinite(numbers) | (numbers != np.floor(numbers)))[0])])
        raise DataError(f"data.label: {odd!r} is not a class; allowed are integers from 0, or names of classes.")
    return numbers.astype(np.int64)


def _names_of(column: pd.Series, n_labels: int | None) -> list[str]:
    """Return the names of the labels of a training column: the words in order, or the numbers from 0."""
    numbers = _as_integers(column)
    if numbers is None:
        return sorted({str(value) for value in column})
    present = np.unique(numbers)
    if n_labels is None and not np.array_equal(present, np.arange(len(present))):
        shown = ", ".join(map(str, present[:8])) + (", ..." if len(present) > 8 else "")
        raise DataError(f"data.train: labels are {shown}; allowed are 0 to n-1 without a gap. Renumber them.")
    return [str(number) for number in range(n_labels or len(present))]


def _positions(column: pd.Series, split: str, labels: Sequence[str]) -> np.ndarray:
    """Return ``(n,)`` int64 positions of a label column in the known names; numbers are positions already."""
    position = {name: index for index, name in enumerate(labels)}
    words = [str(value) for value in column]
    if all(word in position for word in words):
        return np.array([position[word] for word in words], dtype=np.int64)
    numbers = _as_integers(column)
    if numbers is not None:
        return numbers
    row = next(index for index, word in enumerate(words) if word not in position)
    raise DataError(str(unknown_name(f"data.{split}: label in row {row}", words[row], list(labels))))


def _disjoint(splits: dict[str, Split], settings: DataSettings, seed: int, labels: tuple[str, ...]) -> TextData:
    """Return the splits with no text in two of them; validation is held out of train where it is not given."""
    test = splits.get("test")
    tested = [test] if test is not None else []
    kept, notes = {}, []
    if "validation" in splits:
        kept["validation"] = without_texts(splits["validation"], tested)
    kept["train"] = without_texts(splits["train"], [*kept.values(), *tested])
    for name, others in (("train", "validation or test"), ("validation", "test")):
        if name in kept and len(kept[name]) < len(splits[name]):
            n_removed = len(splits[name]) - len(kept[name])
            notes.append(f"{n_removed:,} {_WORDS[name]} rows left out: the same text is a {others} row")
            check_split(kept[name], name, labels)
    if "validation" not in kept:
        kept["train"], kept["validation"] = hold_out(kept["train"], settings.validation_share, seed)
    return TextData(kept["train"], kept["validation"], test, labels, tuple(notes))


def _limited(data: TextData, settings: DataSettings, seed: int) -> TextData:
    """Return the data with as many training rows as the settings allow."""
    train = at_most(data.train, settings.max_train, seed)
    check_split(train, "train", data.labels)
    return TextData(train, data.validation, data.test, data.labels, data.notes)
