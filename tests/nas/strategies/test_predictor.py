import numpy as np
import pytest

from nas.pareto import hypervolume
from nas.record import Record
from nas.strategies import make_sampler
from nas.strategies.archive import Archive, make_pool
from nas.strategies.forecast import telling, worst_of_interest
from nas.strategies.foreknowledge import Foreknowledge
from nas.strategies.history import History, Observation
from nas.strategies.predictor import milestone
from search_spaces.errors import ConfigError
from search_spaces.rows import Rows
from tests.nas.strategies.test_evolution import SPACE, score

GENES = len(SPACE.names)


def searched(name: str, seed: int, n_trials: int, foreknowledge: Foreknowledge | None = None) -> Record:
    sampler = make_sampler(name, SPACE, seed)
    if foreknowledge is not None:
        sampler.foresee(foreknowledge)
    record = Record.open(None, "run", ["maximize", "minimize"], sampler, ["accuracy", "latency"])
    for _ in range(n_trials):
        trial = record.ask(SPACE.distributions())
        record.tell(trial.number, score(trial.params))
    return record


def volume(record: Record) -> float:
    costs = np.array([[-trial.values[0], trial.values[1]] for trial in record.trials()])
    return hypervolume(costs, np.array([-0.2, 1.0]))


def test_forty_predicted_trials_find_more_than_forty_evolved_ones():
    predicted, evolved = (
        [volume(searched(name, seed, 40)) for seed in range(2)] for name in ("predictor", "evolution")
    )
    assert np.mean(predicted) > np.mean(evolved)
    assert min(predicted) > min(evolved)


def test_a_known_cost_is_not_guessed():
    seen: list[int] = []

    def latencies(candidates):
        seen.append(len(candidates))
        return np.array([score(genes)[1] for genes in candidates])

    known = [volume(searched("predictor", seed, 24, Foreknowledge(costs={1: latencies}))) for seed in range(2)]
    assert max(seen) > 500
    assert np.mean(known) > np.mean([volume(searched("predictor", seed, 24)) for seed in range(2)]) - 0.01


@pytest.mark.parametrize(
    ("foreknowledge", "message"),
    [
        (
            Foreknowledge(costs={1: lambda candidates: np.full(len(candidates), np.nan)}),
            "objective 1: nan is not finite",
        ),
        (Foreknowledge(costs={0: lambda candidates: np.zeros(2)}), r"objective 0: shape \(2,\) for 3 candidates"),
        (Foreknowledge(features=lambda candidates: np.zeros(len(candidates))), r"features: shape \(3,\)"),
    ],
)
def test_foreknowledge_that_is_no_number_each_is_refused_at_once(foreknowledge, message):
    with pytest.raises(ConfigError, match=message):
        make_sampler("predictor", SPACE, 0).foresee(foreknowledge)


def test_candidates_that_run_count_as_if_they_had_given_what_was_predicted():
    record = searched("predictor", 0, 24)
    asked = [record.ask(SPACE.distributions()).params for _ in range(6)]
    assert len({SPACE.key(genes) for genes in asked}) == 6
    costs = np.array([[-score(genes)[0], score(genes)[1]] for genes in asked])
    assert np.ptp(costs[:, 1]) > 0.05  # not six neighbours of one point


def test_violated_constraints_lead_the_search_to_where_none_is():
    sampler = make_sampler("predictor", SPACE, 0)
    record = Record.open(None, "run", ["maximize", "minimize"], sampler, ["accuracy", "latency"])
    for _ in range(50):
        trial = record.ask(SPACE.distributions())
        values = score(trial.params)
        record.tell(trial.number, values, constraints={"accuracy": 0.85 - values[0]})
    feasible = [max(trial.constraints.values()) <= 0 for trial in record.trials()]
    assert np.mean(feasible[25:]) > 2 * np.mean(feasible[:10])


def observation(number: int, rng: np.random.Generator) -> Observation:
    genes = SPACE.sample(rng)
    accuracy, latency = score(genes)
    costs = None if number % 7 == 3 else np.array([-accuracy, latency])
    return Observation(number, genes, costs, float(number % 5 == 0))


def test_an_archive_that_grew_is_one_that_was_read_at_once():
    rng, rows = np.random.default_rng(0), Rows(SPACE)
    told = [observation(number, rng) for number in range(40)]
    growing, grown = History(SPACE, 2), Archive(rows)
    for seen in told:
        growing.told.append(seen)
        grown.update(growing)
    read = Archive(rows)
    read.update(History(SPACE, 2, told=told))
    for name in ("rows", "costs", "violations"):
        np.testing.assert_array_equal(getattr(grown, name), getattr(read, name))
    assert sorted(grown.front) == sorted(read.front)
    assert (grown.violations[grown.front] <= 0).all()


def in_steps(number: int, quality: list[float], latency: float, shares: tuple[float, ...]) -> Observation:
    """Return a trial that had these first costs at these shares of the training."""
    genes = SPACE.sample(np.random.default_rng(number))
    steps = dict(zip(shares, quality, strict=True))
    return Observation(number, genes, np.array([quality[-1], latency]), 0.0, steps)


def test_a_trial_that_was_stopped_is_judged_as_if_it_had_gone_on_and_is_not_on_the_front():
    archive = Archive(Rows(SPACE))
    stopped = [in_steps(0, [0.5, 0.3], 1.0, (0.0, 0.1)), in_steps(1, [0.55], 0.1, (0.0,))]
    archive.update(history := History(SPACE, 2, told=list(stopped)))
    np.testing.assert_array_equal(archive.expected(2), archive.costs)  # nothing tells yet what training gives
    assert set(archive.front) == {0, 1}
    whole = [in_steps(2, [0.5, 0.35, 0.2], 3.0, (0.0, 0.1, 1.0)), in_steps(3, [0.5, 0.35, 0.25], 2.0, (0.0, 0.1, 1.0))]
    whole.append(in_steps(4, [0.6, 0.5, 0.15], 4.0, (0.0, 0.1, 1.0)))
    history.told += whole
    archive.update(history)
    at_0, at_1, ends = np.array([0.5, 0.5, 0.6]), np.array([0.35, 0.35, 0.5]), np.array([0.2, 0.25, 0.15])
    assert np.polyfit(at_0, ends, 1)[0] < 0 > np.polyfit(at_1, ends, 1)[0]  # what seems worse ends better: says nothing
    lifted = archive.costs.copy()
    lifted[:2, 0] = ends.mean()
    np.testing.assert_allclose(archive.expected(5), lifted)
    np.testing.assert_array_equal(archive.expected(2), archive.costs[:2])  # as it was then, for a resume
    np.testing.assert_allclose(archive.expected(4)[0], [0.3 - 0.125, 1.0])  # two pairs tell a shift, no line
    assert set(archive.front) == {2, 3, 4}


def test_what_is_expected_of_a_stopped_trial_follows_the_line_of_those_that_went_on():
    archive, rng = Archive(Rows(SPACE)), np.random.default_rng(0)
    early = rng.uniform(0.2, 0.8, 20)
    late = 0.1 + 0.4 * early + rng.normal(0, 0.01, 20)
    told = [in_steps(i, [x, y], 1.0, (0.1, 1.0)) for i, (x, y) in enumerate(zip(early, late, strict=True))]
    archive.update(History(SPACE, 2, told=[*told, in_steps(20, [0.9], 1.0, (0.1,))]))
    slope, offset = np.polyfit(early, late, 1)
    assert archive.expected(21)[20, 0] == pytest.approx(offset + slope * 0.9)


def test_the_pool_holds_new_candidates_and_all_neighbours_of_a_small_front():
    rng, rows = np.random.default_rng(0), Rows(SPACE)
    archive = Archive(rows)
    archive.update(History(SPACE, 2, told=[observation(number, rng) for number in range(1, 3)]))
    pool = archive.untried(make_pool(rows, archive, 600, rng))
    keys = {SPACE.key(rows.genes(row)) for row in pool}
    assert len(keys) == len(pool) > 300
    assert not keys & {SPACE.key(genes) for genes in archive.candidates}
    near = rows.neighbours(archive.rows[archive.front[0]], rng)
    assert {SPACE.key(rows.genes(row)) for row in near} - {SPACE.key(g) for g in archive.candidates} <= keys


def test_the_pool_of_a_large_front_holds_some_neighbours_of_most_of_its_members():
    rng, rows = np.random.default_rng(0), Rows(SPACE)
    archive = Archive(rows)
    told = [Observation(i, SPACE.sample(rng), np.array([i, -i], float), 0.0) for i in range(60)]
    archive.update(History(SPACE, 2, told=told))
    assert len(archive.front) == 60
    pool = {SPACE.key(rows.genes(row)) for row in make_pool(rows, archive, 300, rng)}
    near = [{SPACE.key(rows.genes(row)) for row in rows.neighbours(parent, rng)} for parent in archive.rows]
    assert np.mean([bool(some & pool) for some in near]) > 0.8
    assert len(pool) < 330


def test_surrogates_are_fitted_at_milestones_that_depend_on_the_number_of_results_alone():
    stones = [milestone(n, 10) for n in range(1, 400)]
    assert stones == sorted(stones)
    assert stones[:12] == [*range(1, 13)]
    assert all(n - stone <= 0.05 * n for n, stone in enumerate(stones, start=1))
    assert len(set(stones)) < 120


def test_the_trials_to_learn_from_are_the_best_and_the_latest():
    costs = np.random.default_rng(0).random((100, 2))
    costs[7] = 0
    picks = telling(costs, 20)
    assert picks.tolist() == sorted(set(picks.tolist()))
    assert len(picks) == 20
    assert 7 in picks
    assert set(range(90, 100)) <= set(picks.tolist())
    assert telling(costs[:5], 20).tolist() == [0, 1, 2, 3, 4]


def test_the_region_of_interest_leaves_the_worst_quality_out_and_keeps_every_useful_cost():
    costs = np.array([[-0.9, 9.0], [-0.8, 5.0], [-0.7, 2.0], [-0.6, 1.0], [0.0, 30.0]])
    quality, latency = worst_of_interest(costs)
    assert -0.6 <= quality < 0.0
    assert 9.0 < latency < 10.0  # a tenth of the range more, or nothing dearer would ever be tried
