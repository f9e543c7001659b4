from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nas.candidates import Candidates
from nas.design import design, design_near, spread
from nas.devices.base import Measurement
from nas.executor import Cause, Failure, Task
from nas.knowledge import Profile
from nas.objectives import Constraint
from nas.profile import check_feasible, profile, remember, tasks_of
from nas.progress import Progress, Silent
from nas.run_folder import RunFolder
from search_spaces.errors import ConfigError, DeviceError, InfeasibleError
from search_spaces.space import Genes
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


def measured(
    made: Candidates, executor: Formula, path: Path, *constraints: str, progress: Progress | None = None
) -> Profile:
    folder = RunFolder(path / "run")
    folder.create()
    search = {"profile_shapes": 16, "seed": 0, "trial_timeout_s": 10.0}
    bundle = SimpleNamespace(recipe={"search": search, "constraints": constraints})
    prepared: Any = SimpleNamespace(candidates=made, bundle=bundle, n_tokens=N_TOKENS, device="", takes_turns=False)
    return profile(prepared, folder, executor, progress or Silent())


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
    assert found.latency.report.mape < 0.01  # three of sixteen that take half as long again are an error of 9 %


def test_what_was_left_out_is_said_and_why(made: Candidates, tmp_path: Path) -> None:
    found = measured(made, Disturbed(made, ("profile-3",), times=9), tmp_path / "one")
    assert found.left_out == "3 of 48 measurements: the teacher took longer than 5.35 ms beside them"
    assert measured(made, Disturbed(made, (), times=0), tmp_path / "none").left_out == ""


class Heard(Silent):
    """A progress that remembers its warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, line: str) -> None:
        self.warnings.append(line)


class Mute(Disturbed):
    """A device that says nothing of the shapes named."""

    def __init__(self, made: Candidates, uids: Collection[str], cause: Cause) -> None:
        super().__init__(made, (), times=0)
        answer = self.result
        self.result = lambda task: Failure(cause, "no answer.") if task.uid in uids else answer(task)


def test_a_shape_that_the_device_says_nothing_of_is_left_out_and_the_others_are_learnt_from(
    made: Candidates, profiled: Profile, tmp_path: Path
) -> None:
    heard = Heard()
    found = measured(made, Mute(made, ("profile-5",), "no_answer"), tmp_path, progress=heard)
    assert found.latency.report.n == profiled.latency.report.n * 15 / 16
    assert heard.warnings == ["profile-5: left out, no answer."]


def test_a_device_that_is_given_up_ends_the_profile(made: Candidates, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"measuring failed \(given_up\): no answer"):
        measured(made, Mute(made, ("profile-5",), "given_up"), tmp_path)
    assert not (tmp_path / "run" / "profile.json").exists()


def test_one_wild_row_does_not_decide_how_latency_is_predicted(made: Candidates, tmp_path: Path) -> None:
    executor = Slowing(made, (), times=0)
    answer = executor.result

    def with_a_wild_row(task: Task) -> Any:
        found = answer(task)
        if task.uid == "profile-9":  # predicted to be a hundred times its share of the teacher's
            found["measurements"][0]["reference_ms"] *= 100
        return found

    executor.result = with_a_wild_row
    found = measured(made, executor, tmp_path)
    ratios = [found.metrics(g)["latency_ms"] / latency_ms(made, g) for g in design(made, 16, 0)]
    assert np.std(ratios) / np.mean(ratios) < 0.1  # as it was, factors between 1 and 1.6 remain


def test_a_device_that_is_disturbed_most_of_the_time_is_taken_as_it_is(made: Candidates, tmp_path: Path) -> None:
    executor = Disturbed(made, [f"profile-{i}" for i in range(12)], times=9)
    found = measured(made, executor, tmp_path)
    assert found.latency.report.n == 3 * 16
    assert found.teacher["latency_ms"] == 6.0


def test_a_fifth_of_the_shapes_lies_near_the_latency_that_is_asked_for(made: Candidates, tmp_path: Path) -> None:
    executor = Disturbed(made, (), times=0)
    limit_ms = 0.5 * latency_ms(made, made.warm_start()[0])
    measured(made, executor, tmp_path, "accuracy_drop <= 3%", f"latency_ms <= {limit_ms}")
    asked = [task.spec["candidates"] for task in executor.seen]
    assert len(asked) == 16
    nearest = [min(abs(np.log(latency_ms(made, genes) / limit_ms)) for genes in shapes) for shapes in asked]
    assert max(nearest[-3:]) < np.log(1.3)
    assert len({made.space.key(shapes[0]) for shapes in asked[-3:]} | {made.space.key(asked[0][0])}) == 4


def test_shapes_are_measured_together_where_a_device_takes_turns(made: Candidates) -> None:
    shapes, n_variants = design(made, 21, 0), len(made.variants(made.warm_start()[0]))

    def tasks(shapes: Sequence[Genes], takes_turns: bool) -> dict[str, list[Genes]]:
        prepared: Any = SimpleNamespace(candidates=made, device="", takes_turns=takes_turns)
        return tasks_of(prepared, "profile", 3, shapes)

    together, alone = tasks(shapes, True), tasks(shapes, False)
    counts = {name: len(found) // n_variants for name, found in together.items()}
    assert counts == {"profile-3": 5, "profile-8": 5, "profile-13": 5, "profile-18": 5, "profile-23": 1}
    assert {len(found) for found in alone.values()} == {n_variants}
    assert list(chain(*together.values())) == list(chain(*alone.values()))
    few = tasks(shapes[:8], True)
    assert {len(found) for found in few.values()} == {2 * n_variants}  # four tasks: one can be told from the others


def test_a_limit_beyond_the_space_gets_the_shapes_nearest_to_it(made: Candidates) -> None:
    first = design(made, 4, 0)
    near = design_near(made, first, 3, 0, lambda genes: latency_ms(made, genes), 1e-6)
    times = sorted(latency_ms(made, made.space.sample(np.random.default_rng(seed))) for seed in range(100))
    assert len(near) == 3
    assert max(latency_ms(made, genes) for genes in near) < times[30]


def test_points_are_spread_from_the_known_ones_and_never_twice() -> None:
    line = np.array([[0.0], [1.0], [2.0], [10.0], [10.0]])
    assert spread(line, np.array([[0.0]]), 2) == [3, 2]
    assert spread(line, np.empty((0, 1)), 9) == [0, 3, 2, 1]
    assert spread(np.empty((0, 1)), line, 3) == []


class Slowing(Disturbed):
    """A device on which other work makes all take longer at times, the teacher as much as the students."""

    def _measured(self, made: Candidates, uids: Collection[str], times: int, task: Task) -> dict[str, Any]:
        found = super()._measured(made, uids, times, task)
        factor = np.random.default_rng(int(task.uid.split("-")[1])).uniform(1, 1.6)
        for row in found["measurements"]:
            row["median_ms"] *= factor
            row["reference_ms"] *= factor
        return found


def test_what_slows_student_and_teacher_alike_falls_out(made: Candidates, tmp_path: Path) -> None:
    found = measured(made, Slowing(made, (), times=0), tmp_path)
    assert found.latency.report.within_10 > 0.8  # of factors between 1 and 1.6 less than half are near their middle
    ratios = [found.metrics(g)["latency_ms"] / latency_ms(made, g) for g in design(made, 16, 0)]
    assert np.std(ratios) / np.mean(ratios) < 0.02
    assert np.mean(ratios) == pytest.approx(found.teacher["latency_ms"] / 5.0, rel=0.02)


def test_later_measurements_refine_the_profile_of_a_resumed_search(made: Candidates, tmp_path: Path) -> None:
    executor = Disturbed(made, (), times=0)
    first = measured(made, executor, tmp_path)
    genes = made.space.sample(np.random.default_rng(5))
    row = Measurement(latency_ms(made, genes), *(1.0,) * 3, 9, 7.0, 1.0, False, False, 1.0, 4000).to_json()
    folder = RunFolder(tmp_path / "run")
    for _ in range(2):  # finalizing may have been interrupted and repeated
        remember(first, folder, [{**row, "genes": genes}, {**row, "genes": made.warm_start()[0], "contended": True}])
    resumed = measured(made, executor, tmp_path)
    assert resumed.latency.report.n == first.latency.report.n + 1
    assert resumed.teacher == first.teacher
    assert resumed.calm_ms == first.calm_ms


def test_a_candidate_is_foretold_with_an_interval_and_a_warning_where_it_is_a_guess(made: Candidates) -> None:
    genes = made.warm_start()[0]
    told = known(made).foretell(genes)
    assert told.value == known(made).metrics(genes)["latency_ms"]
    assert told.low <= latency_ms(made, genes) <= told.high
    assert told.warning == ""
    elsewhere = replace(known(made), n_tokens=4 * N_TOKENS)
    assert "is outside of" in elsewhere.foretell(genes).warning


def _closest(codes: np.ndarray) -> float:
    """Return the mean distance of a point to its nearest neighbour."""
    distances = np.linalg.norm(codes[:, None] - codes[None], axis=2)
    return float((distances + np.diag(np.full(len(codes), np.inf))).min(axis=1).mean())
