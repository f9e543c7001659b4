"""Factoring the matrices of a model one by one, with a record of what was done.

Knows modules and the configs of text encoders; not which matrices are wanted, not where moments come from.
"""

from dataclasses import replace

from torch import Tensor, nn

from compressors.base import Change, Skip
from compressors.factors import FactoredConv, factor_conv, factor_linear
from search_spaces.families.encoder_inherit import low_rank
from search_spaces.families.encoder_model import TextEncoder
from search_spaces.families.factored import FactoredLinear

WORDS, RANK = "embeddings.word", "embeddings.rank"
MULTIPLE = 8  # of ranks from four times this on; matrix kernels like it


def rank_of(share: float, n_out: int, n_in: int) -> int:
    """Return the rank at which two thin matrices have a share of the weights of one; 0 where none is small enough."""
    rank = int(share * n_in * n_out / (n_in + n_out))
    return rank - (rank % MULTIPLE if rank >= 4 * MULTIPLE else 0)


class Factoring:
    """One pass over a model, which is changed in place.

    Attributes:
        changed: The factored matrices with their numbers of weights.
        skipped: The others.
    """

    def __init__(self, model: nn.Module, share: float) -> None:
        """Begin with nothing changed; ``share`` of the weights of each matrix will stay."""
        self.model, self.share = model, share
        self.changed: list[Change] = []
        self.skipped: list[Skip] = []
        self._lost = self._norm = 0.0  # squared

    def factor(self, name: str, moment: Tensor | None) -> None:
        """Replace one Linear or convolution, or note why not.

        Args:
            name: Of the module.
            moment: Of its inputs, see `compressors.factors.input_moments`; None = the weights alone decide.
        """
        module, why_not = self.model.get_submodule(name), self._why_not(name)
        if why_not is not None:
            self.skipped.append(Skip(name, why_not))
            return
        assert isinstance(module, nn.Linear | nn.Conv2d)
        matrix = module.weight.detach().flatten(1)
        rank = self._rank(name, *matrix.shape)
        if not rank:
            return
        if isinstance(module, nn.Linear):
            thin: FactoredLinear | FactoredConv = factor_linear(module, rank, moment)
        else:
            thin = factor_conv(module, rank, moment)
        self.model.set_submodule(name, thin)
        if isinstance(self.model, TextEncoder):
            self.model.config = replace(self.model.config, ranks=(*self.model.config.ranks, (name, rank)))
        inner, outer = (part.detach().flatten(1) for part in thin.parameters() if part.ndim > 1)
        self._book(name, matrix, outer @ inner, rank)

    def factor_words(self, model: TextEncoder, counts: Tensor | None) -> None:
        """Replace the word table of an encoder by ids -> rank -> width.

        Args:
            model: The model itself, known to be an encoder.
            counts: ``(vocab,)``, how often each word occurs; frequent ones are to be nearer. None = all alike.
        """
        tables = model.embeddings
        if tables.rank is not None:
            self.skipped.append(Skip(WORDS, f"already a product of rank {tables.rank.in_features}"))
            return
        table = tables.word.weight.detach()
        rank = self._rank(WORDS, *table.shape)
        if not rank:
            return
        # one more than counted: a word that no row has may still be asked for
        weighted = table if counts is None else table * (counts + 1).sqrt()[:, None]
        _, basis = low_rank(weighted, rank)
        tables.word = nn.Embedding(len(table), rank, _weight=table @ basis)
        tables.rank = nn.Linear(rank, table.shape[1], bias=False, device=table.device, dtype=table.dtype)
        tables.rank.weight.data.copy_(basis)
        model.config = replace(model.config, embedding_rank=rank)
        self._book(WORDS, table, tables.word.weight.detach() @ basis.T, rank)

    def figures(self) -> dict[str, float]:
        """Return the weights of the factored matrices before and after, and how far the new ones are from the old."""
        return {
            "weights_before": float(sum(int(change.before) for change in self.changed)),
            "weights_after": float(sum(int(change.after) for change in self.changed)),
            "error": (self._lost / self._norm) ** 0.5 if self._norm else 0.0,
        }

    def _rank(self, name: str, n_out: int, n_in: int) -> int:
        """Return the rank of a matrix; 0 and a skip where none is small enough."""
        rank = rank_of(self.share, n_out, n_in)
        if rank < 1:
            self.skipped.append(Skip(name, f"even rank 1 has more than {self.share:g} of its {n_in * n_out} weights"))
        return rank

    def _why_not(self, name: str) -> str | None:
        """Return why a module cannot be factored; None if it can."""
        module, parent = self.model.get_submodule(name), self.model.get_submodule(name.rpartition(".")[0])
        if name == RANK or isinstance(parent, FactoredLinear | FactoredConv):
            return "already a factor of a product"
        if type(module) is nn.Conv2d:
            is_plain = module.groups == 1 and not isinstance(module.padding, str) and module.padding_mode == "zeros"
            kind = f"{module.groups} groups, padding {module.padding!r} of {module.padding_mode}"
            return None if is_plain else f"a convolution of {kind}"
        if type(module) is not nn.Linear:
            return f"{type(module).__name__} is no Linear, Conv2d or word table of a text encoder"
        return None

    def _book(self, name: str, before: Tensor, after: Tensor, rank: int) -> None:
        """Note a factored matrix."""
        self.changed.append(Change(name, before.numel(), rank * sum(before.shape)))
        self._lost += float((before - after).double().square().sum())
        self._norm += float(before.double().square().sum())
