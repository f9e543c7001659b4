"""REINFORCE: the log-probability of a candidate rises with its reward less a moving average of rewards.

Sources: Williams 1992, https://doi.org/10.1007/BF00992696, eq. 4 (gradient and baseline); Zoph & Le 2017,
https://arxiv.org/abs/1611.01578, sec. 3.2 (architectures, moving average as the baseline).
"""

import torch
from pydantic import Field
from torch import Tensor

from nas.strategies.policy import Batch, PolicyOptions, PolicySearch


class ReinforceOptions(PolicyOptions):
    """Options of REINFORCE."""

    ceiling: float = Field(2.0, gt=0, description="most that a result may count for being likelier now than when drawn")


class Reinforce(PolicySearch):
    """Policy gradient with truncated importance weights."""

    name = "reinforce"
    suits = "hundreds of cheap trials, large spaces with conditions, a soft target for the latency"
    options_model = ReinforceOptions
    _options: ReinforceOptions

    def policy_loss(self, log_p: Tensor, batch: Batch) -> Tensor:
        """Return the negated mean of weight x advantage x log-probability; no gradient flows through the weight.

        The weight, probability now over that in the mixture the results were drawn from, makes the gradient that of
        the expected advantage; truncating it bounds the variance.

        Source: Espeholt et al. 2018, IMPALA, https://arxiv.org/abs/1802.01561, sec. 4 (truncated weights).
        """
        weights = torch.exp(log_p.detach() - batch.mixture).clamp(max=self._options.ceiling)
        return -(weights * batch.advantages * log_p).mean()
