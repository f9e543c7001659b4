"""A teacher's answers to the batches of a training run: cached ones, and on request those of the teacher itself.

Knows arrays and a model; not losses, not the training loop.
"""

import copy
import time

import numpy as np
import torch
from torch import Tensor

from compressors.answers import Answers, Need, ask
from nas.bundle import Outputs
from nas.data.tokens import Batch
from search_spaces.families.encoder_model import TextEncoder


class Teaching:
    """Answers batch after batch.

    Attributes:
        seconds: Spent on running the teacher so far; looking up cached answers costs next to nothing.
    """

    def __init__(self, cached: Outputs | None, live: TextEncoder | None, needs: Need, dtype: torch.dtype) -> None:
        """Make a copy of the teacher that computes in the run's number type, if the loss asks for the teacher itself.

        Args:
            cached: Rows as in the training tokens; None: the labels alone are learned.
            live: The teacher; left as it is.
            needs: What the loss asks for.
            dtype: What the student computes in.
        """
        self.cached, self.needs, self.seconds = cached, needs, 0.0
        self.model: TextEncoder | None = None
        if live is not None and Need.LIVE in needs:
            self.model = copy.deepcopy(live).to(dtype).requires_grad_(False).eval()

    def answers(self, batch: Batch, rows: np.ndarray) -> Answers:
        """Return what the teacher says of a batch; the logits are the cached ones, which were computed in float32.

        Args:
            batch: On the device where the student is.
            rows: Its rows in the training tokens.
        """
        logits = first = None
        if self.cached is not None:
            logits = _rows_of(self.cached.logits, rows, batch)
            if Need.CACHE in self.needs and self.cached.states is not None:
                first = _rows_of(self.cached.states, rows, batch)
        if self.model is None:
            return Answers(logits, first)
        start = time.perf_counter()
        with torch.no_grad():
            live = ask(self.model.to(batch.input_ids.device), batch, Need.STATES)
        self.seconds += time.perf_counter() - start
        return Answers(logits, first, live.states, live.layers)


def _rows_of(values: np.ndarray, rows: np.ndarray, batch: Batch) -> Tensor:
    """Return some rows of the teacher's outputs as float32, where the batch is."""
    return torch.from_numpy(values[rows].astype(np.float32)).to(batch.input_ids.device)
