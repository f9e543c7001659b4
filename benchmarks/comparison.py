"""From runs to figures: hypervolume and gap by problem and searcher, a table, goals, a plot and one JSON file."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from peers import PEERS
from problems import Problem

COUNTS = (25, 50, 100, 200, 400)  # evaluations after which searchers are compared
NEAR_EVOLUTION = 0.98
LEARNERS = ("reinforce", "ppo")


@dataclass(frozen=True)
class Run:
    """One search: the rows tried, in order, each once."""

    problem: str
    strategy: str
    setting: str
    seed: int
    evaluations: int
    rows: list[int]
    n_asks: int
    seconds: float

    @property
    def searcher(self) -> str:
        """Return the strategy with its setting."""
        return f"{self.strategy} ({self.setting})" if self.setting else self.strategy


@dataclass(frozen=True)
class Figures:
    """One searcher on one problem, over its seeds.

    Attributes:
        curve: ``(400,)`` mean share of the true front's hypervolume after every evaluation; NaN behind its last.
        spread: ``(400,)`` its standard deviation.
        median: ``(400,)`` its median.
        gaps: Count -> mean points below the best reported accuracy; NaN where a seed found nothing within the limit.
        seconds: Median of a run.
    """

    curve: np.ndarray
    spread: np.ndarray
    median: np.ndarray
    gaps: Mapping[int, float]
    seconds: float

    def at(self, count: int) -> float:
        """Return the mean hypervolume after so many evaluations."""
        return float(self.curve[count - 1])


Results = Mapping[str, Mapping[str, Figures]]  # problem -> searcher -> figures


def write_comparison(folder: Path, problems: Sequence[Problem], runs: Sequence[Run], default: str) -> str:
    """Write ``figures.json``, ``table.md`` and ``volume.png``, and return the medians and how many goals pass.

    Args:
        folder: Where to.
        problems: Those of the runs.
        runs: All of them.
        default: The strategy of ours that the goals are for.
    """
    results = {problem.name: _figures(problem, runs) for problem in problems}
    goals = list(_goals(results, default))
    medians = _medians(results)
    (folder / "table.md").write_text("\n\n".join([medians, _by_problem(results), _goal_lines(goals)]).strip() + "\n")
    (folder / "figures.json").write_text(json.dumps({"problems": _as_json(results), "goals": goals}, indent=1))
    _plot(folder / "volume.png", results)
    passed = [line for line in _goal_lines(goals).splitlines() if not line.startswith("* ")]
    return "\n".join([medians, "", *passed, f"Every problem and goal: {folder}"])


def _figures(problem: Problem, runs: Sequence[Run]) -> dict[str, Figures]:
    """Return the figures of every searcher on a problem."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        if run.problem == problem.name:
            found.setdefault(run.searcher, []).append(run)
    return {searcher: _of_searcher(problem, seeds) for searcher, seeds in found.items()}


def _of_searcher(problem: Problem, runs: Sequence[Run]) -> Figures:
    """Return the figures of one searcher; one that gave up repeating itself keeps what it had."""
    last = runs[0].evaluations
    curves = np.full((len(runs), max(COUNTS)), np.nan)
    for curve, run in zip(curves, runs, strict=True):
        volumes = problem.volumes(run.rows)
        curve[:last] = np.pad(volumes, (0, last - len(volumes)), mode="edge")
    gaps = {count: float(np.mean([problem.gap(run.rows[:count]) for run in runs])) for count in COUNTS if count <= last}
    seconds = float(np.median([run.seconds for run in runs]))
    return Figures(curves.mean(axis=0), curves.std(axis=0), np.median(curves, axis=0), gaps, seconds)


def _searchers(results: Results) -> list[str]:
    """Return all searchers, ours first."""
    return list(dict.fromkeys(searcher for figures in results.values() for searcher in figures))


def _best_peer(figures: Mapping[str, Figures], count: int) -> tuple[str, float]:
    """Return the peer with the largest hypervolume and that volume; nobody with NaN where no peer ran."""
    volumes = {peer: figures[peer].at(count) for peer in PEERS if peer in figures}
    known = {peer: volume for peer, volume in volumes.items() if not np.isnan(volume)}
    return max(known.items(), key=lambda item: item[1]) if known else ("nobody", np.nan)


def _medians(results: Results) -> str:
    """Return medians over the problems, and how many of them each searcher wins."""
    lines = [
        f"Hypervolume / that of the true front, median over {len(results)} problems of the mean over seeds; in "
        "brackets, on how many of them it is at least the best peer. Gap: median points below the best reported "
        "accuracy.",
        "",
        _row("searcher", *(f"{count}" for count in COUNTS), *(f"gap {count}" for count in COUNTS[-3:]), "s/run"),
        _row(*["---"] * (len(COUNTS) + 5)),
    ]
    for searcher in _searchers(results):
        every = [figures for figures in results.values() if searcher in figures]
        cells = [
            f"{np.median([figures[searcher].at(count) for figures in every]):.3f}"
            f" ({sum(figures[searcher].at(count) >= _best_peer(figures, count)[1] for figures in every)})"
            for count in COUNTS
        ]
        gaps = [[figures[searcher].gaps.get(count, np.nan) for figures in every] for count in COUNTS[-3:]]
        seconds = np.median([figures[searcher].seconds for figures in every])
        lines.append(_row(searcher, *cells, *(f"{np.median(gap):.2f}" for gap in gaps), f"{seconds:.1f}"))
    return "\n".join(lines)


def _by_problem(results: Results) -> str:
    """Return the mean and spread of every searcher on every problem at every count."""
    lines = [_row("problem", "searcher", *(f"{count}" for count in COUNTS)), _row(*["---"] * (len(COUNTS) + 2))]
    for problem, figures in results.items():
        for searcher, found in figures.items():
            cells = (f"{found.at(count):.3f} ± {found.spread[count - 1]:.3f}" for count in COUNTS)
            lines.append(_row(problem, searcher, *cells))
        best = (f"{peer} {volume:.3f}" for peer, volume in (_best_peer(figures, count) for count in COUNTS))
        lines.append(_row(problem, "*best peer*", *best))
    return "\n".join(lines)


def _row(*cells: str) -> str:
    """Return a row of a markdown table."""
    return f"| {' | '.join(cells)} |"


def _goals(results: Results, default: str) -> Iterator[dict[str, object]]:
    """Yield every goal on every problem that its runs allow to judge."""
    for problem, figures in results.items():
        for searcher, found in figures.items():
            strategy, _, setting = searcher.removesuffix(")").partition(" (")
            if strategy == default and setting:
                later = 400 if setting.startswith("known") else 200
                needed = _best_peer(figures, later)[1]
                yield _goal(problem, searcher, (100, found.at(100)), f"best peer at {later}", needed)
            if strategy in LEARNERS and "random" in figures:
                yield _goal(problem, searcher, (200, found.at(200)), "random at 200", figures["random"].at(200))
            if strategy in LEARNERS and "evolution" in figures:
                needed = NEAR_EVOLUTION * figures["evolution"].at(400)
                yield _goal(problem, searcher, (400, found.at(400)), "evolution at 400 less 2 %", needed)


def _goal(problem: str, searcher: str, reached: tuple[int, float], over: str, needed: float) -> dict[str, object]:
    """Return one goal as it stands; it passes where nobody is there to beat."""
    count, volume = reached
    passed = bool(np.isnan(needed) or volume >= needed)
    needed_or_none = None if np.isnan(needed) else round(needed, 4)
    what = f"{searcher} at {count} >= {over}"
    return {"goal": what, "problem": problem, "pass": passed, "has": round(volume, 4), "needs": needed_or_none}


def _goal_lines(goals: Sequence[Mapping[str, Any]]) -> str:
    """Return a line a goal and problem, and above them how many pass."""
    lines = []
    for name in dict.fromkeys(goal["goal"] for goal in goals):
        same = [goal for goal in goals if goal["goal"] == name]
        has, needs = (np.median(np.array([goal[key] for goal in same], float)) for key in ("has", "needs"))
        passed = f"{sum(bool(goal['pass']) for goal in same)} of {len(same)} problems pass"
        lines.append(f"**{name}**: {passed}; in the median {has:.3f} against {needs:.3f}")
        lines += [
            f"* {'pass' if goal['pass'] else 'FAIL'} {goal['problem']}: {goal['has']} against {goal['needs']}"
            for goal in same
        ]
    return "\n".join(lines)


def _as_json(results: Results) -> dict[str, object]:
    """Return everything as JSON values; NaN is null."""
    return {
        problem: {
            searcher: {
                "volume": {count: _number(found.at(count)) for count in COUNTS},
                "spread": {count: _number(found.spread[count - 1]) for count in COUNTS},
                "median": {count: _number(found.median[count - 1]) for count in COUNTS},
                "gap": {count: _number(gap) for count, gap in found.gaps.items()},
                "seconds": found.seconds,
            }
            for searcher, found in figures.items()
        }
        for problem, figures in results.items()
    }


def _number(value: float) -> float | None:
    """Return a rounded number, None for NaN."""
    return None if np.isnan(value) else round(float(value), 5)


def _plot(file: Path, results: Results) -> None:
    """Draw the median over the problems of the hypervolume against evaluations; ours solid, peers dashed."""
    figure, axes = plt.subplots(figsize=(9, 6))
    for searcher in _searchers(results):
        curves = np.array([figures[searcher].curve for figures in results.values() if searcher in figures])
        median = np.median(curves, axis=0)
        axes.plot(range(1, len(median) + 1), median, label=searcher, linestyle="--" if searcher in PEERS else "-")
    axes.set(xlabel="evaluations", ylabel="hypervolume / that of the true front", xscale="log", xlim=(10, max(COUNTS)))
    axes.set_ylim(bottom=0.5)
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=120, bbox_inches="tight")
    plt.close(figure)
