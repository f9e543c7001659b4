"""What reinforcement-learning strategies share: a policy for every preference, learned batch by batch from results.

The policy is told which weights the costs have. A result is a lesson for every preference and not only for the one
it was drawn under (hindsight, Andrychowicz et al. 2017, https://arxiv.org/abs/1707.01495), so each batch is read
under several; since it was drawn from their mixture, it is weighted by the policy over the mixture. The best results
so far are imitated as well: Oh et al. 2018, Self-imitation learning, https://arxiv.org/abs/1806.05635. An entropy
bonus keeps the policy open: Pham et al. 2018, ENAS, https://arxiv.org/abs/1802.03268.

"Old" probabilities are those at the start of an update. A result that a slow worker returns late was drawn from an
older policy; it is treated as if drawn from the present one, so the lag is a bias that the small steps keep small.
The same results in the same order give the same policy on one kind of machine and number of torch threads.
"""

from abc import abstractmethod
from dataclasses import dataclass, field

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from nas.strategies.base import Strategy
from nas.strategies.controller import Controller
from nas.strategies.history import History, Observation
from nas.strategies.options import Options
from nas.strategies.reward import best, mnasnet, preferred, rewards
from search_spaces.seeding import rng_for
from search_spaces.space import Genes

TEMPERATURES = 1.2 ** np.arange(16)  # of draws made at once, 1 to 15; the first that is new is proposed, so that a
# settled policy leaves what it knows no further than it must
MEMORY_OF_BASELINE = 0.9  # share of the old baseline that an update keeps
LEAST_SPREAD = 0.05  # of rewards, a share of the results; less is noise and is not blown up


class PolicyOptions(Options):
    """Options that all learned policies have."""

    batch: int = Field(8, ge=1, description="results an update learns from; the first trials are random")
    learning_rate: float = Field(0.01, gt=0, description="of Adam")
    steps: int = Field(4, ge=1, description="gradient steps an update")
    entropy: float = Field(0.3, ge=0, description="weight of the entropy bonus at first; more means less greedy")
    entropy_decay: float = Field(0.98, gt=0, le=1, description="what is left of the bonus after an update")
    preferences: int = Field(8, ge=1, description="weightings of the costs that a result is read under")
    imitation: float = Field(1.0, ge=0, description="weight of imitating the best results so far")
    elites: int = Field(4, ge=1, description="results imitated for each preference")
    memory: int = Field(256, ge=8, description="best results that rewards are ranked among")
    width: int = Field(32, ge=1, description="of the policy's hidden state")
    target: float | None = Field(None, gt=0, description="soft target for the second objective, in its unit")
    exponent: float = Field(-0.07, le=0, description="how hard the target is; 0: not at all")


@dataclass
class Learner:
    """What a policy knows after some results.

    Attributes:
        n_read: Results learned from, in the order told.
        n_updates: Updates so far.
        baseline: Moving average of the rewards.
        memory: The best results.
    """

    controller: Controller
    optimizer: torch.optim.Adam
    n_read: int = 0
    n_updates: int = 0
    baseline: float = 0.5
    memory: list[Observation] = field(default_factory=list)


@dataclass(frozen=True)
class Batch:
    """What one update learns from: n pairs of a new result and a preference, and pairs to imitate.

    Attributes:
        rows: ``(n, n_genes)`` places of the new results.
        context: ``(n, n_context)`` preferences.
        advantages: ``(n,)`` rewards less the baseline, of unit spread.
        old: ``(n,)`` log-probabilities at the start of the update.
        mixture: ``(n,)`` those of the mixture over all preferences.
        elite_rows: ``(e, n_genes)`` places of the best results.
        elite_context: ``(e, n_context)`` the preferences they are best for.
    """

    rows: Tensor
    context: Tensor
    advantages: Tensor
    old: Tensor
    mixture: Tensor
    elite_rows: Tensor
    elite_context: Tensor


class PolicySearch(Strategy):
    """Draws from a policy that learns; a subclass says by which loss."""

    options_model = PolicyOptions
    _options: PolicyOptions

    @abstractmethod
    def policy_loss(self, log_p: Tensor, batch: Batch) -> Tensor:
        """Return what a gradient step makes smaller.

        Args:
            log_p: ``(n,)`` log-probabilities of the new results now.
            batch: What is learned from.
        """

    def propose(self, history: History, rng: np.random.Generator) -> Genes:
        """Return a candidate for a random preference, or a random one before the first update."""
        learner = self._learner(history)
        if learner.n_updates == 0:
            return self.space.sample(rng)
        wanted = _tensor(rng.dirichlet(np.ones(self._n_context(history)), 1)).expand(len(TEMPERATURES), -1)
        for row in learner.controller.sample(wanted, TEMPERATURES, rng):
            genes = learner.controller.decode(row, rng)
            if not history.is_known(self.space.key(genes)) and self.foreknowledge.accept(genes):
                break
        return genes

    def _n_context(self, history: History) -> int:
        """Return how many numbers a preference has; a target leaves nothing to prefer."""
        return 1 if self._options.target else history.n_costs

    def _learner(self, history: History) -> Learner:
        """Return what was learned from a history, after learning from what is new in it."""
        learner = history.keep(Learner, lambda: self._beginner(history))
        n = self._options.batch
        while len(history.told) >= learner.n_read + n:
            self._update(learner, history.told[learner.n_read : learner.n_read + n], self._n_context(history))
            learner.n_read += n
        return learner

    def _beginner(self, history: History) -> Learner:
        """Return a learner that has read nothing."""
        controller = Controller(self.space, self._n_context(history), self._options.width, self.seed)
        return Learner(controller, torch.optim.Adam(controller.parameters(), lr=self._options.learning_rate))

    def _update(self, learner: Learner, fresh: list[Observation], n_context: int) -> None:
        """Learn from a batch of results."""
        options = self._options
        results = [*learner.memory, *fresh]
        preferences = self._preferences(learner.n_updates, n_context)
        if options.target:
            scores = mnasnet(results, options.target, options.exponent)[None]
        else:
            scores = preferred(results, preferences)
        batch = self._batch(learner, results, rewards(results, scores), _tensor(preferences))
        self._descend(learner, batch)
        learner.memory = best(results, options.memory)
        learner.n_updates += 1

    def _preferences(self, n_updates: int, n: int) -> np.ndarray:
        """Return ``(k, n)`` weights that sum to 1, of this update."""
        k = self._options.preferences if n > 1 else 1
        return rng_for(self.seed, "preferences", n_updates).dirichlet(np.ones(n), k)

    def _batch(self, learner: Learner, results: list[Observation], gained: np.ndarray, wanted: Tensor) -> Batch:
        """Return what to learn when ``gained`` are the ``(k, n)`` rewards; the new results are the last ones."""
        controller, n = learner.controller, self._options.batch
        new, k = gained[:, -n:], len(wanted)
        advantages = (new - learner.baseline) / max(LEAST_SPREAD, float(new.std()))
        learner.baseline += (1 - MEMORY_OF_BASELINE) * (float(new.mean()) - learner.baseline)
        top = np.argsort(-gained, axis=1, kind="stable")[:, : self._options.elites]
        rows = controller.encode([seen.genes for seen in results[-n:]]).repeat(k, 1)
        context = wanted.repeat_interleave(n, 0)
        with torch.no_grad():
            old, _ = controller.evaluate(rows, context)
        mixture = (old.view(k, n).logsumexp(0) - np.log(k)).repeat(k)
        elite_rows = controller.encode([results[i].genes for i in top.flatten()])
        elite_context = wanted.repeat_interleave(top.shape[1], 0)
        return Batch(rows, context, _tensor(advantages).flatten(), old, mixture, elite_rows, elite_context)

    def _descend(self, learner: Learner, batch: Batch) -> None:
        """Take the gradient steps of an update."""
        options, n = self._options, len(batch.rows)
        bonus = options.entropy * options.entropy_decay**learner.n_updates
        rows = torch.cat([batch.rows, batch.elite_rows])
        context = torch.cat([batch.context, batch.elite_context])
        for _ in range(options.steps):
            log_p, entropy = learner.controller.evaluate(rows, context)
            loss = self.policy_loss(log_p[:n], batch) - options.imitation * log_p[n:].mean() - bonus * entropy.mean()
            learner.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(learner.controller.parameters(), 1.0)
            learner.optimizer.step()


def _tensor(values: np.ndarray) -> Tensor:
    """Return float32 numbers."""
    return torch.from_numpy(values).to(torch.float32)
