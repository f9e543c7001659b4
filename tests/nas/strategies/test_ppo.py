import math

import numpy as np
import pytest
import torch

from nas.pareto import hypervolume
from nas.record import Record
from nas.strategies import make_sampler
from nas.strategies.policy import Batch
from nas.strategies.ppo import Ppo
from search_spaces.dimensions import Choice
from search_spaces.space import Condition, Space

SPACE = Space(
    {
        **{f"keep_{i}": Choice((False, True)) for i in range(8)},
        **{f"ffn_{i}": Choice((1, 2, 4, 8), ordered=True) for i in range(8)},
    },
    {f"ffn_{i}": Condition(f"keep_{i}", (True,)) for i in range(8)},
)


def gradient(ratio: float, advantage: float, weight: float = 1.0) -> float:
    """Of the loss by the log-probability of one pair whose probability has changed by a ratio."""
    log_p = torch.tensor([math.log(0.1 * ratio)], dtype=torch.float64, requires_grad=True)
    old, none = torch.tensor([math.log(0.1)], dtype=torch.float64), torch.empty(0)
    drawn_from = old - math.log(weight)
    pair = Batch(none, none, torch.tensor([advantage], dtype=torch.float64), old, drawn_from, none, none)
    Ppo(SPACE, 0, clip=0.2).policy_loss(log_p, pair).backward()
    return float(log_p.grad[0])


@pytest.mark.parametrize(
    ("ratio", "advantage", "is_clipped"),
    [
        (1.0, 2.0, False),
        (1.19, 2.0, False),
        (1.21, 2.0, True),  # it went far enough in the right direction
        (0.5, 2.0, False),  # it went in the wrong one and must come back
        (0.81, -2.0, False),
        (0.79, -2.0, True),
        (1.5, -2.0, False),
    ],
)
def test_the_gradient_is_zero_exactly_where_the_surrogate_is_clipped(ratio, advantage, is_clipped):
    assert gradient(ratio, advantage) == pytest.approx(0.0 if is_clipped else -ratio * advantage)
    assert gradient(ratio, advantage, weight=3.0) == pytest.approx(0.0 if is_clipped else -3 * ratio * advantage)


def score(genes: dict) -> list[float]:
    """A quality that saturates, early layers counting more, and a cost."""
    widths = [genes[f"ffn_{i}"] if genes[f"keep_{i}"] else 0 for i in range(8)]
    quality = sum(math.log1p(width) / (1 + i) for i, width in enumerate(widths))
    return [quality, 1.0 + sum(widths)]


@pytest.mark.parametrize("name", ["ppo", "reinforce"])
def test_it_finds_a_larger_front_than_random_search(name):
    def volume(strategy: str, seed: int) -> float:
        sampler = make_sampler(strategy, SPACE, seed)
        record = Record.open(None, "run", ["maximize", "minimize"], sampler, ["accuracy", "latency"])
        for _ in range(120):
            trial = record.ask(SPACE.distributions())
            record.tell(trial.number, score(trial.params))
        return hypervolume(np.array([[-t.values[0], t.values[1]] for t in record.trials()]), np.array([0.0, 65.0]))

    assert volume(name, 0) > max(volume("random", seed) for seed in range(3))


@pytest.mark.parametrize("name", ["ppo", "reinforce"])
def test_constraints_pull_the_search_into_the_feasible_region(name):
    sampler = make_sampler(name, SPACE, 0)
    record = Record.open(None, "run", ["maximize", "minimize"], sampler, ["accuracy", "latency"])
    for _ in range(96):
        trial = record.ask(SPACE.distributions())
        values = score(trial.params)
        record.tell(trial.number, values, constraints={"latency": values[1] / 8 - 1})
    feasible = [max(trial.constraints.values()) <= 0 for trial in record.trials()]
    assert np.mean(feasible[:16]) < 0.3
    assert np.mean(feasible[-40:]) > 0.5
