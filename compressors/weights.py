"""Weight pruning: the smallest weights of every layer become zero while the student learns to do without them.

The matrices stay as large as they were: zeros compress well in a file, but ONNX Runtime's CPU kernels are no faster for
them. Knows modules; not losses.
"""

from collections import defaultdict
from typing import ClassVar

import torch
from torch import Tensor, nn

from compressors.base import Change, Inner, Phase, Report, Skip
from compressors.schedule import cubic
from search_spaces.dimensions import Choice
from search_spaces.errors import ConfigError
from search_spaces.space import Condition, Space

END = 0.7  # share of the steps after which the final sparsity is reached
UPDATES = 32  # of the masks on the way


class WeightPruning(Inner):
    """Zero the smallest weights; all matrices of one layer share a threshold, so every layer gets equally sparse.

    Source: Zhu and Gupta 2017, https://arxiv.org/abs/1710.01878.
    """

    name: ClassVar[str] = "weight_pruning"
    suits: ClassVar[str] = "zeroes single weights while the student learns: smaller when zipped, not faster on CPUs"
    phase: ClassVar[Phase] = "weights"

    def __init__(self, sparsity: float = 0.0, schedule: str = "cubic") -> None:
        """Bind the knobs.

        Args:
            sparsity: Share of zeros in every layer at the end, from 0 to below 1.
            schedule: ``cubic``, or ``oneshot``: everything before the first step.

        Raises:
            ConfigError: A knob is out of its range.
        """
        if not 0 <= sparsity < 1:
            raise ConfigError(f"weight_pruning.sparsity: {sparsity} is out of range; 0 to below 1.")
        if schedule not in ("cubic", "oneshot"):
            raise ConfigError(f"weight_pruning.schedule: {schedule!r} is unknown; known: cubic, oneshot.")
        self.sparsity, self.schedule = sparsity, schedule
        self._student: nn.Module = nn.Module()
        self._last = 1  # the step that reaches the final sparsity, from 1
        self._masks: dict[str, Tensor] = {}

    @classmethod
    def space(cls) -> Space:
        """Return the knobs; ``schedule`` means something only when anything is pruned."""
        return Space(
            {"sparsity": Choice((0.0, 0.3, 0.5, 0.7), ordered=True), "schedule": Choice(("cubic", "oneshot"))},
            {"schedule": Condition("sparsity", (0.3, 0.5, 0.7))},
        )

    def begin(self, student: nn.Module, n_steps: int) -> None:
        """Take the student in hand; ``oneshot`` prunes it here."""
        self._student, self._masks = student, {}
        self._last = max(1, int(END * n_steps))
        if self.sparsity and self.schedule == "oneshot":
            self._find_masks(self.sparsity)
            self._apply()

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> bool:
        """Keep pruned weights at zero, and prune more when it is time; never replaces parameters."""
        if not self.sparsity:
            return False
        if self._is_due(step) or self._is_outdated():
            progress = 1.0 if self.schedule == "oneshot" else (step + 1) / self._last
            self._find_masks(self.sparsity * cubic(progress))
        self._apply()
        return False

    def report(self) -> Report:
        """Return the non-zero weights of every matrix; figures hold the share of zeros in all matrices together."""
        matrices = [(name, weight) for group in _layers(self._student).values() for name, weight in group]
        if not self.sparsity or not matrices:
            why = "sparsity is 0" if not self.sparsity else "training has not begun"
            return Report(self.name, skipped=(Skip("layers", why),))
        left = {name: int(weight.count_nonzero()) for name, weight in matrices}
        changed = tuple(Change(name, weight.numel(), left[name]) for name, weight in matrices)
        skipped = tuple(
            Skip(name, "not a matrix of a layer")
            for name, parameter in self._student.named_parameters()
            if name not in left and parameter.ndim > 1
        )
        n = sum(weight.numel() for _, weight in matrices)
        return Report(self.name, changed, skipped, {"sparsity": 1 - sum(left.values()) / n})

    def _is_due(self, step: int) -> bool:
        """Return True at the steps that prune more, the last of them included."""
        every = max(1, self._last // UPDATES)
        is_on_the_way = step + 1 < self._last and (step + 1) % every == 0
        return self.schedule == "cubic" and (is_on_the_way or step + 1 == self._last)

    def _is_outdated(self) -> bool:
        """Return True if another compressor cut a matrix since its mask was made."""
        weights = dict(self._student.named_parameters())
        return any(mask.shape != weights[name].shape for name, mask in self._masks.items())

    def _find_masks(self, sparsity: float) -> None:
        """Find the weights that stay, layer by layer."""
        for matrices in _layers(self._student).values():
            magnitudes = torch.cat([weight.detach().abs().flatten() for _, weight in matrices])
            n_pruned = round(sparsity * len(magnitudes))
            threshold = magnitudes.kthvalue(n_pruned).values if n_pruned else -1.0
            for name, weight in matrices:
                self._masks[name] = weight.detach().abs() > threshold

    def _apply(self) -> None:
        """Set pruned weights to zero."""
        weights = dict(self._student.named_parameters())
        with torch.no_grad():
            for name, mask in self._masks.items():
                weights[name].mul_(mask)


def _layers(student: nn.Module) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """Return the matrices of every layer by the layer's name; tables and the head are no layers."""
    groups: dict[str, list[tuple[str, nn.Parameter]]] = defaultdict(list)
    for name, parameter in student.named_parameters():
        if name.startswith("layers.") and parameter.ndim > 1:
            groups[".".join(name.split(".")[:2])].append((name, parameter))
    return groups
