"""Proximal policy optimisation: several gradient steps a batch, none of which may move the policy far.

Source: Schulman et al. 2017, https://arxiv.org/abs/1707.06347, eq. 7. The value baseline is a moving average: an
episode has one reward, at its end, and starts in one state.
"""

import torch
from pydantic import Field
from torch import Tensor

from nas.strategies.policy import Batch, PolicyOptions, PolicySearch


class PpoOptions(PolicyOptions):
    """Options of proximal policy optimisation."""

    clip: float = Field(0.2, gt=0, lt=1, description="a probability that moved by this share is not moved further")


class Ppo(PolicySearch):
    """Policy gradient with the clipped surrogate."""

    name = "ppo"
    suits = "as reinforce, with more careful steps"
    options_model = PpoOptions
    _options: PpoOptions

    def policy_loss(self, log_p: Tensor, batch: Batch) -> Tensor:
        """Return the negated clipped surrogate, each pair weighted by its old probability over the mixture's."""
        ratio = torch.exp(log_p - batch.old)
        clipped = ratio.clamp(1 - self._options.clip, 1 + self._options.clip)
        surrogate = torch.minimum(ratio * batch.advantages, clipped * batch.advantages)
        return -(torch.exp(batch.old - batch.mixture) * surrogate).mean()
