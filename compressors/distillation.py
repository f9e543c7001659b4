"""The loss of distillation: labels, the teacher's softened outputs and, on request, what happens inside it.

Knows how the terms are weighted and what they need; not their formulas (`terms`), not where the teacher's outputs were
cached, not the training loop.
"""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressors.answers import NOTHING, Answers, Need
from compressors.base import Phase, Report
from compressors.layer_map import LAYER_MAPS, spread
from compressors.live_terms import LIVE_TERMS, LiveTerms
from compressors.terms import MASKED
from search_spaces.dimensions import Choice
from search_spaces.errors import ConfigError, ShapeError, StateError
from search_spaces.families.encoder_model import TextEncoder
from search_spaces.registry import unknown_name
from search_spaces.space import Condition, Space


class Distillation:
    """alpha * CE(labels) + (1 - alpha) * T^2 * KL(teacher || student) + the weighted terms of `compressors.terms`.

    Labels, logits and ``hidden`` use cached answers of the teacher alone; ``hidden`` compares first tokens only, the
    ones a classifier reads, so that the cache stays small. All other terms need the teacher itself to run on every
    batch. Training without labels is ``alpha=0``.

    Source: Hinton et al. 2015, https://arxiv.org/abs/1503.02531, sec. 2; hidden states of the first token: Sun et al.
    2019 (Patient KD), https://arxiv.org/abs/1908.09355, sec. 3.2; one projection shared by all layers: Xia et al. 2022
    (CoFi), https://arxiv.org/abs/2204.00408, sec. 3.2.
    """

    name: ClassVar[str] = "distillation"
    suits: ClassVar[str] = "learns from labels and the teacher's outputs and hidden states: lets a small model keep up"
    stage: ClassVar[Literal["loss"]] = "loss"
    phase: ClassVar[Phase] = "learning"

    def __init__(
        self,
        alpha: float = 0.1,
        temperature: float = 2.0,
        hidden: float = 0.0,
        live: bool = False,
        layer_map: str = "skip",
        tokens: float = 0.0,
        attention: float = 0.0,
        relation: float = 0.0,
        cosine: float = 0.0,
        similarity: float = 0.0,
        embedding: float = 0.0,
        contrastive: float = 0.0,
    ) -> None:
        """Bind the knobs; every weight is 0 for no such term.

        Args:
            alpha: Weight of the labels, 0..1; 1 = no teacher's outputs, 0 = no labels.
            temperature: Divides all logits before the softmax; above 0.
            hidden: Weight of the hidden states of the first token, all layers.
            live: Whether the teacher may run on every batch, which the terms below need and which is slower.
            layer_map: Of ``tokens`` and ``attention``: ``skip``, ``last`` (see `fixed_pairs`) or ``dynamic``, found
                anew for every batch (see `closest_layers`).
            tokens: Weight of the hidden states of all tokens.
            attention: Weight of the attention scores.
            relation: Weight of the relations of queries to keys and of values to values, last layer.
            cosine: Weight of the direction of the hidden states, last layer.
            similarity: Weight of the likeness of the batch's rows, by their first tokens after the last layer.
            embedding: Weight of the embeddings of all tokens, which learn then.
            contrastive: Weight of telling the batch's rows apart, by their first tokens after the last layer.

        Raises:
            ConfigError: A knob is out of its range, or needs the live teacher and ``live`` is False.
        """
        if not 0 <= alpha <= 1:
            raise ConfigError(f"distillation.alpha: {alpha} is out of range; 0 to 1.")
        if not (temperature > 0 and math.isfinite(temperature)):
            raise ConfigError(f"distillation.temperature: {temperature} is out of range; above 0.")
        if layer_map not in LAYER_MAPS:
            raise unknown_name(f"{self.name}.layer_map", layer_map, list(LAYER_MAPS))
        live_weights = (tokens, attention, relation, cosine, similarity, embedding, contrastive)
        weights = dict(zip(LIVE_TERMS, live_weights, strict=True))
        for name, weight in {"hidden": hidden, **weights}.items():
            if not (weight >= 0 and math.isfinite(weight)):
                raise ConfigError(f"distillation.{name}: {weight} is out of range; 0 or more.")
        self._live = LiveTerms(weights, layer_map)
        if self._live.wanted and not live:
            name = self._live.wanted[0]
            raise ConfigError(
                f"distillation.{name}: {weights[name]} needs the teacher to run on every batch; 0 does not. "
                "Set distillation.live to true, which trains slower."
            )
        self.alpha, self.temperature, self.hidden = alpha, temperature, hidden
        self.needs = Need.STATES | Need.CACHE if hidden else NOTHING
        self.needs |= Need.STATES | Need.LIVE if self._live.wanted else NOTHING
        self.needs |= Need.EMBEDDINGS if embedding else NOTHING
        self._projection: nn.Linear | None = None

    @classmethod
    def space(cls) -> Space:
        """Return the knobs; those that need the teacher to run mean something only where it may."""
        weights = {name: Choice((0.0, 0.1, 1.0), ordered=True) for name in LIVE_TERMS}
        return Space(
            {
                "alpha": Choice((0.1, 0.5, 0.9), ordered=True),
                "temperature": Choice((1.0, 2.0, 4.0), ordered=True),
                "hidden": Choice((0.0, 0.1, 1.0), ordered=True),
                "live": Choice((False, True)),
                "layer_map": Choice(LAYER_MAPS),
                **weights,
            },
            {name: Condition("live", (True,)) for name in ("layer_map", *LIVE_TERMS)},
        )

    def begin(
        self, student: TextEncoder, teacher_width: int | None = None, live: TextEncoder | None = None
    ) -> list[nn.Parameter]:
        """Return the parameters that are trained along with the student: the projection of its hidden states, if any.

        Args:
            student: Gives the width to project from.
            teacher_width: Hidden width of the teacher's cached states; None when there are none.
            live: The teacher that will run on every batch, if any.

        Raises:
            StateError: A weight is above 0 and what its term needs of the teacher is not there.
            ShapeError: The live teacher is needed and knows other words than the student.
        """
        self._check_teacher(student, teacher_width, live)
        width = teacher_width if live is None else live.config.hidden
        if Need.STATES not in self.needs or width is None:
            return []
        self._projection = nn.Linear(student.config.hidden, width, bias=False)
        nn.init.eye_(self._projection.weight)
        self._projection.to(student.head.out.weight.device)
        return list(self._projection.parameters())

    def total(self, student: Answers, teacher: Answers, labels: Tensor, mask: Tensor) -> Tensor:
        """Return the mean loss of a batch, all terms included.

        Args:
            student: With hidden states where `needs` has ``STATES``.
            teacher: With cached states where `needs` has ``CACHE``, with all states where it has ``LIVE``.
            labels: ``(rows,)`` int64.
            mask: ``(rows, tokens)``, 1 = real token.

        Raises:
            StateError: `begin` was not called, and it is needed.
        """
        assert student.logits is not None
        value = self.loss(student.logits, teacher.logits, labels)
        if Need.CACHE in self.needs:
            assert teacher.first is not None
            value = value + self.hidden_loss(student.states, teacher.first)
        if Need.LIVE in self.needs:
            value = value + self._live.distance(student, teacher, mask, self._project)
        return value

    def loss(self, student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor) -> Tensor:
        """Return the mean loss of a batch, logits and labels alone.

        Args:
            student_logits: ``(rows, labels)`` float32.
            teacher_logits: The same shape; None = labels only, whatever alpha is. Where a teacher's logit is `MASKED`,
                it has no such label, and the student is not asked for it: rows of several teachers share a batch.
            labels: ``(rows,)`` int64.
        """
        if teacher_logits is not None:
            student_logits = student_logits.masked_fill(teacher_logits <= MASKED, MASKED)
        if teacher_logits is None or self.alpha == 1:
            return F.cross_entropy(student_logits, labels)
        soft = F.log_softmax(student_logits / self.temperature, dim=-1)
        target = F.log_softmax(teacher_logits / self.temperature, dim=-1)
        imitation = self.temperature**2 * F.kl_div(soft, target, reduction="batchmean", log_target=True)
        if self.alpha == 0:
            return imitation
        return self.alpha * F.cross_entropy(student_logits, labels) + (1 - self.alpha) * imitation

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
        first = torch.stack([state[:, 0] for state in student_states[1:]], dim=1)
        partners = torch.tensor(spread(first.shape[1], teacher_states.shape[1]), device=teacher_states.device) - 1
        return self.hidden * F.mse_loss(self._project(first), teacher_states[:, partners])

    def report(self) -> Report:
        """Return the weights of the terms; a loss changes no model."""
        figures = {"alpha": self.alpha, "temperature": self.temperature, "hidden": self.hidden}
        live = {"live": float(Need.LIVE in self.needs), **self._live.weights}
        return Report(self.name, figures={**figures, **live})

    def _check_teacher(self, student: TextEncoder, teacher_width: int | None, live: TextEncoder | None) -> None:
        """Refuse to begin without what the terms need."""
        if Need.CACHE in self.needs and teacher_width is None:
            raise StateError(f"distillation.hidden: {self.hidden} needs the teacher's hidden states; 0 needs none.")
        if Need.LIVE not in self.needs:
            return
        name = self._live.wanted[0]
        if live is None:
            raise StateError(
                f"distillation.{name}: {self._live.weights[name]} needs the teacher itself, not only its cached "
                "outputs; 0 does not. Give distill() the live teacher."
            )
        words = student.config.vocab_size, live.config.vocab_size
        if words[0] != words[1]:
            raise ShapeError(
                f"distillation.{name}: the student knows {words[0]} words, the live teacher {words[1]}; both must read "
                "the same token ids. Prune the teacher's vocabulary, too."
            )

    def _project(self, states: Tensor) -> Tensor:
        """Return ``(..., hidden)`` states of the student, of any float type, in the teacher's width, float32."""
        if self._projection is None:
            raise StateError(
                f"distillation: the states of shape {tuple(states.shape)} came before begin(); call it first."
            )
        projected: Tensor = self._projection(states.float())
        return projected
