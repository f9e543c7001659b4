import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState

from nas.candidates import Candidates
from nas.executor import Failure, Task
from nas.objectives import Constraint, Objective
from nas.recipe import SearchSettings
from nas.record import Record
from nas.search import ALIKE, Search
from nas.strategies import make_sampler
from search_spaces.errors import InfeasibleError, StateError
from tests.nas.phases import N_TOKENS, Formula, candidates, known

ENDED = (TrialState.COMPLETE, TrialState.FAIL)
OBJECTIVES = [Objective.of("accuracy"), Objective.of("latency_ms")]


def trained(task: Task, accuracy: float = 0.8) -> dict[str, Any]:
    metrics = {"accuracy": accuracy, "size_bytes": 1000.0}
    return {"metrics": metrics, "curves": {"loss": [1.0, 0.5]}, "reports": [], "seconds": {"train": 1.0}}


def opened(made: Candidates, folder: Path | None = None) -> Record:
    sampler = make_sampler("random", made.space, 0, {})
    url = f"sqlite:///{folder / 'study.db'}" if folder else None
    return Record.open(url, "run", [o.direction for o in OBJECTIVES], sampler, [o.name for o in OBJECTIVES])


def search(
    record: Record, made: Candidates, executor: Formula, trials: int = 12, constraints: tuple[str, ...] = ()
) -> Search:
    limits = [Constraint.parse(text) for text in constraints]
    settings = SearchSettings(strategy="random", trials=trials, minutes=9)
    return Search(settings, OBJECTIVES, limits, known(made), record, executor, lambda trial: None, lambda n: None)


@pytest.fixture(scope="module")
def made() -> Candidates:
    return candidates()


@pytest.mark.parametrize("slots", [1, 3, 50])
def test_the_budget_is_spent_exactly_however_many_run_at_once(made: Candidates, slots: int) -> None:
    record, executor = opened(made), Formula(trained, slots)
    search(record, made, executor).run()
    assert len(record.trials(ENDED)) == len(executor.seen) == 12
    assert not record.running()


def test_when_the_minutes_are_over_no_student_is_begun_but_one_there_is_in_any_case(made: Candidates) -> None:
    record, executor = opened(made), Formula(trained, 1)
    job = search(record, made, executor)
    job.is_late = lambda: len(executor.seen) >= 4
    ended = job.run()
    assert len(record.trials(ENDED)) == 4
    assert ended is not None
    assert "4 of 12 trials used" in ended
    late = search(opened(made), made, again := Formula(trained, 1))
    late.is_late = lambda: True
    late.run()
    assert len(again.seen) == 1


def test_a_trial_keeps_the_measured_accuracy_and_size_and_the_predicted_latency(made: Candidates) -> None:
    record = opened(made)
    job = search(record, made, Formula(trained), 1)
    job.run()
    (trial,) = record.trials(ENDED)
    metrics = trial.user_attrs["metrics"]
    assert (metrics["accuracy"], metrics["size_bytes"]) == (0.8, 1000.0)
    assert metrics["latency_ms"] == pytest.approx(job.known.metrics(trial.user_attrs["genes"])["latency_ms"])
    assert trial.values == [metrics["accuracy"], metrics["latency_ms"]]
    assert trial.user_attrs["predicted"] == ["latency_ms"]


@pytest.mark.parametrize("n_tokens", [N_TOKENS, 4 * N_TOKENS])
def test_a_trial_says_where_its_latency_is_an_extrapolation(made: Candidates, n_tokens: int) -> None:
    record = opened(made)
    job = search(record, made, Formula(trained), 3)
    job.known = replace(job.known, n_tokens=n_tokens)
    job.run()
    told = ["is outside of" in trial.user_attrs.get("extrapolated", "") for trial in record.trials(ENDED)]
    assert any(told) == (n_tokens > N_TOKENS)  # a small student over a longer text is like a large one over a short


def test_what_ran_when_a_search_stopped_is_trained_again_and_counts_once(made: Candidates, tmp_path: Path) -> None:
    def stops(task: Task) -> dict[str, Any]:
        if task.uid == "trial-5":
            raise KeyboardInterrupt
        return trained(task)

    record = opened(made, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        search(record, made, Formula(stops, 4)).run()
    running = {f"trial-{trial.number}" for trial in record.running()}
    n_ended = len(record.trials(ENDED))
    record.close()
    again, executor = opened(made, tmp_path), Formula(trained, 4)
    search(again, made, executor).run()
    assert running <= {task.uid for task in executor.seen}
    assert len(executor.seen) == 12 - n_ended
    assert len(again.trials(ENDED)) == 12


def test_candidates_beyond_a_limit_are_refused_untrained_and_cost_no_budget(made: Candidates) -> None:
    record, executor = opened(made), Formula(trained)
    rng = np.random.default_rng(0)
    limit = np.median([known(made).metrics(made.space.sample(rng))["latency_ms"] for _ in range(40)])
    job = search(record, made, executor, 8, (f"latency_ms <= {limit}",))
    job.run()
    refused = record.trials((TrialState.PRUNED,))
    assert len(executor.seen) == 8
    assert refused
    assert all(job.known.shortfall(task.spec["genes"], job.constraints) <= 0 for task in executor.seen)


def test_equal_students_are_refused_with_the_reason() -> None:
    few = candidates(space={"genes": {"keep_1": [False], "keep_2": [False], "hidden": [16, 32]}})
    record, executor = opened(few), Formula(trained)
    search(record, few, executor, few.space.size).run()
    keys = [few.space.key(task.spec["genes"]) for task in executor.seen]
    assert len(keys) == len(set(keys))
    reasons = {trial.user_attrs["reason"] for trial in record.trials((TrialState.PRUNED,))}
    assert reasons == {"an equal student was trained before"}


def test_what_a_compressor_cannot_do_is_refused_with_its_words() -> None:
    few = candidates(compress={"layer_pruning": {"choice": "first"}})
    record, executor = opened(few), Formula(trained)
    search(record, few, executor, 12).run()
    assert all(few.refusal(task.spec["genes"]) is None for task in executor.seen)
    reasons = {trial.user_attrs["reason"] for trial in record.trials((TrialState.PRUNED,))}
    assert any("layer_pruning.keep: 6 is out of range" in reason for reason in reasons)


def test_a_limit_that_no_proposal_meets_ends_the_search_with_the_fastest_student(made: Candidates) -> None:
    with pytest.raises(InfeasibleError, match=r"200 proposals in a row.*the fastest student is \d+\.\d{3} ms"):
        search(opened(made), made, Formula(trained), 4, ("latency_ms <= 0.0000001",)).run()


@pytest.mark.parametrize(
    "words",
    [lambda i: "no space left", lambda i: f"step {i} of 90: the loss is nan", lambda i: f"shape {i}, lr {i}e-3"],
)
def test_first_trials_that_fail_alike_but_for_numbers_end_the_search(
    made: Candidates, words: Callable[[int], str]
) -> None:
    record = opened(made)
    executor = Formula(lambda task: Failure("error", words(len(executor.seen))))
    with pytest.raises(StateError, match=f"the first {ALIKE} trials all failed alike"):
        search(record, made, executor).run()
    assert len(record.trials((TrialState.FAIL,))) == ALIKE


@pytest.mark.parametrize("good", [0, 3])
def test_failures_after_or_before_a_success_or_of_several_kinds_do_not_end_it(made: Candidates, good: int) -> None:
    record = opened(made)
    executor = Formula(lambda t: trained(t) if len(executor.seen) == good + 1 else Failure("error", "bad luck"))
    search(record, made, executor).run()
    assert len(record.trials(ENDED)) == 12
    mixed = Formula(lambda t: Failure("error", "odd" if len(mixed.seen) % 2 else "even"))
    search(opened(made), made, mixed).run()
    assert len(mixed.seen) == 12


@pytest.mark.parametrize("accuracy", [math.nan, math.inf])
def test_a_result_that_is_not_finite_counts_as_a_failure(made: Candidates, accuracy: float) -> None:
    record = opened(made)
    executor = Formula(lambda task: trained(task, accuracy if len(executor.seen) == 1 else 0.8))
    search(record, made, executor, 3).run()
    (failed,) = record.trials((TrialState.FAIL,))
    assert failed.user_attrs["cause"] == "diverged"
    assert f"accuracy is {accuracy}" in failed.user_attrs["message"]
