"""Weight pruning: the smallest weights set to zero, gradually while distilling; the shape stays.

Zeros make the file smaller once it is compressed, not the model faster: dense runtimes multiply them all the same.
"""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from compressors.base import Change, Report, Skip
from compressors.schedule import cubic
from search_spaces.dimensions import Choice
from search_spaces.errors import ConfigError
from search_spaces.space import Condition, Space

SCHEDULES = ("oneshot", "cubic")
EVERY = 10  # steps between two new masks
END = 0.7  # share of the training after which the sparsity is reached


class WeightPruning:
    """Global magnitude pruning of all Linear weights between the embeddings and the head.

    Source: Han et al. 2015, https://arxiv.org/abs/1506.02626; schedule of Zhu and Gupta 2017,
    https://arxiv.org/abs/1710.01878, eq. 1.
    """

    name: ClassVar[str] = "weight_pruning"
    stage: ClassVar[Literal["training"]] = "training"

    def __init__(self, sparsity: float = 0.0, schedule: str = "cubic") -> None:
        """Bind the knobs.

        Args:
            sparsity: Share of the weights that end as zeros, 0 up to but not 1; 0 = nothing happens.
            schedule: ``oneshot`` (all before the first step) or ``cubic``.

        Raises:
            ConfigError: A knob is out of its range.
        """
        if not (0 <= sparsity < 1):
            raise ConfigError(f"weight_pruning.sparsity: {sparsity} is out of range; 0 up to but not 1.")
        if schedule not in SCHEDULES:
            raise ConfigError(f"weight_pruning.schedule: {schedule!r}; one of {', '.join(SCHEDULES)}.")
        self.sparsity, self.schedule = sparsity, schedule
        self._student: nn.Module | None = None
        self._masks: dict[str, Tensor] = {}
        self._last = 1

    @classmethod
    def space(cls) -> Space:
        """Return the knobs."""
        return Space(
            {"sparsity": Choice((0.0, 0.3, 0.5, 0.7), ordered=True), "schedule": Choice(SCHEDULES)},
            {"schedule": Condition("sparsity", (0.3, 0.5, 0.7))},
        )

    def begin(self, student: nn.Module, n_steps: int) -> None:
        """Take the student in hand; with ``oneshot`` the zeros are set now."""
        self._student, self._masks = student, {}
        self._last = max(1, round(END * n_steps))
        if self.sparsity and self.schedule == "oneshot":
            self._mask(self.sparsity)

    def after_backward(self, step: int) -> None:
        """Do nothing: the magnitude needs no gradient."""

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> bool:
        """Renew the masks now and then, and keep what is masked at zero; no parameter is replaced."""
        done = step + 1
        is_due = done == self._last or (done < self._last and done % EVERY == 0)
        if self.sparsity and self.schedule == "cubic" and is_due:
            self._mask(self.sparsity * cubic(done / self._last))
        self._apply()
        return False

    def report(self) -> Report:
        """Return non-zeros before and after, Linear by Linear."""
        if self._student is None or not self.sparsity:
            return Report(self.name, skipped=(Skip("all Linear layers", f"sparsity is {self.sparsity:g}"),))
        weights = self._weights()
        changed = [Change(name, w.numel(), int(torch.count_nonzero(w))) for name, w in weights.items()]
        zeros = sum(int((w == 0).sum()) for w in weights.values())
        total = sum(w.numel() for w in weights.values())
        skipped = (Skip("embeddings, head, biases and LayerNorms", "few weights, or every one matters"),)
        return Report(self.name, tuple(changed), skipped, {"sparsity": zeros / total})

    def _weights(self) -> dict[str, Tensor]:
        """Return the weights that are pruned, by name."""
        assert self._student is not None, "begin() comes first"
        return {
            f"{name}.weight": module.weight
            for name, module in self._student.named_modules()
            if isinstance(module, nn.Linear) and name.startswith("layers.")
        }

    @torch.no_grad()
    def _mask(self, sparsity: float) -> None:
        """Choose anew which weights are zero: the smallest of all layers together."""
        weights = self._weights()
        sizes = torch.cat([weight.abs().flatten() for weight in weights.values()])
        count = min(math.floor(sparsity * len(sizes)), len(sizes) - 1)
        if count:
            threshold = sizes.kthvalue(count).values
            self._masks = {name: weight.abs() > threshold for name, weight in weights.items()}
        self._apply()

    @torch.no_grad()
    def _apply(self) -> None:
        """Set masked weights to zero; a mask of another shape belongs to a layer that was cut since, and goes."""
        for name, weight in self._weights().items():
            mask = self._masks.get(name)
            if mask is not None and mask.shape == weight.shape:
                weight.mul_(mask)
