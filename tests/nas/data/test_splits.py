import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.data.splits import Split, TextData, at_most, check_split, hold_out, without_texts
from search_spaces.errors import DataError


def make_split(labels: list[int], texts: list[str] | None = None) -> Split:
    texts = texts or [f"text {i}" for i in range(len(labels))]
    return Split(tuple((text,) for text in texts), np.array(labels, dtype=np.int64))


def test_a_good_split_passes():
    check_split(make_split([0, 1, 2]), "train", ("a", "b", "c"))


def test_an_empty_split_is_refused():
    with pytest.raises(DataError, match=r"data\.validation: has no rows"):
        check_split(make_split([]), "validation", ("a", "b"))


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_out_of_range_is_refused_with_its_row(label):
    with pytest.raises(DataError, match=rf"data\.test: label {label} in row 1 is out of range; allowed are 0 to 1"):
        check_split(make_split([0, label]), "test", ("a", "b"))


def test_one_class_only_is_refused_where_several_are_needed():
    with pytest.raises(DataError, match="all 2 rows have label 'b'"):
        check_split(make_split([1, 1]), "train", ("a", "b"))
    check_split(make_split([1, 1]), "test", ("a", "b"), several=False)


rows = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30)), min_size=12, max_size=120)


@given(rows, st.floats(0.05, 0.9))
def test_held_out_rows_and_the_rest_share_no_text_and_lose_no_row(pairs, share):
    split = make_split([text % 3 for _, text in pairs], [str(text) for _, text in pairs])
    n_texts = [len({row for row, label in zip(split.texts, split.labels, strict=True) if label == k}) for k in range(3)]
    if 1 in n_texts:
        with pytest.raises(DataError, match="at least 2"):
            hold_out(split, share, 0)
        return
    rest, held = hold_out(split, share, 0)
    assert not set(rest.texts) & set(held.texts)
    assert sorted(rest.texts + held.texts) == sorted(split.texts)
    assert set(held.labels.tolist()) == set(rest.labels.tolist()) == set(split.labels.tolist())


def test_held_out_rows_have_the_same_shares_of_labels():
    split = make_split([0] * 900 + [1] * 100)
    rest, held = hold_out(split, 0.1, 0)
    assert np.bincount(held.labels).tolist() == [90, 10]
    assert np.bincount(rest.labels).tolist() == [810, 90]


def test_equal_seeds_hold_out_equal_rows_and_other_seeds_others():
    split = make_split([0, 1] * 50)
    assert hold_out(split, 0.2, 3)[1].texts == hold_out(split, 0.2, 3)[1].texts
    assert hold_out(split, 0.2, 3)[1].texts != hold_out(split, 0.2, 4)[1].texts


def test_a_label_with_one_text_cannot_be_held_out():
    with pytest.raises(DataError, match="label 1 has 1 different text"):
        hold_out(make_split([0, 0, 1]), 0.5, 0)


def test_rows_with_texts_of_other_splits_are_left_out():
    split = make_split([0, 1, 0], ["a", "b", "c"])
    assert without_texts(split, [make_split([1], ["b"])]).texts == (("a",), ("c",))
    assert without_texts(split, []) is split


def test_at_most_keeps_shares_and_order():
    split = make_split([0] * 300 + [1] * 100)
    part = at_most(split, 40, 0)
    assert np.bincount(part.labels).tolist() == [30, 10]
    positions = [split.texts.index(row) for row in part.texts]
    assert positions == sorted(set(positions))
    assert at_most(split, None, 0) is at_most(split, 400, 0) is split


def test_the_fingerprint_follows_texts_labels_and_names():
    data = TextData(make_split([0, 1]), make_split([1, 0]), None, ("a", "b"))
    others = [
        TextData(make_split([1, 0]), make_split([1, 0]), None, ("a", "b")),
        TextData(make_split([0, 1]), make_split([1, 0]), None, ("a", "c")),
        TextData(make_split([0, 1], ["x", "y"]), make_split([1, 0]), None, ("a", "b")),
        TextData(make_split([0, 1]), make_split([1, 0]), make_split([0]), ("a", "b")),
    ]
    assert len({data.fingerprint, *(other.fingerprint for other in others)}) == 5
    assert data.fingerprint == TextData(make_split([0, 1]), make_split([1, 0]), None, ("a", "b")).fingerprint
