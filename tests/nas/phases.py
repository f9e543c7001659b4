"""A search whose students are known by formula, so that its phases run in milliseconds without training."""

from collections import deque
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from nas.bundle import Bundle
from nas.candidates import Candidates
from nas.design import design
from nas.executor import Failure, Kind, Outcome, Task
from nas.knowledge import Profile
from nas.latency import LatencyPredictor
from nas.recipe import Recipe
from search_spaces.families.encoder_model import EncoderConfig
from search_spaces.space import Genes

N_TOKENS = 8
TEACHER = EncoderConfig(
    "bert", 94, 64, 2, 32, 32, 0, 8, (4, 4, 4), (64, 64, 64), "gelu", "tanh", 1e-12, 0.1, 0, 0, ("no", "yes")
)


def candidates(**sections: Any) -> Candidates:
    return Candidates(Recipe.model_validate(sections), TEACHER)


def latency_ms(made: Candidates, genes: Genes) -> float:
    """A device that does 10 million multiplications a second, in int8 twice as many."""
    return made.known(genes, N_TOKENS).macs / 1e7 * (1.0 if made.variant(genes) == "fp32" else 0.5)


@cache
def known(made: Candidates, milliseconds: Callable[[Candidates, Genes], float] = latency_ms) -> Profile:
    """What a profile of that device finds, or of another one."""
    shapes = [genes for shape in design(made, 16, 0) for genes in made.variants(shape)]
    facts, variants = [made.known(genes, N_TOKENS) for genes in shapes], [made.variant(genes) for genes in shapes]
    times, sizes = (
        np.array([milliseconds(made, genes) for genes in shapes]),
        np.array([4.0 * f.parameters for f in facts]),
    )
    latency, size = LatencyPredictor(), LatencyPredictor()
    latency.fit([f.features for f in facts], times, variants)
    size.fit([{"parameters": f.parameters} for f in facts], sizes, variants)
    teacher = {"accuracy": 0.9, "latency_ms": float(times.max()), "size_bytes": float(sizes.max())}
    return Profile(made, N_TOKENS, latency, size, teacher, float(times.min()), {})


class Formula:
    """An executor that ends the oldest task with what a function says of it."""

    def __init__(self, result: Callable[[Task], dict[str, Any] | Failure], slots: int = 1) -> None:
        self.result, self.n_slots, self.queue = result, slots, deque[Task]()
        self.seen: list[Task] = []

    def connect(self, wait: bool = True) -> None: ...

    def start(self, bundle: Bundle) -> None: ...

    def slots(self, kind: Kind) -> int:
        return self.n_slots

    def submit(self, task: Task) -> None:
        self.seen.append(task)
        self.queue.append(task)

    def wait(self, timeout_s: float) -> list[Outcome]:
        if not self.queue:
            return []
        task = self.queue.popleft()
        found = self.result(task)
        failed = isinstance(found, Failure)
        return [Outcome(task.uid, None if failed else found, found if failed else None)]

    def close(self) -> None:
        self.queue.clear()
