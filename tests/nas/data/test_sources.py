import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nas.data import sources
from nas.data.sources import load_data
from nas.data.tables import RawTable
from nas.recipe import DataSettings
from search_spaces.errors import DataError
from tests.conftest import needs_data


def write(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def good(n: int = 40, start: int = 0) -> list[dict[str, object]]:
    return [{"text": f"text {start + i}", "label": i % 2} for i in range(n)]


def test_a_file_gives_train_and_a_held_out_validation_split(tmp_path):
    data = load_data(DataSettings(source=write(tmp_path / "x.jsonl", good()), validation_share=0.25), 0)
    assert (len(data.train), len(data.validation), data.test) == (30, 10, None)
    assert np.bincount(data.validation.labels).tolist() == [5, 5]
    assert data.labels == ("0", "1")
    assert data.train.labels.dtype == np.int64
    assert not set(data.train.texts) & set(data.validation.texts)
    assert data.notes == ()


def test_equal_seeds_give_equal_data(tmp_path):
    settings = DataSettings(source=write(tmp_path / "x.jsonl", good()))
    assert load_data(settings, 1).fingerprint == load_data(settings, 1).fingerprint
    assert load_data(settings, 1).fingerprint != load_data(settings, 2).fingerprint


def test_named_files_become_validation_and_test(tmp_path):
    settings = DataSettings(
        source=write(tmp_path / "x.jsonl", good()),
        validation=write(tmp_path / "v.jsonl", good(10, 100)),
        test=write(tmp_path / "t.jsonl", good(6, 200)),
    )
    data = load_data(settings, 0)
    assert data.test is not None
    assert (len(data.train), len(data.validation), len(data.test)) == (40, 10, 6)


def test_training_rows_that_are_evaluated_are_left_out_and_counted(tmp_path):
    settings = DataSettings(
        source=write(tmp_path / "x.jsonl", good()),
        validation=write(tmp_path / "v.jsonl", good(10, 38)),
        test=write(tmp_path / "t.jsonl", good(6, 37)),
    )
    data = load_data(settings, 0)
    assert data.test is not None
    assert (len(data.train), len(data.validation), len(data.test)) == (37, 5, 6)
    assert data.notes == (
        "3 training rows left out: the same text is a validation or test row",
        "5 validation rows left out: the same text is a test row",
    )


def test_words_as_labels_are_numbered_in_their_order(tmp_path):
    rows = [{"text": str(i), "label": ["pos", "neg", "mixed"][i % 3]} for i in range(30)]
    source = write(tmp_path / "x.jsonl", rows)
    data = load_data(DataSettings(source=source), 0)
    assert data.labels == ("mixed", "neg", "pos")
    assert {
        data.labels[label]
        for label, row in zip(data.train.labels, data.train.texts, strict=True)
        if int(row[0]) % 3 == 0
    } == {"pos"}


def test_names_of_the_teacher_decide_the_order(tmp_path):
    rows = [{"text": str(i), "label": ["pos", "neg"][i % 2]} for i in range(30)]
    data = load_data(DataSettings(source=write(tmp_path / "x.jsonl", rows)), 0, 2, ("pos", "neg"))
    assert data.labels == ("pos", "neg")
    assert all(int(row[0]) % 2 == label for label, row in zip(data.train.labels, data.train.texts, strict=True))


def test_numbers_stay_numbers_beside_names_of_the_teacher(tmp_path):
    data = load_data(DataSettings(source=write(tmp_path / "x.jsonl", good())), 0, 2, ("pos", "neg"))
    assert all(
        int(row[0].split()[1]) % 2 == label for label, row in zip(data.train.labels, data.train.texts, strict=True)
    )


@pytest.mark.parametrize("values", [(0, 1), (0.0, 1.0), ("0", "1"), (False, True)])
def test_whole_numbers_in_any_dress_are_labels(tmp_path, values):
    rows = [{"text": str(i), "label": values[i % 2]} for i in range(20)]
    data = load_data(DataSettings(source=write(tmp_path / "x.jsonl", rows)), 0)
    assert data.labels == ("0", "1")
    assert all(int(row[0]) % 2 == label for label, row in zip(data.train.labels, data.train.texts, strict=True))


def test_two_text_columns_become_pairs(tmp_path):
    rows = [{"a": f"a{i}", "b": f"b{i}", "same": i % 2} for i in range(20)]
    settings = DataSettings(source=write(tmp_path / "x.jsonl", rows), text=("a", "b"), label="same")
    assert all(a[1:] == b[1:] for a, b in load_data(settings, 0).train.texts)


def test_at_most_max_train_rows_are_used(tmp_path):
    data = load_data(DataSettings(source=write(tmp_path / "x.jsonl", good()), max_train=10), 0)
    assert len(data.train) == 10
    assert set(data.train.labels.tolist()) == {0, 1}


def test_a_folder_of_splits_is_read_by_their_names(tmp_path):
    for name, start in (("train", 0), ("test", 100)):
        pd.DataFrame(good(20, start)).to_csv(tmp_path / f"{name}.csv", index=False)
    data = load_data(DataSettings(source=str(tmp_path), test="test"), 0)
    assert data.test is not None
    assert len(data.test) == 20


def changed(index: int, **values: object) -> list[dict[str, object]]:
    rows = good()
    return [{**row, **values} if i == index else row for i, row in enumerate(rows)]


BAD = {
    "missing text column": ([{"sentence": "a", "label": 0}], "column: 'text' is unknown; known: sentence, label"),
    "missing label column": (
        [{"text": "a", "lable": 0}],
        "'label' is unknown; known: text, lable. Did you mean 'lable'",
    ),
    "no rows": ([], "data.train: has no rows"),
    "one class": ([{**row, "label": 0} for row in good()], "all 40 rows have label '0'"),
    "negative label": (changed(3, label=-1), "labels are -1, 0, 1; allowed are 0 to n-1"),
    "label far out": (changed(3, label=10**9), "labels are 0, 1, 1000000000; allowed are 0 to n-1"),
    "real label": (changed(3, label=0.5), "0.5 is not a class"),
    "no label": (changed(3, label=None), "row 3 has nothing in column 'label'"),
    "no text": (changed(3, text=None), "row 3 has nothing in column 'text'"),
    "empty text": (changed(3, text=""), "row 3 has nothing in column 'text'"),
    "rare label": (changed(3, label=2), "label 2 has 1 different text"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_training_rows_are_one_clear_line(tmp_path, case):
    rows, message = BAD[case]
    with pytest.raises(DataError) as error:
        load_data(DataSettings(source=write(tmp_path / "x.jsonl", rows)), 0)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("n_labels", "names"), [(3, ("bad", "fair", "good")), (1, None)])
def test_another_number_of_labels_than_the_teachers_is_one_line_with_both(tmp_path, n_labels, names):
    source = write(tmp_path / "x.jsonl", good())
    message = rf"has 2 labels \(0, 1\), the teacher tells {n_labels} apart.*teacher\.finetune"
    with pytest.raises(DataError, match=message) as error:
        load_data(DataSettings(source=source), 0, n_labels, names)
    assert "\n" not in str(error.value)


def test_words_find_the_teachers_names_in_any_case(tmp_path):
    rows = [{"text": str(i), "label": ["Neg", "pos"][i % 2]} for i in range(30)]
    data = load_data(DataSettings(source=write(tmp_path / "x.jsonl", rows)), 0, 2, ("POS", "NEG"))
    assert data.labels == ("POS", "NEG")
    assert all(int(row[0]) % 2 != label for label, row in zip(data.train.labels, data.train.texts, strict=True))


def test_case_counts_where_only_case_tells_names_apart(tmp_path):
    rows = [{"text": str(i), "label": ["a", "A"][i % 2]} for i in range(30)]
    data = load_data(DataSettings(source=write(tmp_path / "x.jsonl", rows)), 0, 2, ("a", "A"))
    assert all(int(row[0]) % 2 == label for label, row in zip(data.train.labels, data.train.texts, strict=True))


def test_numbers_that_the_source_names_follow_the_names(tmp_path, monkeypatch):
    rows = pd.DataFrame([{"text": str(i), "label": i % 2} for i in range(30)])
    monkeypatch.setattr(sources, "read_hub", lambda *_: [RawTable(rows, ("pos", "neg"))])  # needs a network
    data = load_data(DataSettings(source="some/hub-id"), 0, 2, ("NEG", "POS"))
    assert data.labels == ("NEG", "POS")
    assert all(int(row[0]) % 2 != label for label, row in zip(data.train.labels, data.train.texts, strict=True))


@pytest.mark.parametrize(
    ("label", "message"), [(-1, "label -1 in row 0 is out of range"), ("pos", "label in row 0: 'pos' is unknown")]
)
def test_a_label_that_train_does_not_know_is_refused(tmp_path, label, message):
    source = write(tmp_path / "x.jsonl", good())
    test = write(tmp_path / "t.jsonl", [{"text": "a", "label": label}])
    with pytest.raises(DataError, match=message):
        load_data(DataSettings(source=source, test=test), 0)


def test_an_unknown_word_among_labels_lists_the_known_ones(tmp_path):
    rows = [{"text": str(i), "label": ["pos", "neg"][i % 2]} for i in range(30)]
    with pytest.raises(DataError, match=r"data\.train: label in row 0: 'pos' is unknown; known: positive, negative"):
        load_data(DataSettings(source=write(tmp_path / "x.jsonl", rows)), 0, 2, ("positive", "negative"))


def test_the_built_in_data_set_takes_no_files():
    with pytest.raises(DataError, match=r"data\.test: 'x\.csv' does not go with built-in 'docstrings'"):
        load_data(DataSettings(source="docstrings", test="x.csv"), 0)


def test_sst2_is_read_as_published():
    folder = needs_data("text/sst2")
    settings = DataSettings(
        source=str(folder / "train.csv.gz"),
        validation=str(folder / "dev.csv.gz"),
        test=str(folder / "test.csv.gz"),
        max_train=1000,
    )
    data = load_data(settings, 0)
    assert data.test is not None
    assert (len(data.train), len(data.validation), len(data.test)) == (1000, 872, 1821)
    assert np.bincount(data.validation.labels).tolist() == [428, 444]
