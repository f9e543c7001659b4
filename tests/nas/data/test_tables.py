import builtins
import gzip
import json
from pathlib import Path

import pandas as pd
import pytest

from nas.data.tables import is_file, read_hub, read_table
from search_spaces.errors import DataError, MissingDependencyError

ROWS = [("a good film", 1), ("NA", 0), ("123", 1), ("null", 0), ('a "quoted", comma', 1)]


def frame() -> pd.DataFrame:
    return pd.DataFrame(ROWS, columns=["text", "label"])


def write(folder: Path, name: str) -> Path:
    path = folder / name
    if ".csv" in name or ".tsv" in name:
        frame().to_csv(path, index=False, sep="\t" if ".tsv" in name else ",")
    elif ".jsonl" in name:
        lines = "\n".join(json.dumps({"text": text, "label": label}) for text, label in ROWS)
        path.write_bytes(gzip.compress(lines.encode()) if name.endswith(".gz") else lines.encode())
    else:
        frame().to_parquet(path)
    return path


@pytest.mark.parametrize(
    "name", ["x.csv", "x.csv.gz", "x.tsv", "x.tsv.gz", "x.jsonl", "x.jsonl.gz", "x.parquet", "X.CSV"]
)
def test_every_format_gives_the_same_rows_and_words_stay_words(tmp_path, name):
    rows = read_table(write(tmp_path, name.lower()).rename(tmp_path / name), ["text"])
    assert list(rows["text"]) == [text for text, _ in ROWS]
    assert list(rows["label"]) == [label for _, label in ROWS]


def test_a_missing_file_is_named():
    with pytest.raises(DataError, match=r"'nowhere\.csv' does not exist"):
        read_table(Path("nowhere.csv"), ["text"])


def test_an_unknown_format_lists_the_known_ones(tmp_path):
    (tmp_path / "x.xlsx").touch()
    with pytest.raises(DataError, match=r"unknown format; known: \.csv, \.tsv, \.jsonl, \.parquet"):
        read_table(tmp_path / "x.xlsx", ["text"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", b'a,b\n"open'),
        ("x.csv", b"a,b\n1,2\n1,2,3,4\n"),
        ("x.csv", b"a,b\n\xff\xfe,1\n"),
        ("x.csv.gz", b"not gzip"),
        ("x.csv.gz", gzip.compress(b"text,label\n" * 99)[:30]),
        ("x.jsonl", b"{nonsense"),
        ("x.parquet", b"PAR1 nonsense"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="cannot be read") as error:
        read_table(tmp_path / name, ["text"])
    assert "\n" not in str(error.value)


def test_an_empty_file_has_no_rows(tmp_path):
    (tmp_path / "x.csv").touch()
    assert len(read_table(tmp_path / "x.csv", ["text"])) == 0


@pytest.mark.parametrize(
    ("source", "expected"), [("a/b.csv", True), ("b.jsonl.gz", True), ("nyu-mll/glue:sst2", False), ("imdb", False)]
)
def test_a_source_with_the_ending_of_a_format_is_a_file(source, expected):
    assert is_file(source) is expected


def test_a_folder_is_read_with_datasets(tmp_path):
    for split in ("train", "validation"):
        frame().to_csv(tmp_path / f"{split}.csv", index=False)
    train, validation = read_hub(str(tmp_path), ["train", "validation"], "label")
    assert len(train.rows) == len(validation.rows) == len(ROWS)
    assert train.label_names is None


def test_a_saved_data_set_brings_the_names_of_its_classes(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    split = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features)
    datasets.DatasetDict({"train": split}).save_to_disk(tmp_path)
    (train,) = read_hub(str(tmp_path), ["train"], "label")
    assert train.label_names == ("neg", "pos")
    assert train.rows["label"].tolist() == [0, 1]


def test_an_unknown_split_lists_the_known_ones(tmp_path):
    frame().to_csv(tmp_path / "train.csv", index=False)
    with pytest.raises(DataError, match="'dev' is unknown; known: train"):
        read_hub(str(tmp_path), ["train", "dev"], "label")


def test_an_empty_folder_is_no_data_set(tmp_path):
    with pytest.raises(DataError, match="cannot be loaded") as error:
        read_hub(str(tmp_path), ["train"], "label")
    assert "\n" not in str(error.value)


def test_hub_data_without_the_package_says_how_to_install_it(monkeypatch):
    original = builtins.__import__

    def refuse(name, *rest, **more):
        if name == "datasets":
            raise ImportError(name)
        return original(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingDependencyError, match=r"pip install 'prentice\[data\]'"):
        read_hub("imdb", ["train"], "label")
