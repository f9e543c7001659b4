"""When a training has learned what it can: rows that are kept apart tell, and the best student is kept.

Knows losses and students; not how a loss is computed, not the learning rate.
"""

import math

from torch import Tensor, nn

from nas.data.tokens import Tokens
from nas.recipe import TrainSettings
from nas.schedule import WHOLE, Rung
from search_spaces.errors import ConfigError, ShapeError


class Patience:
    """Watches the loss on rows that are not learned from.

    What is watched may stand still while the learning rate is high, and fall once the rate does. So losing patience is
    not the end: the rate is then let fall to 0 (`nas.schedule.Schedule.wind_up`), and the student of the lowest loss of
    all, these last steps included, is kept.

    Source: Prechelt 1998, Early Stopping - But When?, https://doi.org/10.1007/3-540-49430-8_3, criterion UP; that
    distillation gains from very long training, which a stop makes affordable: Beyer et al. 2022, A good teacher is
    patient and consistent, https://arxiv.org/abs/2106.05237.

    Attributes:
        lowest: Loss so far; infinite before the first look.
    """

    def __init__(self, limit: int) -> None:
        """Allow ``limit`` looks in a row, 1 or more, to bring no lower loss than before them."""
        self.lowest, self._limit, self._n_in_vain = math.inf, limit, 0
        self._kept: dict[str, Tensor] = {}

    def look(self, loss: float, student: nn.Module) -> bool:
        """Take note of a student's loss; return whether patience is lost."""
        if loss < self.lowest:
            self.lowest, self._n_in_vain = loss, 0
            self._kept = {name: value.clone() for name, value in student.state_dict().items()}
        else:
            self._n_in_vain += 1
        return self._n_in_vain >= self._limit

    def restore(self, student: nn.Module) -> None:
        """Give a student the weights of the lowest loss, if there was a look."""
        if self._kept:
            student.load_state_dict(self._kept)


def check_patience(settings: TrainSettings, tokens: Tokens, rung: Rung) -> None:
    """Refuse patience where there is nothing to hold out, or where only a part of a training is done.

    Raises:
        ConfigError: A part is shorter than the training, whose end patience decides.
        ShapeError: There are fewer than 2 rows.
    """
    if settings.patience is None:
        return
    if rung != WHOLE:
        raise ConfigError(
            f"train.patience: {settings.patience}, in the part {rung.begin:g} to {rung.end:g} of a training; parts are "
            "shares of a training whose length is known. Set train.patience to null."
        )
    if len(tokens) < 2:
        raise ShapeError(
            f"train.patience: {settings.patience} holds rows out, of {len(tokens)} training rows; at least 2."
        )
