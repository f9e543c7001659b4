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
        n_labels_of_teacher: How many labels the data must have; None takes what train has.
        label_names: Names in the teacher's order, integers are positions in it; None takes the source's own, sorted
            where they are words.

    Raises:
        DataError: The data cannot be used: see `nas.data.splits.check_split`; or a missing column, text or label.
        MissingDependencyError: Hub data without the package `datasets`.
    """
    if settings.source in DATASETS:
        return _limited(_built_in(settings), settings, seed)
    tables = _read_tables(settings)
    own = list(tables["train"].label_names or _names_of(_column(tables["train"].rows, settings.label, "train")))
    _check_count(own, n_labels_of_teacher, label_names)
    labels = list(label_names or own)
    splits = {name: _split(table, name, settings, labels) for name, table in tables.items()}
    for name, split in splits.items():
        check_split(split, name, labels, several=name != "test")
    return _limited(_disjoint(splits, settings, seed, tuple(labels)), settings, seed)


def _check_count(own: Sequence[str], n_labels: int | None, names: Sequence[str] | None) -> None:
    """Refuse data with more or fewer labels than the teacher tells apart."""
    if n_labels is not None and len(own) != n_labels:
        theirs = f" ({', '.join(names)})" if names else ""
        shown = ", ".join(own[:8]) + (", ..." if len(own) > 8 else "")
        raise DataError(
            f"data.train: has {len(own)} labels ({shown}), the teacher tells {n_labels} apart{theirs}; both need the "
            "same number. Use the data it was trained on, or a base model with teacher.finetune."
        )


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


def _split(table: RawTable, name: str, settings: DataSettings, labels: Sequence[str]) -> Split:
    """Return the text columns as strings and the label column as positions in ``labels``."""
    columns = [[str(value) for value in _column(table.rows, text, name)] for text in settings.text]
    positions = _positions(_column(table.rows, settings.label, name), name, labels)
    return Split(tuple(zip(*columns, strict=True)), _reordered(positions, table.label_names, labels))


def _reordered(positions: np.ndarray, own: Sequence[str] | None, labels: Sequence[str]) -> np.ndarray:
    """Return positions in ``labels`` of positions in the source's own names, where both are the same names."""
    lower = [name.lower() for name in labels]
    theirs = [name.lower() for name in own or ()]
    if theirs == lower or sorted(theirs) != sorted(lower) or len(set(lower)) < len(lower):
        return positions
    order = np.array([lower.index(name) for name in theirs], dtype=np.int64)
    is_known = (positions >= 0) & (positions < len(order))  # others are refused later, with their row
    return np.where(is_known, order[positions * is_known], positions)


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


def _names_of(column: pd.Series) -> list[str]:
    """Return the names of the labels of a training column: the words in order, or the numbers from 0."""
    numbers = _as_integers(column)
    if numbers is None:
        return sorted({str(value) for value in column})
    present = np.unique(numbers)
    if not np.array_equal(present, np.arange(len(present))):
        shown = ", ".join(map(str, present[:8])) + (", ..." if len(present) > 8 else "")
        raise DataError(f"data.train: labels are {shown}; allowed are 0 to n-1 without a gap. Renumber them.")
    return [str(number) for number in range(len(present))]


def _positions(column: pd.Series, split: str, labels: Sequence[str]) -> np.ndarray:
    """Return ``(n,)`` int64 positions of a label column in the known names; numbers are positions already."""
    numbers = _as_integers(column)
    if numbers is not None:
        return numbers
    lower = [name.lower() for name in labels]
    position = {name: index for index, name in enumerate(lower) if lower.count(name) == 1}  # unambiguous without case
    position |= {name: index for index, name in enumerate(labels)}
    words = [str(value) for value in column]
    found = [position.get(word, position.get(word.lower())) for word in words]
    if None in found:
        row = found.index(None)
        raise DataError(str(unknown_name(f"data.{split}: label in row {row}", words[row], list(labels))))
    return np.array(found, dtype=np.int64)


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
