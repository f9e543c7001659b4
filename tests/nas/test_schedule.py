import itertools

import numpy as np
import pytest

from nas.recipe import TrainSettings
from nas.schedule import Rung, Schedule, learning_rate_share


def lengths(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(2, 30, n)


def test_the_learning_rate_rises_then_falls_towards_zero() -> None:
    shares = [learning_rate_share(step, 100, 0.1) for step in range(100)]
    assert max(shares) == shares[10] == 1.0
    assert shares[:11] == sorted(shares[:11])
    assert shares[10:] == sorted(shares[10:], reverse=True)
    assert 0 < shares[-1] < 0.02
    assert learning_rate_share(0, 1, 0.0) == 1.0


def test_parts_of_a_training_leave_no_step_out_and_repeat_none() -> None:
    for n_steps in (1, 2, 3, 7, 10, 1001):
        parts = [Rung(*rung).steps(n_steps) for rung in itertools.pairwise([0.0, 0.1, 0.3, 0.7, 1.0])]
        assert list(itertools.chain(*parts)) == list(range(n_steps))
        assert parts[0].stop >= 1  # else nothing would be learned before the first judgement


def test_a_part_cools_for_a_third_of_its_steps_and_the_last_one_not_at_all() -> None:
    run = TrainSettings(epochs=1, batch_size=10, warmup=0.0)
    first, last = Schedule(run, lengths(900), Rung(0.0, 0.3)), Schedule(run, lengths(900), Rung(0.3, 1.0))
    assert (first.n_steps, first.steps, first.stop) == (90, range(27), 36)
    assert (last.steps, last.stop) == (range(27, 90), 90)
    shares = [first.learning_rate_share(step) for step in range(first.stop)]
    assert shares[:27] == [learning_rate_share(step, 90, 0.0) for step in range(27)]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == pytest.approx(learning_rate_share(35, 90, 0.0) / 10)


def test_a_share_of_the_rows_is_at_least_one_row() -> None:
    assert Schedule(TrainSettings(share=0.5, batch_size=16), lengths(96)).n_batches == 3
    assert Schedule(TrainSettings(share=0.01, batch_size=16), lengths(3)).n_batches == 1


def test_a_pass_has_every_row_once_and_every_pass_another_order() -> None:
    plan = Schedule(TrainSettings(batch_size=16), lengths(100))
    passes = [[rows.tolist() for rows in plan.batches(0, epoch)] for epoch in (0, 0, 1)]
    assert passes[0] == passes[1] != passes[2]
    assert all(sorted(itertools.chain(*batches)) == list(range(100)) for batches in passes)
    assert len(passes[0]) == plan.n_batches
