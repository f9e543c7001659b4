import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.data.tokens import Tokens, bucketed_batches


def make_tokens(lengths: list[int]) -> Tokens:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = np.arange(1, offsets[-1] + 1, dtype=np.int32)
    return Tokens(ids, (ids % 2).astype(np.uint8), offsets, np.arange(len(lengths), dtype=np.int64))


def row(tokens: Tokens, index: int) -> list[int]:
    return tokens.ids[tokens.offsets[index] : tokens.offsets[index + 1]].tolist()


@given(st.lists(st.integers(0, 7), min_size=1, max_size=12), st.data())
def test_a_subset_holds_the_picked_rows_in_the_picked_order(lengths, data):
    tokens = make_tokens(lengths)
    rows = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=8))
    part = tokens.subset(np.array(rows, dtype=np.int64))
    assert [row(part, index) for index in range(len(part))] == [row(tokens, index) for index in rows]
    assert part.labels.tolist() == rows
    assert part.offsets[0] == 0
    assert part.offsets[-1] == len(part.ids) == len(part.types)


def test_a_subset_is_a_copy():
    tokens = make_tokens([2, 3])
    tokens.subset(np.array([1])).ids[:] = 0
    assert row(tokens, 1) == [3, 4, 5]


@given(st.lists(st.integers(1, 7), min_size=1, max_size=12), st.data())
def test_a_batch_is_padded_on_the_right_with_mask_zero(lengths, data):
    tokens = make_tokens(lengths)
    rows = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=8))
    batch = tokens.collate(np.array(rows))
    assert batch.input_ids.shape == (len(rows), max(lengths[index] for index in rows))
    for line, index in enumerate(rows):
        n = lengths[index]
        assert batch.input_ids[line, :n].tolist() == row(tokens, index)
        assert batch.token_type_ids[line, :n].tolist() == [value % 2 for value in row(tokens, index)]
        assert batch.attention_mask[line].tolist() == [1] * n + [0] * (batch.input_ids.shape[1] - n)
        assert not batch.input_ids[line, n:].any()


@given(st.lists(st.integers(1, 60), min_size=1, max_size=300), st.integers(1, 17), st.booleans())
def test_every_row_is_in_exactly_one_batch(lengths, batch_size, is_random):
    rng = np.random.default_rng(0) if is_random else None
    batches = list(bucketed_batches(np.array(lengths), batch_size, rng, spread=3))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert max(map(len, batches)) <= batch_size


def test_buckets_leave_little_padding_and_are_shuffled():
    lengths = np.random.default_rng(1).integers(3, 60, 5000)
    batches = list(bucketed_batches(lengths, 32, np.random.default_rng(0)))
    padded = sum(len(rows) * int(lengths[rows].max()) for rows in batches)
    assert padded / lengths.sum() < 1.05
    means = [lengths[rows].mean() for rows in batches]
    assert means != sorted(means)


def test_equal_generators_give_equal_batches():
    lengths = np.random.default_rng(1).integers(3, 60, 500)
    first, second = (list(bucketed_batches(lengths, 32, np.random.default_rng(5))) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_without_generator_rows_come_by_length():
    lengths = np.array([5, 1, 4, 1, 3])
    assert np.concatenate(list(bucketed_batches(lengths, 2, None))).tolist() == [1, 3, 4, 2, 0]


def test_lengths_are_those_of_the_rows():
    assert make_tokens([4, 0, 2]).lengths.tolist() == [4, 0, 2]
    assert len(make_tokens([4, 0, 2])) == 3


@pytest.mark.parametrize("rows", [[], [0]])
def test_a_subset_keeps_the_types_of_its_arrays(rows):
    tokens = make_tokens([3])
    part = tokens.subset(np.array(rows, dtype=np.int64))
    for name in ("ids", "types", "offsets", "labels"):
        assert getattr(part, name).dtype == getattr(tokens, name).dtype
