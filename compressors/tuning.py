"""Which parameters of a student learn, and what holds them back: cheaper training that keeps more of what was there.

The student is as large and as fast as before. Knows parameters by their names and gradients; not losses, not the
training loop.
"""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from compressors.adapters import Adapter
from compressors.base import Change, Inner, Phase, Report, Skip
from compressors.penalties import Penalties, check_shape
from search_spaces.dimensions import Choice
from search_spaces.errors import ConfigError
from search_spaces.registry import unknown_name
from search_spaces.space import Condition, Space

MODES = ("full", "last_k", "bias", "lora")
TARGETS = ("query_value", "all")
HEAD = "head."


class Tuning(Inner):
    """Train everything, the last layers, the biases or low-rank adapters; and pull weights to 0 or to their start.

    The head always learns. What does not learn is left exactly as it was, weight decay included; what the training
    loop froze (embeddings) stays frozen. Adapters have an AdamW of their own, at the run's learning rate.

    Source: biases alone: Ben Zaken et al. 2022 (BitFit), https://arxiv.org/abs/2106.10199; adapters: see `Adapter`;
    penalties: see `Penalties`.
    """

    name: ClassVar[str] = "tuning"
    suits: ClassVar[str] = "trains the last layers, biases or LoRA adapters only, or holds weights near their start"
    phase: ClassVar[Phase] = "learning"

    def __init__(
        self,
        mode: str = "full",
        k: int = 1,
        rank: int = 8,
        targets: str = "query_value",
        l2: float = 0.0,
        l1: float = 0.0,
        l2_sp: float = 0.0,
    ) -> None:
        """Bind the knobs.

        Args:
            mode: ``full``, ``last_k`` (the last layers), ``bias`` or ``lora``; the head learns, too.
            k: Layers that learn with ``last_k``, at least 1; all where the student has fewer.
            rank: Of the adapters of ``lora``, at least 1.
            targets: Matrices with adapters: ``query_value``, or ``all`` matrices of all layers.
            l2: Weight of the squared distance to 0 of matrices that learn; 0 = none.
            l1: Weight of the absolute distance to 0 of matrices that learn; 0 = none.
            l2_sp: Weight of the squared distance to where this training began of all that learns; 0 = none.

        Raises:
            ConfigError: A knob is out of its range.
        """
        for knob, value, known in (("mode", mode, MODES), ("targets", targets, TARGETS)):
            if value not in known:
                raise unknown_name(f"tuning.{knob}", value, list(known))
        for knob, number in (("k", k), ("rank", rank)):
            if number < 1:
                raise ConfigError(f"tuning.{knob}: {number} is out of range; 1 or more.")
        self.penalties = Penalties(l2, l1, l2_sp)
        self.mode, self.k, self.rank, self.targets = mode, k, rank, targets
        self._student: nn.Module | None = None
        self._start: dict[str, Tensor] = {}
        self._adapters: dict[str, Adapter] = {}
        self._held: dict[str, Tensor] = {}
        self._optimizer: torch.optim.Optimizer | None = None
        self._report = Report(self.name, skipped=(Skip("parameters", "training has not begun"),))

    @classmethod
    def space(cls) -> Space:
        """Return the knobs; ``k``, ``rank`` and ``targets`` mean something in one mode each."""
        return Space(
            {
                "mode": Choice(MODES),
                "k": Choice((1, 2, 3), ordered=True),
                "rank": Choice((4, 8, 16), ordered=True),
                "targets": Choice(TARGETS),
                "l2": Choice((0.0, 1e-4, 1e-2), ordered=True),
                "l1": Choice((0.0, 1e-6, 1e-4), ordered=True),
                "l2_sp": Choice((0.0, 1e-3, 1e-1), ordered=True),
            },
            {
                "k": Condition("mode", ("last_k",)),
                "rank": Condition("mode", ("lora",)),
                "targets": Condition("mode", ("lora",)),
            },
        )

    def begin(self, student: nn.Module, n_steps: int) -> None:
        """Freeze what does not learn, and add the adapters.

        Raises:
            ConfigError: The student has nothing that the mode trains, or a rank is no lower than its matrix.
        """
        parameters = dict(student.named_parameters())
        frozen = {name for name, p in parameters.items() if not p.requires_grad}
        learning = {name for name in parameters if name not in frozen and self._learns(name, parameters)}
        if all(name.startswith(HEAD) for name in learning):
            raise ConfigError(
                f"tuning.mode: {self.mode!r} found nothing to train outside the head; the student has "
                f"{len(parameters)} parameters, first: {', '.join(list(parameters)[:3])}. Choose another mode."
            )
        adapted = [name for name in learning if self.mode == "lora" and not name.startswith(HEAD)]
        for name in adapted:
            _check_rank(name, parameters[name], self.rank)
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in learning)
        self._student, self._held = student, {}
        self._adapters = {name: Adapter.of(name, parameters[name], self.rank) for name in sorted(adapted)}
        self._start = {name: parameters[name].detach().clone() for name in learning} if self.penalties.l2_sp else {}
        self._optimizer = _optimizer(self._adapters)
        self._report = self._reported(parameters, frozen)

    def after_backward(self, step: int) -> None:
        """Add the penalties' gradients, and move those of adapted matrices to their adapters.

        Raises:
            StateError: A matrix changed its shape while it learned.
        """
        for name, parameter in self._learning():
            gradient = parameter.grad
            if gradient is None:
                continue
            if name in self._start:
                check_shape(name, parameter, self._start[name])
            self.penalties.add(parameter.detach(), self._start.get(name), gradient)
            if name in self._adapters:
                check_shape(name, parameter, self._adapters[name].frozen)
                self._adapters[name].pull_gradient(gradient)
                self._held[name] = gradient
                parameter.grad = None  # the run's optimiser leaves alone what has none

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> bool:
        """Let the adapters learn and carry them to the student's matrices; never replaces parameters."""
        if self._optimizer is None or self._student is None:
            return False
        for group in self._optimizer.param_groups:
            group["lr"] = optimizer.param_groups[0]["lr"]
        self._optimizer.step()
        parameters = dict(self._student.named_parameters())
        with torch.no_grad():
            for name, adapter in self._adapters.items():
                parameters[name].copy_(adapter.merged())
        for name, gradient in self._held.items():
            parameters[name].grad = gradient  # a place that the next gradient is written to
        self._held = {}
        return False

    def end(self) -> None:
        """Forget the adapters; what they learned is in the student's matrices."""
        self._adapters, self._start, self._optimizer, self._student = {}, {}, None, None

    def report(self) -> Report:
        """Return how many numbers of each parameter learn, of how many (``full`` changes nothing), and in all."""
        return self._report

    def _learns(self, name: str, parameters: dict[str, nn.Parameter]) -> bool:
        """Return whether the mode trains a parameter."""
        if self.mode == "full" or name.startswith(HEAD):
            return True
        if self.mode == "bias":
            return name.endswith(".bias")
        layer = _layer(name)
        if layer is None:
            return False
        if self.mode == "last_k":
            depth = 1 + max(index for index in map(_layer, parameters) if index is not None)
            return layer >= depth - self.k
        is_wanted = self.targets == "all" or bool({"query", "value"} & set(name.split(".")))
        return is_wanted and parameters[name].ndim == 2

    def _learning(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters that learn, by name: another compressor may have replaced them."""
        if self._student is not None:
            yield from ((name, p) for name, p in self._student.named_parameters() if p.requires_grad)

    def _reported(self, parameters: dict[str, nn.Parameter], frozen: set[str]) -> Report:
        """Return the report of a training run, whose numbers are known when it begins."""
        learned = {name: p.numel() for name, p in parameters.items() if p.requires_grad}
        learned |= {name: adapter.n_learned for name, adapter in self._adapters.items()}
        n_all = sum(parameter.numel() for parameter in parameters.values())
        figures = {"learned": float(sum(learned.values())), "parameters": float(n_all)}
        counts = [Change(name, parameters[name].numel(), n) for name, n in learned.items()]
        changed = [] if self.mode == "full" else counts
        skipped = [
            Skip(name, "the training run froze it" if name in frozen else f"mode is {self.mode}")
            for name in parameters
            if name not in learned
        ]
        return Report(self.name, tuple(changed), tuple(skipped), figures)


def _layer(name: str) -> int | None:
    """Return the index of the layer that a parameter belongs to."""
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "layers" and parts[1].isdigit() else None


def _optimizer(adapters: dict[str, Adapter]) -> torch.optim.Optimizer | None:
    """Return AdamW of all factors, without decay, for what they add begins at 0; None without adapters."""
    factors = [factor for adapter in adapters.values() for factor in (adapter.up, adapter.down)]
    return torch.optim.AdamW(factors, weight_decay=0.0, fused=True) if factors else None


def _check_rank(name: str, weight: Tensor, rank: int) -> None:
    """Refuse adapters that learn no fewer directions than their matrix has."""
    if rank >= min(weight.shape):
        raise ConfigError(
            f"tuning.rank: {rank} is not below the {min(weight.shape)} of {name}; choose a lower one or mode 'full'."
        )
