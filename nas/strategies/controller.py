"""An autoregressive policy over the genes of a space: which value each gene takes, given those chosen before it.

A recurrent cell reads the genes one after another, parents first, as in Zoph & Le 2017, https://arxiv.org/abs/1611.01578,
sec. 3.1. A gene that its condition rules out is not drawn: its log-probability and entropy are 0, so that the
probabilities of all canonical candidates sum to 1. Knows nothing of results; who learns is `nas.strategies.policy`.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces.dimensions import Choice, Dimension, Float, Grid, Integer, Value
from search_spaces.seeding import rng_for
from search_spaces.space import Genes, Space

FLOAT_PLACES = 11  # equal parts of a continuum, of its logarithm where it is logarithmic
LISTED_PLACES = 32  # at most so many groups of neighbouring values of an ordered list
INACTIVE, START = 0, 1  # tokens before those of the places


class Places:
    """A dimension cut into a few places; a policy chooses the place, the value within is drawn uniformly."""

    def __init__(self, dimension: Dimension, *, is_parent: bool = False) -> None:
        """Cut a dimension; every value of a listed parent stays a place of its own, as conditions name values."""
        self._dimension = dimension
        self.parts = _float_parts(dimension) if isinstance(dimension, Float) else _listed_parts(dimension, is_parent)

    def __len__(self) -> int:
        """Return the number of places."""
        return len(self.parts)

    def place(self, value: Value) -> int:
        """Return the place of a value."""
        if isinstance(self._dimension, Float):
            return min(len(self) - 1, int(self._dimension.encode(value)[0] * len(self)))
        values: Sequence[Value] = self._dimension.values
        return values.index(value) * len(self) // len(values)

    def draw(self, place: int, rng: np.random.Generator) -> Value:
        """Return a value at a place."""
        part = self.parts[place]
        return part.sample(rng) if part.size > 1 else part.values[0]


def _float_parts(dimension: Float) -> list[Dimension]:
    """Return equal parts of a range."""
    low, high = (math.log(x) if dimension.log else x for x in (dimension.low, dimension.high))
    cuts = np.linspace(low, high, (FLOAT_PLACES if dimension.size > 1 else 1) + 1)
    ends = (np.exp(cuts) if dimension.log else cuts).clip(dimension.low, dimension.high).tolist()
    return [Float(a, b, dimension.log) for a, b in pairwise(ends)]


def _listed_parts(dimension: Choice | Integer | Grid, is_parent: bool) -> list[Dimension]:
    """Return one part a value, or groups of neighbours where there are too many to learn one by one."""
    grouped = dimension.ordered and not is_parent and dimension.size > LISTED_PLACES
    n = LISTED_PLACES if grouped else dimension.size
    ends = [-(-k * dimension.size // n) for k in range(n + 1)]
    groups = [dimension.values[a:b] for a, b in pairwise(ends)]
    return [Integer(g[0], g[-1], g.step) if isinstance(g, range) else Choice(g, dimension.ordered) for g in groups]


class Controller(nn.Module):
    """A GRU over (gene, value chosen before, context) with one linear head a gene.

    Attributes:
        space: What is drawn from.
        places: One `Places` a gene, parents first.
    """

    first_token: Tensor
    is_place: Tensor

    def __init__(self, space: Space, n_context: int, width: int, seed: int) -> None:
        """Begin near the uniform policy.

        Args:
            space: What is drawn from.
            n_context: Numbers that say what is wanted, e.g. weights of the costs.
            width: Of the embeddings and of the hidden state.
            seed: Of the initial weights; torch's global generator is left alone.
        """
        with torch.random.fork_rng(devices=[]):
            super().__init__()
            parents = {condition.parent for condition in space.conditions.values()}
            self.space = space
            self.places = [Places(space.dimensions[gene], is_parent=gene in parents) for gene in space.order]
            sizes = torch.tensor([len(places) for places in self.places])
            n_genes, n_most = len(sizes), int(sizes.max())
            self.tokens = nn.Embedding(2 + int(sizes.sum()), width)
            self.genes = nn.Parameter(torch.empty(n_genes, width))
            self.context = nn.Linear(n_context, width)
            self.cell = nn.GRU(width, width, batch_first=True)
            self.heads = nn.Parameter(torch.empty(n_genes, width, n_most))
            self.biases = nn.Parameter(torch.empty(n_genes, n_most))
        self.register_buffer("first_token", 2 + sizes.cumsum(0) - sizes)
        self.register_buffer("is_place", torch.arange(n_most) < sizes[:, None])
        self._parents = [_parent(space, gene, self.places) for gene in space.order]
        self._initialise(seed)

    def _initialise(self, seed: int) -> None:
        """Draw all weights; the heads begin small, so that the first policy is almost uniform."""
        rng = rng_for(seed, "controller")
        with torch.no_grad():
            for name, weights in self.named_parameters():
                bound = 0.01 if name in ("heads", "biases") else weights.shape[-1] ** -0.5
                weights.copy_(torch.from_numpy(rng.uniform(-bound, bound, weights.shape)))

    def encode(self, candidates: Sequence[Genes]) -> Tensor:
        """Return ``(n, n_genes)`` int64 places of canonical candidates, parents first, -1 for inactive genes."""
        named = list(zip(self.space.order, self.places, strict=True))
        rows = [[places.place(genes[g]) if g in genes else -1 for g, places in named] for genes in candidates]
        return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), len(named))

    def decode(self, row: Sequence[int], rng: np.random.Generator) -> Genes:
        """Return the canonical candidate of one row of places, its values drawn within their places."""
        chosen: dict[str, Value] = {}
        for gene, places, place in zip(self.space.order, self.places, row, strict=True):
            condition = self.space.conditions.get(gene)
            if condition is None or chosen.get(condition.parent) in condition.values:
                chosen[gene] = places.draw(max(0, place), rng)
        return self.space.canonical(chosen)

    def evaluate(self, rows: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return how probable candidates are, and how open each choice on the way to them was.

        Args:
            rows: ``(n, n_genes)`` int64, from `encode`.
            context: ``(n, n_context)``.

        Returns:
            ``(n,)`` log-probabilities and ``(n,)`` entropies in nats, both summed over the active genes.
        """
        tokens = torch.where(rows < 0, INACTIVE, rows + self.first_token)
        before = torch.cat([torch.full_like(tokens[:, :1], START), tokens[:, :-1]], dim=1)
        inputs = self.tokens(before) + self.genes + self.context(context)[:, None]
        hidden, _ = self.cell(inputs)  # (n, n_genes, width)
        logits = torch.einsum("ngw,gwp->ngp", hidden, self.heads) + self.biases
        log_p = logits.masked_fill(~self.is_place, -math.inf).log_softmax(-1)
        active = rows >= 0
        chosen = log_p.gather(-1, rows.clamp(min=0)[..., None])[..., 0]
        finite = log_p.masked_fill(~self.is_place, 0.0)
        entropy = -(finite.exp() * finite).sum(-1)
        return (chosen * active).sum(1), (entropy * active).sum(1)

    @torch.no_grad()
    def sample(self, context: Tensor, temperature: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return places drawn from the policy.

        Args:
            context: ``(n, n_context)``.
            temperature: ``(n,)``, > 0; logits are divided by it, so 1 is the policy itself and more is more random.
            rng: Where all draws come from.

        Returns:
            ``(n, n_genes)`` int64, -1 for inactive genes.
        """
        rows = np.full((len(context), len(self.places)), -1)
        wanted, state = self.context(context), None
        token = torch.full((len(context),), START)
        for g in range(len(self.places)):
            hidden, state = self.cell((self.tokens(token) + self.genes[g] + wanted)[:, None], state)
            n = len(self.places[g])
            logits = (hidden[:, 0] @ self.heads[g, :, :n] + self.biases[g, :n]).numpy()
            drawn = (logits / temperature[:, None] + rng.gumbel(size=logits.shape)).argmax(1)  # Gumbel-max trick
            rows[:, g] = np.where(self._is_active(g, rows), drawn, -1)
            token = torch.from_numpy(np.where(rows[:, g] < 0, INACTIVE, rows[:, g] + int(self.first_token[g])))
        return rows

    def _is_active(self, gene: int, rows: np.ndarray) -> np.ndarray:
        """Return ``(n,)`` whether a gene counts, given the places of those before it."""
        parent, allowed = self._parents[gene]
        return np.isin(rows[:, parent], allowed) if parent >= 0 else np.ones(len(rows), bool)


def _parent(space: Space, gene: str, places: Sequence[Places]) -> tuple[int, list[int]]:
    """Return a gene's parent, -1 for none, and the places of it under which the gene is active.

    A number of a continuum is never met by a draw, so nothing is active under one.
    """
    condition = space.conditions.get(gene)
    if condition is None:
        return -1, []
    index = space.order.index(condition.parent)
    parts = places[index].parts
    return index, [k for k, part in enumerate(parts) if part.size == 1 and part.values[0] in condition.values]
