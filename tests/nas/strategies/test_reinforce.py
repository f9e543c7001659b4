from itertools import pairwise

import numpy as np
import pytest
import torch

from nas.record import Record
from nas.strategies import make_sampler
from nas.strategies.history import History, Observation
from nas.strategies.policy import Batch
from nas.strategies.reinforce import Reinforce
from search_spaces.dimensions import Choice, Float
from search_spaces.errors import ConfigError
from search_spaces.seeding import rng_for
from search_spaces.space import Condition, Space

BANDIT = Space({f"arm_{i}": Choice(tuple("abcd")) for i in range(8)})  # 65,536 candidates
LEARNERS = ["reinforce", "ppo"]


def hits(genes: dict) -> int:
    """How many genes are right; which value is right depends on the gene before."""
    values = ["a", *genes.values()]
    return sum((ord(a) + ord(b)) % 4 == 0 for a, b in pairwise(values))


def batch(log_p: torch.Tensor, advantages: list[float], mixture: torch.Tensor | None = None) -> Batch:
    none = torch.empty(0)
    old = log_p.detach()
    return Batch(none, none, torch.tensor(advantages).to(old), old, old if mixture is None else mixture, none, none)


def search(name: str, n: int, seed: int = 0, **options: object) -> Record:
    record = Record.open(None, "run", ["maximize"], make_sampler(name, BANDIT, seed, options), ["accuracy"])
    for _ in range(n):
        trial = record.ask(BANDIT.distributions())
        record.tell(trial.number, [float(hits(trial.params))])
    return record


def test_the_gradient_is_that_of_the_expected_reward_by_finite_differences():
    logits = torch.tensor([0.3, -0.5, 1.1], dtype=torch.float64, requires_grad=True)
    gain = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    log_p = logits.log_softmax(0)
    # each arm is "drawn" once and weighted by its probability: 3 x the mean loss is -E[gain]
    every_arm = batch(log_p, gain.tolist(), mixture=torch.zeros(3, dtype=torch.float64))
    (3 * Reinforce(BANDIT, 0).policy_loss(log_p, every_arm)).backward()
    step = 1e-6
    for arm in range(3):
        there, back = (logits.detach() + sign * step * torch.eye(3, dtype=torch.float64)[arm] for sign in (1, -1))
        slope = ((there.softmax(0) - back.softmax(0)) @ gain).item() / (2 * step)
        assert -logits.grad[arm].item() == pytest.approx(slope, abs=1e-8)


def test_importance_weights_are_truncated():
    log_p = torch.tensor([-1.0, -1.0], requires_grad=True)
    drawn_from = torch.tensor([-5.0, -1.0])
    Reinforce(BANDIT, 0, ceiling=2.0).policy_loss(log_p, batch(log_p, [1.0, 1.0], drawn_from)).backward()
    assert log_p.grad.tolist() == pytest.approx([-2.0 / 2, -1.0 / 2])


@pytest.mark.parametrize("name", LEARNERS)
def test_it_learns_a_bandit_whose_arms_depend_on_each_other_far_better_than_random(name):
    drawn = [hits(trial.params) for trial in search("random", 160).trials()]
    learned = [hits(trial.params) for trial in search(name, 160).trials()]
    assert np.mean(learned[-40:]) > np.mean(drawn) + 4 * np.std(drawn) / 40**0.5 + 1
    assert max(learned) > max(drawn)


@pytest.mark.parametrize("name", LEARNERS)
def test_it_learns_without_imitation_and_without_rewards_it_does_not(name):
    options = {"imitation": 0.0, "entropy": 0.02, "learning_rate": 0.02}
    learned = [hits(trial.params) for trial in search(name, 160, **options).trials()]
    assert np.mean(learned[-40:]) > np.mean(learned[:40]) + 0.7
    sampler = make_sampler(name, BANDIT, 0, options)
    record = Record.open(None, "run", ["maximize"], sampler, ["accuracy"])
    for _ in range(100):
        record.tell(record.ask(BANDIT.distributions()).number, [1.0])
    same = [hits(trial.params) for trial in record.trials()]
    assert abs(np.mean(same[-40:]) - np.mean(same[:40])) < 0.7


@pytest.mark.parametrize("name", LEARNERS)
def test_what_it_learned_is_a_fold_of_the_results_in_the_order_told(name):
    strategy, whole, grown = make_sampler(name, BANDIT, 0), History(BANDIT), History(BANDIT)
    for number in np.random.default_rng(0).permutation(37):
        genes = BANDIT.sample(rng_for(0, "genes", int(number)))
        costs = None if number % 7 == 0 else np.array([-float(hits(genes))])
        whole.told.append(Observation(int(number), genes, costs, float(number % 5 == 0)))
    for end in (3, 9, 10, 30, 37):
        grown.told[:] = whole.told[:end]
        strategy.propose(grown, rng_for(0, "ask", end))
    grown_weights, whole_weights = (strategy._learner(h).controller.state_dict() for h in (grown, whole))
    assert strategy._learner(whole).n_updates == 4
    assert all(torch.equal(grown_weights[key], whole_weights[key]) for key in grown_weights)
    assert strategy.propose(grown, rng_for(0, "next")) == strategy.propose(whole, rng_for(0, "next"))


@pytest.mark.parametrize("name", LEARNERS)
def test_results_that_come_out_of_order_are_learned_from_as_they_come(name):
    sampler = make_sampler(name, BANDIT, 0, {"batch": 3})
    record = Record.open(None, "run", ["maximize"], sampler, ["accuracy"])
    trials = [record.ask(BANDIT.distributions()) for _ in range(10)]
    for number in (7, 2, 9, 4):
        record.tell(number, [float(hits(trials[number].params))])
    record.ask(BANDIT.distributions())
    learner = sampler._learner(sampler._histories[record.study])
    assert [seen.number for seen in learner.memory] == [7, 2, 9]


@pytest.mark.parametrize("name", LEARNERS)
def test_a_settled_policy_still_finds_something_new(name):
    sampler = make_sampler(name, BANDIT, 0, {"entropy": 0.0, "learning_rate": 0.1, "steps": 20})
    history = History(BANDIT)
    genes = dict.fromkeys(BANDIT.names, "b")
    history.told += [Observation(i, genes, np.array([0.0]), 0.0) for i in range(80)]
    history.keys.add(BANDIT.key(genes))
    learner = sampler._learner(history)
    row = learner.controller.encode([genes])
    assert learner.controller.evaluate(row, torch.ones(1, 1))[0].exp().item() > 0.8
    found = [sampler.propose(history, np.random.default_rng(i)) for i in range(20)]
    near = [sum(new[gene] == "b" for gene in BANDIT.names) for new in found]
    assert np.mean([new == genes for new in found]) < 0.5
    assert np.mean(near) > 4  # and not by drawing at random, which keeps 2


@pytest.mark.parametrize("name", LEARNERS)
def test_a_soft_target_draws_the_search_to_it(name):
    space = Space(
        {"width": Choice(tuple(range(1, 33)), ordered=True), "deep": Choice((False, True)), "rate": Float(0.01, 1.0)},
        {"rate": Condition("deep", (True,))},
    )
    options = {"target": 6.0, "exponent": -1.0}
    record = Record.open(
        None, "run", ["maximize", "minimize"], make_sampler(name, space, 0, options), ["accuracy", "latency"]
    )
    for _ in range(120):
        trial = record.ask(space.distributions())
        width = float(trial.params["width"])
        record.tell(trial.number, [min(width, 6.0) ** 2, width])  # the score rises up to 6 and falls after
    widths = [trial.params["width"] for trial in record.trials()]
    assert np.mean(np.abs(np.array(widths[-40:]) - 6)) < 0.5 * np.mean(np.abs(np.array(widths[:8]) - 6))


def test_a_target_in_a_study_with_one_objective_is_one_line():
    sampler = make_sampler("reinforce", BANDIT, 0, {"target": 3.0, "batch": 2})
    record = Record.open(None, "run", ["maximize"], sampler, ["accuracy"])
    for _ in range(2):
        record.tell(record.ask(BANDIT.distributions()).number, [1.0])
    with pytest.raises(ConfigError, match=r"search\.options\.target: trial 0 has the costs .*two are allowed"):
        record.ask(BANDIT.distributions())
