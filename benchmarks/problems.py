"""Tabular problems: spaces of which every candidate was trained and measured by others, so that a trial is a look-up.

* ``nb201/<data set>/<device>``: NAS-Bench-201, 15,625 cells, six edges of five operations without an order; the
  validation accuracy after 12 epochs against the latency on one of eight devices, 24 problems. Reported: the test
  accuracy after 200 epochs of the cell with the best validation accuracy under the median latency.
* ``macro``: NAS-Bench-Macro, 6,561 networks, eight layers of three ordered choices; accuracy against FLOPs. Reported:
  the best accuracy itself, so that the gap is the exact regret.
* ``macro-conditional``: the same table written as eight genes ``keep_i`` and eight genes ``expand_i`` that are active
  only where the layer is kept. Peers, which have no conditions, see 16 flat genes; two settings of them that are the
  same network are one evaluation.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from volume import volume_curve

from nas.pareto import pareto_front
from nas.strategies.foreknowledge import Foreknowledge
from search_spaces.dimensions import Choice
from search_spaces.space import Condition, Genes, Space, Value

NB201 = "nas/nb201/nb201_acc_latency.csv.gz"
MACRO = "nas/nas_bench_macro/nas_bench_macro_cifar10.csv.gz"
DATA_SETS = ("cifar10", "cifar100", "imagenet16")
DEVICES = ("1080ti_1", "essential_ph_1", "fpga", "gold_6226", "pixel3", "raspi4", "silver_4114", "titanxp_32")
NAMES = (*(f"nb201/{data}/{device}" for data in DATA_SETS for device in DEVICES), "macro", "macro-conditional")
OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
USEFUL = ("nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3", "skip_connect")
EDGES = ("edge_0_1", "edge_0_2", "edge_1_2", "edge_0_3", "edge_1_3", "edge_2_3")
PATHS = (
    ("edge_0_3",),
    ("edge_0_1", "edge_1_3"),
    ("edge_0_2", "edge_2_3"),
    ("edge_0_1", "edge_1_2", "edge_2_3"),
)
LAYERS = range(8)

Key = tuple[tuple[str, Value], ...]


@dataclass(frozen=True, eq=False)
class Problem:
    """A space with a table of it; n is the number of rows.

    Attributes:
        name: One of ``NAMES``.
        space: What is searched.
        rows: Canonical genes as pairs -> row of the table.
        costs: ``(n, 2)`` float64: the negated accuracy in %, and the latency in ms (FLOPs in millions).
        features: ``(n, k)`` float64, free without a device: parameters and MACs in millions (only the former where
            FLOPs are the second cost); of a cell also what its paths tell, see `_paths`.
        scores: ``(n,)`` float64, the accuracy in % that is reported of a candidate.
        limit: The best candidate is chosen, by its first cost, among those whose second cost is no larger.
    """

    name: str
    space: Space
    rows: Mapping[Key, int]
    costs: np.ndarray
    features: np.ndarray
    scores: np.ndarray
    limit: float

    def row(self, genes: Genes) -> int:
        """Return the row of a candidate."""
        row = self.rows.get(tuple(genes.items()))  # what is canonical already, at a tenth of the price
        return self.rows[tuple(self.space.canonical(genes).items())] if row is None else row

    def foreknowledge(self, costs: bool, features: bool) -> Foreknowledge:
        """Return what a strategy may know: the second cost by look-up, the free features."""
        return Foreknowledge(
            costs={1: self._lookup(self.costs[:, 1])} if costs else {},
            features=self._lookup(self.features) if features else None,
        )

    def volumes(self, rows: Sequence[int]) -> np.ndarray:
        """Return the share of the true front's hypervolume after every evaluation, ``(len(rows),)`` in [0, 1]."""
        return volume_curve(self.costs[list(rows)], self._reference) / self._best_volume

    def gap(self, rows: Sequence[int]) -> float:
        """Return how far the reported accuracy of the best row found is below the best there is, in points.

        NaN where no row is within the limit.
        """
        costs = self.costs[list(rows)]
        within = np.flatnonzero(costs[:, 1] <= self.limit)
        if not len(within):
            return float("nan")
        best = self.scores[rows[int(within[costs[within, 0].argmin()])]]
        return float(self.scores[self.costs[:, 1] <= self.limit].max() - best)

    def _lookup(self, column: np.ndarray) -> Callable[[Sequence[Genes]], np.ndarray]:
        """Return a function from candidates to their values in a column."""
        return lambda candidates: column[[self.row(genes) for genes in candidates]]

    @cached_property
    def _reference(self) -> np.ndarray:
        """Return the worst corner: the 20th percentile of accuracy, the 95th of the second cost; ``(2,)``."""
        return np.array([np.percentile(self.costs[:, 0], 80), np.percentile(self.costs[:, 1], 95)])

    @cached_property
    def _best_volume(self) -> float:
        """Return the hypervolume of the true front."""
        return float(volume_curve(self.costs[pareto_front(self.costs)], self._reference)[-1])


@lru_cache(maxsize=4)
def load_problem(name: str, data: Path) -> Problem:
    """Return a problem.

    Args:
        name: One of ``NAMES``.
        data: The data folder.

    Raises:
        FileNotFoundError: The folder has not its table.
    """
    if name.startswith("nb201/"):
        return _nb201(name, _table(data / NB201))
    return _macro(name, _table(data / MACRO), conditional=name == "macro-conditional")


@lru_cache
def _table(path: Path) -> pd.DataFrame:
    """Return a table of the data folder."""
    return pd.read_csv(path, keep_default_na=False)


def _nb201(name: str, table: pd.DataFrame) -> Problem:
    """Return NAS-Bench-201 for a data set and a device."""
    _, data, device = name.split("/")
    genes = [dict(zip(EDGES, re.findall(r"(\w+)~\d", arch), strict=True)) for arch in table["arch"]]
    latency = table[f"lat_ms_{device}"].to_numpy(float)
    return Problem(
        name,
        Space({edge: Choice(OPERATIONS) for edge in EDGES}),
        _rows(genes),
        np.stack([-table[f"{data}_val_hp12"].to_numpy(float), latency], axis=1),
        np.column_stack([table[["params_cifar10", "conv_macs_cifar10"]].to_numpy(float) / 1e6, _paths(genes)]),
        table[f"{data}_test_hp200"].to_numpy(float),
        float(np.median(latency)),
    )


def _paths(cells: Sequence[Mapping[str, str]]) -> np.ndarray:
    """Return what the paths of a cell tell: ``(n, 16)``.

    A path leads from the first node to the last over edges that are not ``none``. Of the paths: how many have 0, 1, 2,
    3 convolutions, the least and the most of them (-1 without a path), how many there are, how many pool, how many only
    pass on; their convolutions of either size in sum, those of 3x3 on the best of them. Of the edges that are on some
    path, for the others do nothing: how often each operation is there.

    Source: paths as features of a cell: White et al. 2021, BANANAS, https://arxiv.org/abs/1910.11858, sec. 4.
    """
    found = []
    for cell in cells:
        edges = [path for path in PATHS if all(cell[edge] != "none" for edge in path)]
        paths = [[cell[edge] for edge in path] for path in edges]
        small, large, pools, passes = ([path.count(operation) for path in paths] for operation in USEFUL)
        depths = [one + three for one, three in zip(small, large, strict=True)]
        n_pooling = sum(n > 0 for n in pools)
        n_passing = sum(n == len(path) for n, path in zip(passes, paths, strict=True))
        used = [cell[edge] for edge in {edge for path in edges for edge in path}]
        row = [depths.count(depth) for depth in range(4)]
        row += [min(depths, default=-1), max(depths, default=-1), len(paths), n_pooling, n_passing]
        row += [sum(small), sum(large), max(large, default=0), *(used.count(operation) for operation in USEFUL)]
        found.append(row)
    return np.array(found, np.float64)


def _macro(name: str, table: pd.DataFrame, conditional: bool) -> Problem:
    """Return NAS-Bench-Macro with a gene a layer, or with two of which one is conditional."""
    codes = [[int(digit) for digit in arch[1:]] for arch in table["arch"]]
    accuracy = table["test_acc_mean"].to_numpy(float)
    return Problem(
        name,
        *(_as_pairs(codes) if conditional else _as_layers(codes)),
        np.stack([-accuracy, table["flops"].to_numpy(float) / 1e6], axis=1),
        table[["params"]].to_numpy(float) / 1e6,
        accuracy,
        np.inf,
    )


def _as_layers(codes: Sequence[Sequence[int]]) -> tuple[Space, dict[Key, int]]:
    """Return one gene a layer: 0 identity, 1 expansion by 3 with a 3x3 kernel, 2 by 6 with 5x5."""
    space = Space({f"layer_{i}": Choice((0, 1, 2), ordered=True) for i in LAYERS})
    return space, _rows({f"layer_{i}": code[i] for i in LAYERS} for code in codes)


def _as_pairs(codes: Sequence[Sequence[int]]) -> tuple[Space, dict[Key, int]]:
    """Return two genes a layer: whether it is kept, and if so its expansion."""
    pairs = [(f"keep_{i}", f"expand_{i}") for i in LAYERS]
    space = Space(
        {gene: Choice(values) for keep, expand in pairs for gene, values in ((keep, (False, True)), (expand, (3, 6)))},
        {expand: Condition(keep, (True,)) for keep, expand in pairs},
    )
    flat = (
        {f"keep_{i}": code[i] > 0 for i in LAYERS} | {f"expand_{i}": 6 if code[i] == 2 else 3 for i in LAYERS}
        for code in codes
    )
    return space, _rows(space.canonical(genes) for genes in flat)


def _rows(genes: Iterable[Genes]) -> dict[Key, int]:
    """Return canonical genes -> row."""
    return {tuple(one.items()): row for row, one in enumerate(genes)}
