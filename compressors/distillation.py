"""The loss of distillation: labels, the teacher's softened outputs and, on request, its hidden states.

Knows logits and hidden states; not where the teacher's outputs were cached, not the training loop.
"""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressors.base import Phase, Report
from search_spaces.dimensions import Choice
from search_spaces.errors import ConfigError, StateError
from search_spaces.families.encoder_model import TextEncoder
from search_spaces.space import Space


class Distillation:
    """alpha * CE(labels) + (1 - alpha) * T^2 * KL(teacher || student) + hidden * MSE(hidden states).

    Everything the teacher says is cached; the hidden term compares first tokens only, the ones a classifier reads, so
    that the cache stays small.

    Source: Hinton et al. 2015, https://arxiv.org/abs/1503.02531, sec. 2; hidden states of the first token: Sun et al.
    2019 (Patient KD), https://arxiv.org/abs/1908.09355, sec. 3.2; one projection shared by all layers: Xia et al. 2022
    (CoFi), https://arxiv.org/abs/2204.00408, sec. 3.2.
    """

    name: ClassVar[str] = "distillation"
    suits: ClassVar[str] = "learns from labels and the teacher's outputs and hidden states: lets a small model keep up"
    stage: ClassVar[Literal["loss"]] = "loss"
    phase: ClassVar[Phase] = "learning"

    def __init__(self, alpha: float = 0.1, temperature: float = 2.0, hidden: float = 0.0) -> None:
        """Bind the knobs.

        Args:
            alpha: Weight of the labels, 0..1; 1 = no teacher.
            temperature: Divides all logits before the softmax; above 0.
            hidden: Weight of the hidden-state term; 0 = none.

        Raises:
            ConfigError: A knob is out of its range.
        """
        if not 0 <= alpha <= 1:
            raise ConfigError(f"distillation.alpha: {alpha} is out of range; 0 to 1.")
        if not (temperature > 0 and math.isfinite(temperature)):
            raise ConfigError(f"distillation.temperature: {temperature} is out of range; above 0.")
        if not (hidden >= 0 and math.isfinite(hidden)):
            raise ConfigError(f"distillation.hidden: {hidden} is out of range; 0 or more.")
        self.alpha, self.temperature, self.hidden = alpha, temperature, hidden
        self._projection: nn.Linear | None = None

    @classmethod
    def space(cls) -> Space:
        """Return the knobs."""
        return Space(
            {
                "alpha": Choice((0.1, 0.5, 0.9), ordered=True),
                "temperature": Choice((1.0, 2.0, 4.0), ordered=True),
                "hidden": Choice((0.0, 0.1, 1.0), ordered=True),
            }
        )

    def loss(self, student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor) -> Tensor:
        """Return the mean loss of a batch, without the hidden-state term.

        Args:
            student_logits: ``(rows, labels)`` float32.
            teacher_logits: The same shape; None = labels only, whatever alpha is.
            labels: ``(rows,)`` int64.
        """
        if teacher_logits is None or self.alpha == 1:
            return F.cross_entropy(student_logits, labels)
        soft = F.log_softmax(student_logits / self.temperature, dim=-1)
        target = F.log_softmax(teacher_logits / self.temperature, dim=-1)
        imitation = self.temperature**2 * F.kl_div(soft, target, reduction="batchmean", log_target=True)
        if self.alpha == 0:
            return imitation
        return self.alpha * F.cross_entropy(student_logits, labels) + (1 - self.alpha) * imitation

    def begin(self, student: TextEncoder, teacher_width: int | None = None) -> list[nn.Parameter]:
        """Return the parameters that are trained along with the student: the projection of its hidden states, if any.

        Args:
            student: Gives the width to project from.
            teacher_width: Hidden width of the teacher; None when its states are not known.

        Raises:
            StateError: ``hidden`` is above 0 and the teacher's states are not known.
        """
        if self.hidden == 0:
            return []
        if teacher_width is None:
            raise StateError(f"distillation.hidden: {self.hidden} needs the teacher's hidden states; 0 needs none.")
        self._projection = nn.Linear(student.config.hidden, teacher_width, bias=False)
        nn.init.eye_(self._projection.weight)
        self._projection.to(student.head.out.weight.device)
        return list(self._projection.parameters())

    def hidden_loss(self, student_states: tuple[Tensor, ...], teacher_states: Tensor) -> Tensor:
        """Return the weighted mean squared distance of the first tokens' states to the teacher's.

        Student layer i of n is compared with teacher layer round(i * m / n) of m (Jiao et al. 2020, TinyBERT,
        https://arxiv.org/abs/1909.10351, sec. 3.1: uniform layer mapping).

        Args:
            student_states: ``n + 1`` tensors ``(rows, tokens, hidden)`` of any float type, the embeddings' first.
            teacher_states: ``(rows, m, teacher's hidden)`` float32, first tokens after each layer.

        Raises:
            StateError: `begin` was not called.
        """
        if self._projection is None:
            raise StateError(f"distillation.hidden: {self.hidden} needs begin() before hidden_loss(); call it first.")
        n, m = len(student_states) - 1, teacher_states.shape[1]
        first = torch.stack([state[:, 0].float() for state in student_states[1:]], dim=1)
        partners = torch.tensor([round(i * m / n) - 1 for i in range(1, n + 1)], device=teacher_states.device)
        return self.hidden * F.mse_loss(self._projection(first), teacher_states[:, partners])

    def report(self) -> Report:
        """Return the weights of the terms; a loss changes no model."""
        figures = {"alpha": self.alpha, "temperature": self.temperature, "hidden": self.hidden}
        return Report(self.name, figures=figures)
