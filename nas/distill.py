"""The distillation loop: the story of one training run, top to bottom.

Knows arrays, a student and a loss; not trials, not where the teacher's outputs come from. Fast on a CPU because:

* rows of like length share a batch, so there is next to no padding (`nas.schedule`);
* the teacher's outputs are cached; the teacher runs only for a loss that asks for more than the cache holds;
* embeddings are frozen unless asked for, so nothing is computed backwards below the first layer;
* products run in bfloat16 where that is faster (`nas.precision`), updates in float32 by one fused AdamW call;
* a student that imitates a teacher is trained without dropout, whose random numbers cost more than an activation.
"""

import copy
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from compressors.answers import Need, ask
from compressors.base import TrainingCompressor
from compressors.distillation import Distillation
from nas import precision
from nas.bundle import Outputs
from nas.data.tokens import Batch, Tokens
from nas.learners import adamw, freeze_embeddings, rate_share
from nas.moments import moments_of, restore_moments
from nas.patience import Patience, check_patience
from nas.recipe import TrainSettings
from nas.schedule import WHOLE, Rung, Schedule
from nas.teaching import Teaching
from search_spaces.errors import DivergedError, ShapeError
from search_spaces.families.encoder_model import TextEncoder

MAX_GRADIENT_NORM = 1.0
RATE = "rate"  # what a training remembers of its learning rate


@dataclass(frozen=True)
class Epoch:
    """One pass over the data, or the last part of one.

    Attributes:
        loss: Mean training loss of a row.
        seconds: Wall-clock time.
        sentences_per_s: Rows trained on a second.
        teacher_share: Of the time, 0..1, that the live teacher took; 0 where cached outputs are enough.
        held_out: Loss at the latest look at rows that are not learned from; None without patience, or before a look.
        learning_rate: Peak of the whole training, see `nas.learners.rate_share`.
    """

    loss: float
    seconds: float
    sentences_per_s: float
    teacher_share: float = 0.0
    held_out: float | None = None
    learning_rate: float = 0.0


class Left(NamedTuple):
    """Where a training can be continued.

    Attributes:
        student: As it was then.
        memory: What its training remembers, by name.
    """

    student: TextEncoder
    memory: dict[str, Tensor]


class Trained(NamedTuple):
    """What happened in a training, or in a part of one, epoch by epoch, and where the next part begins."""

    epochs: list[Epoch]
    left: Left


def distill(
    student: TextEncoder,
    tokens: Tokens,
    teacher: Outputs | None,
    settings: TrainSettings,
    *,
    seed: int,
    loss: Distillation,
    compressors: Sequence[TrainingCompressor] = (),
    live: TextEncoder | None = None,
    on_step: Callable[[int, int], None] | None = None,
    rung: Rung = WHOLE,
    memory: Mapping[str, Tensor] | None = None,
) -> Trained:
    """Train a student in place and return what happened, epoch by epoch; the same arguments give the same student.

    A training in parts, each continued where the one before left, takes the same steps as one in one go: the learning
    rate, the order of the rows and the optimiser's moments go on. A student in the middle of its training is worse than
    it has to be, because its learning rate is high. So that it can be judged, the one that a part gives has learned on
    for a few steps, at a rate that falls to 0; these steps are not continued. Compressors begin and finish in every
    part, so with one that acts between the steps the parts are not those of a training in one go.

    With ``settings.gentle`` a student that begins near its teacher learns at a lower rate, see `nas.learners`, unless a
    compressor is still going to change it.

    With ``settings.patience`` a training ends early, see `nas.patience`; never before compressors have done their work.

    Source: judging a training by a short decay from its middle: Hägele et al. 2024, https://arxiv.org/abs/2405.18392.

    Args:
        student: Trained and, by compressors, shrunk; left in evaluation mode.
        tokens: The training split, ``n`` rows.
        teacher: What it says of the same rows; None trains on the labels alone, with dropout.
        settings: Epochs (fractions allowed), learning rate, batch size and so on.
        seed: Of the order of the rows and of dropout.
        loss: What to minimise.
        compressors: Act between the optimiser's steps, in this order.
        live: The teacher itself, left as it is; runs only if the loss asks for it, which is slower than cached outputs.
        on_step: Called after every step with the steps done and the steps in all.
        rung: Which part of the training this is; the student is what the part before left.
        memory: What the part before left besides the student; None where there was none.

    Raises:
        ConfigError: A training with patience is to be done in parts.
        DivergedError: The loss became NaN or infinite.
        ShapeError: ``tokens`` is empty, the teacher's outputs do not fit it, or the live teacher reads other tokens.
        StateError: The loss needs hidden states of the teacher, or the teacher itself, and they are not there.
    """
    _check(student, tokens, teacher)
    check_patience(settings, tokens, rung)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        student.train(teacher is None)
        freeze_embeddings(student, settings.train_embeddings or Need.EMBEDDINGS in loss.needs)
        run = _Run(student, tokens, (teacher, live), settings, loss, list(compressors), rung)
        run.recall(memory or {})
        trained = _train(run, seed, on_step)
        for compressor in compressors:
            compressor.end()
    student.zero_grad(set_to_none=True)
    student.requires_grad_(True).eval()
    return trained


def _train(run: "_Run", seed: int, on_step: Callable[[int, int], None] | None) -> Trained:
    """Run all steps and sum them up by epoch."""
    epochs: list[Epoch] = []
    left, plan = None, run.schedule
    held_out = list(plan.held_out(seed))
    step, (n_passes, n_skipped) = plan.steps.start, divmod(plan.steps.start, plan.n_batches)
    while step < plan.stop:
        start, total, n_rows, taught = time.perf_counter(), 0.0, 0, run.teaching.seconds
        order = plan.batches(seed, n_passes + len(epochs))
        for rows in itertools.islice(order, 0 if epochs else n_skipped, None):
            if step == plan.steps.stop:
                left = Left(copy.deepcopy(run.student), {name: value.clone() for name, value in run.memory().items()})
            total += run.step(step, rows) * len(rows)
            n_rows += len(rows)
            step += 1
            if on_step is not None:
                on_step(step, plan.n_steps)
            if held_out and plan.is_look(step) and run.look(held_out):
                plan.wind_up(step)
            if step == plan.stop:
                break
        seconds = time.perf_counter() - start
        teacher_share = (run.teaching.seconds - taught) / seconds
        epochs.append(Epoch(total / n_rows, seconds, n_rows / seconds, teacher_share, run.held_out, run.peak))
    run.patience.restore(run.student)
    return Trained(epochs, left or Left(run.student, run.memory()))


class _Run:
    """What lives as long as one training run: the computing copy, the optimiser and the schedule."""

    def __init__(
        self,
        student: TextEncoder,
        tokens: Tokens,
        teacher: tuple[Outputs | None, TextEncoder | None],
        settings: TrainSettings,
        loss: Distillation,
        compressors: list[TrainingCompressor],
        rung: Rung,
    ) -> None:
        self.student, self.tokens = student, tokens
        self.settings, self.loss, self.compressors = settings, loss, compressors
        self.schedule = Schedule(settings, tokens.lengths, rung)
        self.patience = Patience(settings.patience or 1)  # without it nobody looks
        self.held_out: float | None = None
        self.device = student.head.out.weight.device
        self.labels = torch.tensor(tokens.labels, dtype=torch.int64)
        for compressor in compressors:
            compressor.begin(student, self.schedule.stop - self.schedule.steps.start)
        rows = settings.batch_size * max(1, round(float(tokens.lengths.mean())))
        self.dtype = precision.choose(settings.precision, rows, student.config.hidden, self.device)
        self.copy = self._copied()
        cached, live = teacher
        states = None if cached is None else cached.states
        self.extra = loss.begin(student, None if states is None else states.shape[-1], live)
        self.teaching = Teaching(cached, live, loss.needs, self.dtype)
        self.optimizer = adamw(student, self.extra, settings)
        self.rate = 1.0

    def memory(self) -> dict[str, Tensor]:
        """Return what the next part of this training needs besides the student."""
        values = {f"loss.{i}": parameter.detach() for i, parameter in enumerate(self.extra)}
        values[RATE] = torch.tensor(self.rate, dtype=torch.float64)
        return values | moments_of(self.optimizer, self._named())

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """Go on from what an earlier part of this training left; without one, see how near the teacher it begins."""
        self.rate = float(memory.get(RATE, 1.0)) if memory else self._suitable_rate()
        with torch.no_grad():
            for i, parameter in enumerate(self.extra):
                if f"loss.{i}" in memory:
                    parameter.copy_(memory[f"loss.{i}"])
        moments = {key: value for key, value in memory.items() if "/" in key}
        restore_moments(self.optimizer, self._named(), moments)

    @property
    def peak(self) -> float:
        """Return the highest learning rate of the training."""
        return self.settings.lr * self.rate

    def _suitable_rate(self) -> float:
        """Return the share of the learning rate for the student as it is."""
        outputs, is_done = self.teaching.cached, all(c.is_settled and not c.rewrites for c in self.compressors)
        if outputs is None or not self.settings.gentle or not is_done:
            return 1.0
        return rate_share(self.student, self.tokens, outputs.logits)

    def _named(self) -> dict[str, nn.Parameter]:
        """Return what may be trained, by name."""
        extra = {f"loss.{i}": parameter for i, parameter in enumerate(self.extra)}
        return dict(self.student.named_parameters()) | extra

    def step(self, step: int, rows: np.ndarray) -> float:
        """Do one optimiser step on one batch and return its loss.

        Raises:
            DivergedError: The loss is not finite.
        """
        value = self._loss(rows)
        result = value.item()
        if not math.isfinite(result):
            raise DivergedError(
                f"distillation step {step + 1} of {self.schedule.n_steps}: the loss is {result}; it must be finite. "
                f"Lower lr (now {self.peak:g})."
            )
        value.backward()  # type: ignore[no-untyped-call]
        self.copy.pull_gradients()
        for compressor in self.compressors:
            compressor.after_backward(step - self.schedule.steps.start)
        self._update(step)
        return result

    def look(self, held_out: list[np.ndarray]) -> bool:
        """Return whether patience is lost; nothing is looked at while compressors still have something to do."""
        if not all(compressor.is_settled for compressor in self.compressors):
            return False
        model = self.copy.model
        was_training = model.training
        model.eval()
        with torch.no_grad():
            losses = [self._loss(rows).item() * len(rows) for rows in held_out]
        model.train(was_training)
        self.held_out = sum(losses) / sum(map(len, held_out))
        return self.patience.look(self.held_out, self.student)

    def _loss(self, rows: np.ndarray) -> Tensor:
        """Return the loss of a batch, computed by the copy."""
        batch = Batch(*(part.to(self.device) for part in self.tokens.collate(rows)))
        labels = self.labels[rows].to(self.device)
        student = ask(self.copy.model, batch, self.loss.needs)
        return self.loss.total(student, self.teaching.answers(batch, rows), labels, batch.attention_mask)

    def _update(self, step: int) -> None:
        """Clip, step, let the compressors act, and carry the new weights to the copy."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
        for group in self.optimizer.param_groups:
            group["lr"] = self.peak * self.schedule.learning_rate_share(step)
        self.optimizer.step()
        for parameter in self.extra:
            parameter.grad = None
        done = step - self.schedule.steps.start
        replaced = [compressor.after_step(done, self.optimizer) for compressor in self.compressors]
        if any(replaced):
            self.copy = self._copied()
        self.copy.push_weights()

    def _copied(self) -> precision.Copy:
        """Return what computes."""
        return precision.Copy(self.student, self.dtype, [c.rewrite for c in self.compressors if c.rewrites])


def _check(student: TextEncoder, tokens: Tokens, teacher: Outputs | None) -> None:
    """Refuse data that does not fit together, before anything is changed."""
    if not len(tokens):
        raise ShapeError(f"distillation: {len(tokens)} training rows; at least 1. Check the training split.")
    expected = (len(tokens), len(student.config.labels))
    if teacher is not None and teacher.logits.shape != expected:
        raise ShapeError(
            f"distillation: the teacher's logits have shape {teacher.logits.shape}; it must be {expected}, "
            "a row for each training row."
        )
