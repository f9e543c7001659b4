"""Which tokens a model's answer rests on, and whether a student's answers rest on the same ones as its teacher's.

Knows torch models of text encoders; of a student that only exists as a quantized file, what is explained is the torch
model that the file was made of.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from nas.data.tokens import Batch, Tokens
from search_spaces.errors import ShapeError
from search_spaces.families.encoder_model import TextEncoder
from search_spaces.seeding import rng_for

NODES = 12  # of the Gauss-Legendre rule; misses the integral by a few per cent (see `test_attribution.py`)
ROWS = 64
FEWEST = 3  # words of a row; ranks of fewer say nothing


def explained_rows(tokens: Tokens, seed: int, n_rows: int = ROWS) -> np.ndarray:
    """Return up to ``n_rows`` random rows that are long enough to be explained, ascending."""
    long_enough = np.flatnonzero(tokens.lengths - 2 >= FEWEST)
    return np.sort(rng_for(seed, "attribution").permutation(long_enough)[:n_rows])


def attributions(model: TextEncoder, tokens: Tokens, targets: np.ndarray, padding: int) -> list[np.ndarray]:
    """Return the integrated gradients of every row's tokens: how much each raises the logit of the row's target.

    IG = (x - x') * integral over a in 0..1 of grad f(x' + a (x - x')), summed over the embedding. x are the
    embeddings of the row, x' those of the same row with padding instead of its words. f is the target's logit less
    the mean logit, since adding a number to all logits changes no answer.

    Args:
        model: In evaluation mode; not changed.
        tokens: n rows.
        targets: ``(n,)`` labels to explain, the teacher's answers say.
        padding: Token id of padding in the model's own vocabulary.

    Returns:
        n arrays ``(tokens,)`` float64; the first and last token are not replaced, so they get 0.

    Raises:
        ShapeError: There are not as many targets as rows.

    Source: Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365, eq. 1.
    """
    if len(targets) != len(tokens):
        raise ShapeError(f"attributions: {len(targets)} targets for {len(tokens)} rows; one a row.")
    return [_row(model, tokens.collate(np.array([i])), int(targets[i]), padding) for i in range(len(tokens))]


def attribution_agreement(student: Sequence[np.ndarray], teacher: Sequence[np.ndarray]) -> float:
    """Return the mean rank correlation (Spearman) of the words' attributions, -1..1; 1 for the teacher itself.

    Args:
        student: One array a row, see `attributions`; first and last tokens do not count.
        teacher: The same rows.

    Returns:
        Rows in which a model lets all words count alike, which have no ranks, count as 0.

    Raises:
        ShapeError: The rows differ in number or length, or there is none.
    """
    if [len(row) for row in student] != [len(row) for row in teacher] or not len(student):
        raise ShapeError(
            f"attribution agreement: {len(student)} rows beside {len(teacher)}; the same rows of both, at least 1."
        )
    pairs = zip(student, teacher, strict=True)
    return float(np.mean([_correlation(a[1:-1], b[1:-1]) for a, b in pairs]))


def _row(model: TextEncoder, batch: Batch, target: int, padding: int) -> np.ndarray:
    """Return the attributions of one row."""
    empty = batch.input_ids.clone()
    empty[:, 1:-1] = padding
    with torch.no_grad():
        start = model.embeddings(empty, batch.token_type_ids)
        end = model.embeddings(batch.input_ids, batch.token_type_ids)
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    shares = torch.from_numpy((nodes + 1) / 2).float()[:, None, None]
    path = (start + shares * (end - start)).requires_grad_()
    repeated = [part.expand(NODES, -1) for part in batch]
    gradients = torch.autograd.grad(_margin(_forward_from(model, path, repeated), target).sum(), path)[0]
    mean = torch.einsum("n,ntw->tw", torch.from_numpy(weights / 2).float(), gradients)
    found: np.ndarray = ((end - start)[0] * mean).sum(dim=-1).double().numpy()
    return found


def _forward_from(model: TextEncoder, embedded: Tensor, batch: Sequence[Tensor]) -> Tensor:
    """Return the logits that the model gives when its embeddings say ``embedded``."""

    def replace(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return embedded

    hook = model.embeddings.register_forward_hook(replace)
    try:
        logits: Tensor = model(*batch)
    finally:
        hook.remove()
    return logits


def _margin(logits: Tensor, target: int) -> Tensor:
    """Return ``(rows,)`` how far the target's logit is above the mean logit."""
    return logits[:, target] - logits.mean(dim=1)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return the rank correlation; 0 where it is not defined."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(spearmanr(a, b).statistic)
