from collections import Counter
from collections.abc import Collection
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nas.candidates import Candidates
from nas.devices.base import Measurement
from nas.executor import Task
from nas.objectives import Constraint
from nas.profile import Profile, check_feasible, design, profile
from nas.progress import Silent
from nas.run_folder import RunFolder
from search_spaces.errors import ConfigError, InfeasibleError
from tests.nas.phases import N_TOKENS, Formula, candidates, known, latency_ms


@pytest.fixture(scope="module")
def made() -> Candidates:
    return candidates()


@pytest.fixture(scope="module")
def profiled(made: Candidates) -> Profile:
    return known(made)


def test_a_design_is_new_everywhere_and_the_same_for_one_seed(made: Candidates) -> None:
    shapes = design(made, 20, 3)
    assert shapes == design(made, 20, 3)
    assert shapes != design(made, 20, 4)
    assert len({made.space.key(genes) for genes in shapes}) == 20


def test_a_design_begins_with_the_warm_start_and_covers_more_than_chance(made: Candidates) -> None:
    first = made.warm_start()
    shapes = design(made, len(first) + 12, 0)
    assert shapes[: len(first)] == first
    assert design(made, 2, 0) == first[:2]
    codes = np.stack([made.space.encode(genes) for genes in shapes])
    chance = [made.space.sample(np.random.default_rng(seed)) for seed in range(len(shapes))]
    assert _closest(codes) > _closest(np.stack([made.space.encode(genes) for genes in chance]))


def test_a_design_of_a_small_space_is_the_whole_space_once() -> None:
    few = candidates(space={"genes": {"keep_1": [False], "keep_2": [False], "hidden": [16, 32]}}, compress={})
    shapes = design(few, 500, 0)
    assert len(shapes) == len({few.space.key(genes) for genes in shapes}) == few.space.size


def test_predicted_metrics_come_near_the_device_and_int8_is_faster(made: Candidates, profiled: Profile) -> None:
    for seed in range(10):
        genes = made.space.sample(np.random.default_rng(seed))
        assert profiled.metrics(genes)["latency_ms"] == pytest.approx(latency_ms(made, genes), rel=0.1)


def test_the_shortfall_allows_for_twice_the_held_out_error(made: Candidates, profiled: Profile) -> None:
    genes = made.warm_start()[0]
    predicted = profiled.metrics(genes)["latency_ms"]
    error = profiled.latency.report.variants[made.variant(genes)]["mape"]
    for beyond in (0.0, 0.1, 1.0):
        limit = Constraint.parse(f"latency_ms <= {predicted / (1 + beyond)!r}")
        assert profiled.shortfall(genes, [limit]) == pytest.approx(beyond - 2 * error)


def test_what_is_computed_has_no_slack_and_what_needs_training_is_not_judged(
    made: Candidates, profiled: Profile
) -> None:
    genes = made.warm_start()[0]
    macs = profiled.metrics(genes)["macs"]
    assert profiled.shortfall(genes, [Constraint.parse(f"macs <= {macs / 2}")]) == pytest.approx(1.0)
    assert profiled.shortfall(genes, [Constraint.parse("accuracy >= 0.99")]) == 0.0
    assert profiled.shortfall(genes, []) == 0.0


def test_a_limit_that_some_student_meets_passes_and_an_impossible_one_names_the_nearest(profiled: Profile) -> None:
    check_feasible(profiled, [Constraint.parse(f"latency_ms <= {profiled.fastest_ms}")], 0)
    with pytest.raises(InfeasibleError, match=r"meets macs <= 1; .* the nearest is 1 layer"):
        check_feasible(profiled, [Constraint.parse("macs <= 1")], 0)


def test_limits_that_exclude_each_other_are_infeasible_together_only(profiled: Profile) -> None:
    teacher = profiled.candidates.warm_start()[0]
    many = Constraint.parse(f"macs >= {profiled.metrics(teacher)['macs']}")
    fast = Constraint.parse(f"latency_ms <= {profiled.fastest_ms}")
    check_feasible(profiled, [many], 0)
    check_feasible(profiled, [fast], 0)
    with pytest.raises(InfeasibleError, match="Relax a constraint"):
        check_feasible(profiled, [many, fast], 0)


def test_what_a_compressor_cannot_do_is_neither_profiled_nor_worth_training() -> None:
    few = candidates(compress={"layer_pruning": {"choice": "first"}})
    shapes = design(few, 40, 0)
    assert len(shapes) == 40
    assert all(few.refusal(genes) is None for genes in shapes)
    genes = {**few.warm_start()[1], "layer_pruning.keep": 2}
    assert few.architecture(genes).config.depth == 1
    assert few.refusal(genes) == "layer_pruning.keep: 2 is out of range; the model has 1 layers."
    assert known(few).shortfall(genes, []) == np.inf
    assert known(few).metrics(genes)["macs"] == known(few).metrics({**genes, "layer_pruning.keep": 0})["macs"]
    check_feasible(known(few), [], 0)


def test_compressors_that_fit_no_student_are_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match=r"none of 512 students can be made. The first: layer_pruning.keep: 6 is out"):
        design(candidates(compress={"layer_pruning": {"keep": 6}}), 6, 0)


class Disturbed(Formula):
    """A device by formula; the shapes named take half as long again, and the reference a fifth, for some times."""

    def __init__(self, made: Candidates, uids: Collection[str], times: int) -> None:
        self.seen_of = Counter[str]()
        super().__init__(partial(self._measured, made, uids, times))

    def _measured(self, made: Candidates, uids: Collection[str], times: int, task: Task) -> dict[str, Any]:
        self.seen_of[task.uid] += 1
        is_slow = task.uid in uids and self.seen_of[task.uid] <= times
        rows = [
            Measurement(
                latency_ms(made, genes) * (1.5 if is_slow else 1.0), *(1.0,) * 3, 9, 6.0 if is_slow else 5.0,
                1.0, False, False, 1.0, int(4 * made.known(genes, N_TOKENS).parameters),
            ).to_json()
            for genes in task.spec["candidates"]
        ]  # fmt: skip
        return {"measurements": rows, "environment": {}, "reference_bytes": 1000}


def measured(made: Candidates, executor: Disturbed, path: Path) -> Profile:
    folder = RunFolder(path / "run")
    folder.create()
    bundle = SimpleNamespace(recipe={"search": {"profile_shapes": 16, "seed": 0, "trial_timeout_s": 10.0}})
    prepared: Any = SimpleNamespace(candidates=made, bundle=bundle, n_tokens=N_TOKENS)
    return profile(prepared, folder, executor, Silent())


def test_what_disturbed_the_device_for_a_while_is_not_believed(
    made: Candidates, profiled: Profile, tmp_path: Path
) -> None:
    executor = Disturbed(made, ("profile-3", "profile-7", "profile-8"), times=1)
    found = measured(made, executor, tmp_path)
    assert {uid for uid, n in executor.seen_of.items() if n == 2} == {"profile-3", "profile-7", "profile-8"}
    assert found.latency.report == profiled.latency.report
    assert found.teacher["latency_ms"] == 5.0


def test_what_stays_disturbed_is_left_out(made: Candidates, profiled: Profile, tmp_path: Path) -> None:
    executor = Disturbed(made, ("profile-3", "profile-7", "profile-8"), times=9)
    found = measured(made, executor, tmp_path)
    assert max(executor.seen_of.values()) == 2
    assert found.latency.report.n == profiled.latency.report.n * 13 / 16
    assert found.latency.report.mape < 2 * profiled.latency.report.mape


def test_a_device_that_is_disturbed_most_of_the_time_is_taken_as_it_is(made: Candidates, tmp_path: Path) -> None:
    executor = Disturbed(made, [f"profile-{i}" for i in range(12)], times=9)
    found = measured(made, executor, tmp_path)
    assert found.latency.report.n == 3 * 16
    assert found.teacher["latency_ms"] == 6.0


def _closest(codes: np.ndarray) -> float:
    """Return the mean distance of a point to its nearest neighbour."""
    distances = np.linalg.norm(codes[:, None] - codes[None], axis=2)
    return float((distances + np.diag(np.full(len(codes), np.inf))).min(axis=1).mean())
