"""Weight pruning: single weights become zero while the student learns to do without them.

The matrices stay as large as they were: zeros compress well in a file, but ONNX Runtime's CPU kernels are no faster for
them. A weight that was pruned stays pruned. Knows modules; not losses.
"""

import math
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from compressors.base import Inner, Phase, Report, Skip
from compressors.criteria import movement, saliency
from compressors.masks import PATTERNS, SCOPES, Masks, Rule, below_start, check_knobs, zeros_first
from compressors.one_shot import apply_masks, pruning_report
from compressors.prunable import prunable
from compressors.rewinding import Start
from compressors.schedule import ROUNDS, cubic, stepwise
from search_spaces.dimensions import Choice
from search_spaces.errors import ConfigError
from search_spaces.registry import unknown_name
from search_spaces.space import Condition, Space

END = 0.7  # share of the steps after which the final sparsity is reached
MEMORY = 0.9  # of the moving average of |weight * gradient|
SCHEDULES: Mapping[str, tuple[int, Callable[[float], float]]] = {
    "cubic": (32, cubic),
    "iterative": (ROUNDS, stepwise),
    "oneshot": (1, stepwise),
}
"""Schedule -> updates of the masks on the way, and the share of the final sparsity after a share of the way."""
CRITERIA = ("magnitude", "first_order", "movement", "threshold")
BY_GRADIENT = ("first_order", "movement")


class WeightPruning(Inner):
    """Zero the least important weights on a schedule.

    Source: Zhu and Gupta 2017, https://arxiv.org/abs/1710.01878 (schedule); Sanh et al. 2020,
    https://arxiv.org/abs/2005.07683 (movement; unlike there, pruned weights do not come back); Han et al. 2015,
    https://arxiv.org/abs/1506.02626 (L1 and thresholds).
    """

    name: ClassVar[str] = "weight_pruning"
    suits: ClassVar[str] = "zeroes single weights while the student learns: smaller when zipped, not faster on CPUs"
    phase: ClassVar[Phase] = "weights"

    def __init__(
        self,
        sparsity: float = 0.0,
        schedule: str = "cubic",
        criterion: str = "magnitude",
        scope: str = "layer",
        pattern: str = "none",
        rewind: bool = False,
        l1: float = 0.0,
    ) -> None:
        """Bind the knobs.

        Args:
            sparsity: Share of zeros at the end, from 0 to below 1.
            schedule: ``cubic``, ``iterative`` (equal steps with training between them), or ``oneshot``: everything
                before the first step by magnitude, else where the other schedules end.
            criterion: ``magnitude``; ``first_order`` (|weight * gradient|, averaged over steps); ``movement``
                (-weight * gradient, summed over steps); ``threshold``: what is at or below the magnitude that holds
                the share ``sparsity`` at the start, so that ``l1`` decides how many weights go in the end. With a
                pattern, threshold is magnitude.
            scope: ``layer`` (every layer gets equally sparse) or ``global``.
            pattern: ``none``, ``2:4`` or ``4:8``; these two leave half of the weights zero.
            rewind: When pruning is complete, all weights return to where they started and learn on under the mask.
            l1: Weight of the sum of |weight| in the loss, until pruning is complete; clipped with the gradient.

        Raises:
            ConfigError: A knob is out of its range, or two do not go together.
        """
        self.rule = Rule(scope, pattern)
        check_knobs(self.name, sparsity, self.rule)
        for knob, value, known in (("schedule", schedule, list(SCHEDULES)), ("criterion", criterion, list(CRITERIA))):
            if value not in known:
                raise unknown_name(f"weight_pruning.{knob}", value, known)
        if not 0 <= l1 < math.inf:
            raise ConfigError(f"weight_pruning.l1: {l1} is out of range; 0 or more.")
        self.sparsity, self.schedule, self.criterion, self.rewind, self.l1 = sparsity, schedule, criterion, rewind, l1
        self._is_at_once = schedule == "oneshot" and criterion == "magnitude"
        self._student: nn.Module = nn.Module()
        self._last = 1  # the step that reaches the final sparsity, from 1
        self._share = 0.0  # of the weights that goes, by now
        self._n_done = 0  # steps
        self._masks: Masks = {}
        self._scores: dict[str, Tensor] = {}
        self._start: Start | None = None
        self._magnitudes: dict[str, Tensor] = {}  # at the start

    @classmethod
    def space(cls) -> Space:
        """Return the knobs; the others mean something only when anything is pruned."""
        some = Condition("sparsity", (0.3, 0.5, 0.7))
        return Space(
            {
                "sparsity": Choice((0.0, 0.3, 0.5, 0.7), ordered=True),
                "schedule": Choice(tuple(SCHEDULES)),
                "criterion": Choice(CRITERIA),
                "scope": Choice(SCOPES),
                "pattern": Choice(tuple(PATTERNS)),
                "rewind": Choice((False, True)),
                "l1": Choice((0.0, 1e-5, 1e-4), ordered=True),
            },
            {
                **dict.fromkeys(("schedule", "criterion", "scope", "l1"), some),
                "pattern": Condition("sparsity", (0.5,)),
                "rewind": Condition("schedule", ("cubic", "iterative")),
            },
        )

    @property
    def is_settled(self) -> bool:
        """Return whether the final sparsity is reached."""
        return not self.sparsity or self._is_at_once or self._n_done >= self._last

    def begin(self, student: nn.Module, n_steps: int) -> None:
        """Take the student in hand; ``oneshot`` by magnitude prunes it here.

        Raises:
            ConfigError: Nothing can be pruned, all of it is frozen, or the pattern does not divide a width.
        """
        self._student, self._masks, self._scores, self._share, self._n_done = student, {}, {}, 0.0, 0
        self._last = max(1, int(END * n_steps))
        if not self.sparsity:
            return
        self._start = Start(student) if self.rewind and not self._is_at_once else None
        if self.criterion == "threshold":
            self._magnitudes = {name: weight.detach().abs() for name, weight in self._weights().items()}
        if not self._weights():
            raise ConfigError(
                f"{self.name}: 0 weights are trained, which {self.criterion} needs. Unfreeze some layers."
            )
        self._find_masks(self.sparsity if self._is_at_once else 0.0)  # a width that does not fit is refused now
        apply_masks(self._weights(), self._masks)

    def after_backward(self, step: int) -> None:
        """Score the weights by their gradients, then add the gradient of the L1 norm."""
        if not self.sparsity or self._is_at_once or step >= self._last:
            return
        for name, weight in self._weights().items():
            gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
            if self.criterion in BY_GRADIENT:
                self._score(name, weight.detach(), gradient)
            if self.l1:
                gradient.add_(weight.detach().sign(), alpha=self.l1)

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> bool:
        """Keep pruned weights at zero, prune more when it is time, and rewind in the end; never replaces parameters.

        Raises:
            StateError: It is time to rewind, and the student was cut since the start.
        """
        self._n_done = step + 1
        if not self.sparsity:
            return False
        if self._is_due(step):
            self._find_masks(self.sparsity * SCHEDULES[self.schedule][1]((step + 1) / self._last))
        elif self._is_outdated():
            self._find_masks(self._share)
        if self._start is not None and step + 1 == self._last:
            self._start.restore(self._student, optimizer, "weight_pruning.rewind")
            self._start = None
        apply_masks(self._weights(), self._masks)
        return False

    def report(self) -> Report:
        """Return the non-zero weights of every matrix; figures hold the share of zeros in all matrices together."""
        if not self.sparsity or not self._masks:
            why = "sparsity is 0" if not self.sparsity else "training has not begun"
            return Report(self.name, skipped=(Skip("layers", why),))
        weights, skipped = prunable(self._student, self.name)
        why = f"is frozen: {self.criterion} has no gradient to go by"
        frozen = tuple(Skip(name, why) for name in weights if name not in self._masks)
        return pruning_report(self.name, {name: weights[name] for name in self._masks}, skipped + frozen)

    def _weights(self) -> dict[str, nn.Parameter]:
        """Return the weights to prune as they are now; frozen ones only where no gradient is needed."""
        weights, _ = prunable(self._student, self.name)
        if self.criterion not in BY_GRADIENT:
            return weights
        return {name: weight for name, weight in weights.items() if weight.requires_grad}

    def _score(self, name: str, weight: Tensor, gradient: Tensor) -> None:
        """Add one step to the scores of a weight; one that was cut meanwhile is scored anew."""
        is_sum = self.criterion == "movement"
        new = movement(weight, gradient) if is_sum else saliency(weight, gradient)
        old = self._scores.get(name)
        if old is not None and old.shape == new.shape:
            new = old + new if is_sum else MEMORY * old + (1 - MEMORY) * new
        self._scores[name] = new

    def _is_due(self, step: int) -> bool:
        """Return True at the steps that prune more, the last of them included."""
        n_updates = SCHEDULES[self.schedule][0]
        if self._is_at_once or step >= self._last:
            return False
        return n_updates * (step + 1) // self._last > n_updates * step // self._last

    def _is_outdated(self) -> bool:
        """Return True if another compressor cut a matrix since its mask was made."""
        weights = self._weights()
        return any(mask.shape != weights[name].shape for name, mask in self._masks.items())

    def _find_masks(self, share: float) -> None:
        """Find the weights that stay when a share goes."""
        self._share, weights = share, self._weights()
        scores = {name: weight.detach().abs() for name, weight in weights.items()}
        if self.criterion == "threshold" and self.rule.pattern == "none":
            self._masks = below_start(scores, self._magnitudes, share, self.rule.scope)
            return
        # the scores of a matrix that was cut at this very step do not fit it: magnitudes stand in for all
        if all(name in self._scores and self._scores[name].shape == w.shape for name, w in weights.items()):
            scores = self._scores
        self._masks = self.rule.find(zeros_first(scores, weights), share)
