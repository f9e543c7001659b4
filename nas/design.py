"""Design of experiments: which students are worth measuring, so that all others can be predicted.

Most of them cover the space. The rest lie near the latency that is asked for, where a wrong prediction decides whether
a student is trained. Knows spaces and predictions; no device.
"""

from collections.abc import Callable, Sequence

import numpy as np

from nas.candidates import Candidates
from search_spaces.errors import ConfigError
from search_spaces.seeding import rng_for
from search_spaces.space import Genes, Value

POOL = 512  # random candidates the profiled shapes are chosen from
NEAR = 0.2  # share of the shapes that lie near the latency asked for
BAND = 1.25  # how many times longer or shorter is still near


def design(candidates: Candidates, n_shapes: int, seed: int) -> list[dict[str, Value]]:
    """Return genes that cover the space: the warm start, then whatever is farthest from all chosen so far.

    Raises:
        ConfigError: The compressors cannot do their work on any student.
    """
    first = [genes for genes in candidates.warm_start() if candidates.refusal(genes) is None][:n_shapes]
    pool = _pool(candidates, seed, "profile")
    picks = spread(_codes(candidates, pool), _codes(candidates, first), n_shapes - len(first))
    return [*first, *(pool[pick] for pick in picks)]


def design_near(
    candidates: Candidates,
    known: Sequence[Genes],
    n_shapes: int,
    seed: int,
    predict: Callable[[Genes], float],
    limit_ms: float,
) -> list[dict[str, Value]]:
    """Return genes whose predicted latency is near a limit, as far as possible from each other and from known ones.

    Args:
        candidates: The space.
        known: Genes that were measured.
        n_shapes: How many to return; fewer where there are no more.
        seed: Of the search.
        predict: Latency of genes in ms.
        limit_ms: What is asked for.
    """
    done = {_shape(candidates, genes) for genes in known}
    drawn = {_shape(candidates, genes): genes for genes in _pool(candidates, seed, "profile near the limit")}
    pool = [genes for shape, genes in drawn.items() if shape not in done]
    far = np.abs(np.log([predict(genes) / limit_ms for genes in pool]))
    nearest = np.argsort(far)[: max(n_shapes, int((far <= np.log(BAND)).sum()))]
    codes = _codes(candidates, [pool[i] for i in nearest.tolist()])
    return [pool[int(nearest[pick])] for pick in spread(codes, _codes(candidates, known), n_shapes)]


def spread(points: np.ndarray, known: np.ndarray, n: int) -> list[int]:
    """Return the places of ``n`` points, each the farthest from all before it; fewer where points repeat.

    Args:
        points: ``(m, d)`` to choose from.
        known: ``(k, d)`` chosen before; with none, the first point is the first choice.
        n: How many.

    Source: Kennard and Stone 1969, https://doi.org/10.1080/00401706.1969.10490666 (largest minimal distance).
    """
    nearest, chosen = np.full(len(points), np.inf), list[int]()
    for point in known:
        nearest = np.minimum(nearest, np.linalg.norm(points - point, axis=1))
    while len(chosen) < n and len(points) and nearest.max() > 0:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return chosen


def _pool(candidates: Candidates, seed: int, what: str) -> list[dict[str, Value]]:
    """Return random candidates on which the compressors can do their work."""
    rng = rng_for(seed, what)
    drawn = [candidates.space.sample(rng) for _ in range(POOL)]
    pool = [genes for genes in drawn if candidates.refusal(genes) is None]
    if not pool:
        raise ConfigError(f"compress: none of {POOL} students can be made. The first: {candidates.refusal(drawn[0])}")
    return pool


def _shape(candidates: Candidates, genes: Genes) -> str:
    """Return what tells candidates apart that are not measured together, as variants of one shape."""
    return candidates.space.key(candidates.variants(genes)[0])


def _codes(candidates: Candidates, some: Sequence[Genes]) -> np.ndarray:
    """Return ``(n, d)`` places of genes in the space."""
    return np.array([candidates.space.encode(genes) for genes in some])
