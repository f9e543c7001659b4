"""The way of one search, top to bottom: prepare, profile, search, finalize.

Knows the phases and their order; Ray, MLflow and terminals only through `Executor`, `Tracker` and `Progress`.
"""

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from nas.candidates import Candidates
from nas.devices.settings import check_device, check_fits, check_lengths, resolved
from nas.executor import Executor
from nas.finalize import Finalize
from nas.foresight import foresight
from nas.goals import constraints_of, objectives_of, on
from nas.kept_profile import take_over
from nas.knowledge import Profile
from nas.meter import MeteredExecutor
from nas.objectives import LATENCY, Constraint, at, check_consistent
from nas.pareto import pareto_front
from nas.prepare import Prepared, prepare
from nas.profile import check_feasible, profiles
from nas.progress import FrontRow, Progress, Snapshot
from nas.recipe import Recipe
from nas.record import Record
from nas.retry import RetryingExecutor
from nas.run_folder import RunFolder
from nas.rungs import CONTINUES, Rungs, in_words, latest, stopped_at, trained_in_full
from nas.search import Search
from nas.seeds import knapsack_seeds
from nas.sensitivity import of_rows, to_rows
from nas.strategies import check_search, make_sampler
from nas.strategies.base import Strategy
from nas.tracker import State, Tracker, TrialRun
from search_spaces.errors import StateError
from search_spaces.families import FAMILIES
from search_spaces.registry import unknown_name

ENDED = (TrialState.COMPLETE, TrialState.FAIL)


@dataclass
class Engine:
    """One search in one run folder; `run` may be called again after any interruption, in a new process.

    Attributes:
        recipe: What is searched for.
        folder: Of the run.
        executor: Trains and measures.
        tracker: Mirrors the trials.
        progress: Hears the news.
        kept: Folder with the profiles that `nas.kept_profile` keeps of devices; None = every profile is measured.
    """

    recipe: Recipe
    folder: RunFolder
    executor: Executor
    tracker: Tracker
    progress: Progress
    kept: Path | None = None

    def run(self) -> list[dict[str, Any]]:
        """Run every phase that is not finished yet and return the delivered students, best first.

        Raises:
            ConfigError: Bad recipe, data or teacher; nothing was started.
            InfeasibleError: No student can meet the constraints.
            StateError: The search cannot go on; what was finished is kept.
        """
        check_names(self.recipe)
        self.recipe = self.recipe.on([resolved(settings) for settings in self.recipe.targets.values()])
        self.executor = meter = MeteredExecutor(RetryingExecutor(self.executor))
        with self._timed("prepare"):
            prepared = prepare(self.recipe, self.folder, self.progress, self._check_and_connect)
            meter.add(prepared.seconds)
            self.record = self._open_record(prepared)
            check_identity(self.record, prepared)
        with self._timed("start workers"):
            self.executor.start(prepared.bundle)
            run_id = self.tracker.start(self.recipe.name, _flat(prepared.bundle.recipe), self.record.attrs.get("run"))
            self.record.set_attr("run", run_id)
        with self._timed("profile"):
            if self.kept is not None and self.recipe.search.reuse_profile:
                for name, device in self.recipe.targets.items():
                    take_over(prepared.on(name, device), self.folder, self.executor, self.progress, self.kept)
            known = profiles(self.recipe.targets, prepared, self.folder, self.executor, self.progress)
            known.teacher.update(prepared.scores)
            self._report_profile(known)
            self._keep_profile(known)
            constraints = constraints_of(self.recipe)
            check_feasible(known, constraints, self.recipe.search.seed)
        with self._timed("search"):
            left_s = self._timer()
            self._plant(prepared, known, constraints)
            self._search(known, constraints, left_s)
        with self._timed("finalize"):
            students = Finalize(self.recipe, prepared, known, self.record, self.folder).run(
                self.executor, self.progress
            )
        for row in students:
            self.tracker.log_trial(_finalist_run(row, self.folder.students / row["name"]))
        self._summarise(known, students, meter)
        return students

    def _check_and_connect(self, candidates: Candidates) -> None:
        """Check the last that can be checked before the slow part, and start the workers meanwhile."""
        search = self.recipe.search
        make_sampler(search.strategy, candidates.space, search.seed, search.options)
        for name, device in self.recipe.targets.items():
            check_lengths(device, candidates.teacher.n_positions, f"devices.{name}" if name else "device")
        self.executor.connect(wait=False)

    def _open_record(self, prepared: Prepared) -> Record:
        """Create or load the study, with the strategy and the first candidates."""
        space, settings = prepared.candidates.space, self.recipe.search
        record = open_record(
            self.folder, self.recipe, make_sampler(settings.strategy, space, settings.seed, settings.options)
        )
        if "warm_start" not in record.attrs:
            first = prepared.candidates.warm_start() if self.recipe.search.warm_start else []
            for genes in first[len(record.trials()) :]:  # some may be there from an interrupted start
                record.enqueue(prepared.candidates.space.complete(genes))
            record.set_attr("warm_start", len(first))
        return record

    def _plant(self, prepared: Prepared, known: Profile, constraints: list[Constraint]) -> None:
        """Put the seeds of a knapsack behind the warm start; they are found once a run."""
        settings, n_first = self.recipe.search, int(self.record.attrs["warm_start"])
        is_asked = settings.warm_start and settings.knapsack and settings.trials > n_first  # else none gets its turn
        if is_asked and "knapsack" not in self.record.attrs:
            started = time.monotonic()
            seeds, damages = knapsack_seeds(prepared, known, objectives_of(self.recipe), constraints)
            self.record.set_attr("damages", to_rows(damages))
            self.record.set_attr("knapsack", [known.candidates.space.complete(genes) for genes in seeds])
            words = "; ".join(known.candidates.describe(genes) for genes in seeds) or "none beyond the warm start"
            self.progress.say(f"knapsack seeds: {words} ({time.monotonic() - started:.1f} s)")
        n_there = len(self.record.trials()) - n_first  # some may be there from an interrupted start
        for genes in self.record.attrs.get("knapsack", [])[n_there:]:
            self.record.enqueue(genes)

    def _search(self, known: Profile, constraints: list[Constraint], left_s: Callable[[], float]) -> None:
        """Run the search phase, mirroring every ended trial."""
        for trial in self.record.trials(ENDED):  # ended before an interruption, perhaps not mirrored yet
            self.tracker.log_trial(_trial_run(trial))
        fidelity = self.recipe.search.fidelity
        rungs = Rungs(fidelity, self.record, self.folder.checkpoints) if fidelity is not None else None
        search = Search(
            self.recipe.search,
            objectives_of(self.recipe),
            constraints,
            known,
            self.record,
            self.executor,
            on_tell=lambda trial: self._told(trial, known),
            on_tick=lambda running: self.progress.show(self._snapshot(known, running, left_s())),
            rungs=rungs,
            is_late=lambda: left_s() <= 0,
        )
        damages = of_rows(self.record.attrs.get("damages", []))
        if isinstance(self.record.sampler, Strategy):  # ours do not even propose what cannot meet a constraint
            self.record.sampler.foresee(foresight(known, search.objectives, constraints, damages))
        if (exhausted := search.run()) is not None:
            self.progress.warn(exhausted)
        if rungs is not None:
            self._keep_fidelity(rungs)

    def _timer(self) -> Callable[[], float]:
        """Return a function that says how many of the search's seconds are left, less those of earlier processes."""
        minutes, began = self.recipe.search.minutes, time.monotonic()
        before = (self.record.attrs.get("seconds") or {}).get("search", 0.0)
        return lambda: math.inf if minutes is None else 60 * minutes - before - (time.monotonic() - began)

    def _keep_fidelity(self, rungs: Rungs) -> None:
        """Say and keep how many reached which rung, and clear what only an unfinished search needs."""
        rows = rungs.halving.summary()
        self.record.set_attr("fidelity", rows)
        for line in in_words(rows):
            self.progress.say(line)
        shutil.rmtree(self.folder.checkpoints, ignore_errors=True)

    def _told(self, trial: FrozenTrial, known: Profile) -> None:
        """Mirror an ended trial and say what became of it."""
        self.tracker.log_trial(_trial_run(trial))
        if trial.state == TrialState.FAIL:
            attrs = trial.user_attrs
            self.progress.warn(f"trial {trial.number} failed ({attrs['cause']}): {attrs['message']}")
        else:
            metrics = trial.user_attrs["metrics"]
            latencies = [f"~{metrics[at(LATENCY, e.device)]:.2f} ms{on(e.device)}" for e in known.each]
            self.progress.say(
                f"trial {trial.number}: accuracy {metrics['accuracy']:.3f}, {', '.join(latencies)}, "
                f"{metrics['size_bytes'] / 1e6:.1f} MB, {_described(trial)}"
            )
            if "extrapolated" in trial.user_attrs:
                self.progress.warn(f"trial {trial.number}: its latency is a guess: {trial.user_attrs['extrapolated']}")

    def _snapshot(self, known: Profile, running: int, left_s: float) -> Snapshot:
        """Return the state of the search for a live display."""
        ended = latest(self.record.trials(ENDED))
        complete = [t for t in ended if t.state == TrialState.COMPLETE]
        rows = [_front_row(t) for t in complete]
        full = {t.number for t in trained_in_full(complete)}
        is_good = [t.number in full and max(t.constraints.values(), default=0.0) <= 0 for t in complete]
        good = [i for i, is_one in enumerate(is_good) if is_one]
        costs = np.array([[-rows[i].accuracy, rows[i].latency_ms] for i in good]).reshape(-1, 2)
        front = [rows[i] for i, keep in zip(good, pareto_front(costs), strict=True) if keep]
        front.sort(key=lambda row: -row.accuracy)
        teacher = known.teacher
        base = FrontRow("teacher", teacher["accuracy"], teacher["latency_ms"], teacher["size_bytes"], "", True)
        failed = len(ended) - len(complete)
        return Snapshot("search", len(ended), self.recipe.search.trials, running, failed, front, base, left_s)

    def _report_profile(self, known: Profile) -> None:
        """Say what the teacher and the predictor are like, on every device."""
        for each in known.each:
            teacher, report = each.teacher, each.latency.report
            self.progress.say(
                f"teacher{on(each.device)}: accuracy {known.teacher['accuracy']:.3f}, {teacher[LATENCY]:.2f} ms, "
                f"{teacher['size_bytes'] / 1e6:.1f} MB; fastest student {each.fastest_ms:.3f} ms"
            )
            if each.left_out:
                self.progress.say(f"latency predictor{on(each.device)}: left out {each.left_out}")
            self.progress.say(
                f"latency predictor{on(each.device)}: held-out error {report.mape:.1%}, {report.within_10:.0%} within "
                f"10 %, Spearman {report.spearman:.3f}, n = {report.n}"
            )

    def _keep_profile(self, known: Profile) -> None:
        """Keep in the study what a report needs of the profile, and where there are several devices of each."""
        self.record.set_attr("teacher", known.teacher)
        for name, value in _facts(known).items():
            self.record.set_attr(name, value)
        if known.others:
            self.record.set_attr("devices", {each.device: _facts(each) for each in known.each})

    def _summarise(self, known: Profile, students: list[dict[str, Any]], meter: MeteredExecutor) -> None:
        """Keep the share of overhead, and log the best student's figures."""
        spent = asdict(meter.totals())
        for name, seconds in spent.items():
            spent[name] = seconds + self.record.attrs.get(name, 0.0)
            self.record.set_attr(name, spent[name])
        self.record.set_attr("overhead", max(0.0, 1.0 - spent["productive_s"] / spent["elapsed_s"]))
        self.record.set_attr("idle", max(0.0, 1.0 - spent["worked_s"] / spent["elapsed_s"]))
        report = known.latency.report
        best = students[0]
        figures = {f"best_{name}": value for name, value in best["metrics"].items()}
        figures |= {f"teacher_{name}": value for name, value in known.teacher.items()}
        figures |= {"best_speedup": best["measurement"]["speedup"], "predictor_mape": report.mape}
        for each in known.others:
            figures[at("predictor_mape", each.device)] = each.latency.report.mape
        self.tracker.log_summary(figures, [])

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        """Book the seconds of a phase, in the study once there is one, adding to what an earlier process spent."""
        self.progress.show(Snapshot(phase))
        started = time.monotonic()
        try:
            yield
        finally:
            self._seconds = getattr(self, "_seconds", {}) | {phase: time.monotonic() - started}
            record: Record | None = getattr(self, "record", None)
            if record is not None:
                booked = dict(record.attrs.get("seconds") or {})
                for name, seconds in self._seconds.items():
                    booked[name] = booked.get(name, 0.0) + seconds
                record.set_attr("seconds", booked)
                self._seconds = {}


def open_record(folder: RunFolder, recipe: Recipe, sampler: BaseSampler | None = None) -> Record:
    """Return the record of a run, created if need be; without a sampler it is only to be read."""
    objectives = objectives_of(recipe)
    return Record.open(
        folder.storage_url,
        recipe.name,
        directions=[objective.direction for objective in objectives],
        sampler=sampler or RandomSampler(),
        metric_names=[objective.name for objective in objectives],
    )


def check_identity(record: Record, prepared: Prepared) -> None:
    """Refuse to continue a search whose space, data or teacher is another one now; a new search notes them.

    Raises:
        StateError: It names what changed.
    """
    now = {
        "space": prepared.candidates.space.fingerprint,
        "data": prepared.data.fingerprint,
        "teacher_fingerprint": prepared.teacher.fingerprint,
    }
    changed = [name.split("_")[0] for name, value in now.items() if record.attrs.get(name, value) != value]
    if changed:
        raise StateError(
            f"resume: {' and '.join(changed)} changed since this search began; "
            "restore recipe.yaml and the data, or start a new search."
        )
    for name, value in now.items():
        if name not in record.attrs:
            record.set_attr(name, value)


def check_names(recipe: Recipe) -> None:
    """Refuse unknown names and options, and a strategy that does not fit, before anything slow begins.

    Raises:
        ConfigError: It lists the known names and the nearest one, or says what is allowed.
    """
    check_consistent(constraints_of(recipe), None)
    search = recipe.search
    check_search(search.strategy, search.options, len(objectives_of(recipe)), search.trials)
    if recipe.space.family not in FAMILIES:
        raise unknown_name(FAMILIES.what, recipe.space.family, list(FAMILIES))
    cluster = recipe.cluster
    is_elsewhere = cluster.executor == "ray" and bool(cluster.address or os.environ.get("RAY_ADDRESS"))
    for device in map(resolved, recipe.targets.values()):
        check_device(device, is_here=not is_elsewhere)
        for methods in (recipe.compress, *recipe.or_compress):
            check_fits(device, methods)


def _facts(known: Profile) -> dict[str, Any]:
    """Return what a report needs of the profile of one device."""
    figures = {name: value for name, value in known.latency.report.to_json().items() if name != "variants"}
    return {"environment": known.environment, "n_tokens": known.n_tokens, "predictor": figures}


def _front_row(trial: FrozenTrial) -> FrontRow:
    """Return a finished trial as a row of the front."""
    metrics, name = trial.user_attrs["metrics"], f"trial {trial.number}"
    figures = (metrics["accuracy"], metrics["latency_ms"], metrics["size_bytes"])
    return FrontRow(name, *figures, _described(trial), measured=False)


def _described(trial: FrozenTrial) -> str:
    """Return the shape of a finished trial, after where it was stopped if it was."""
    return ", ".join(filter(None, (stopped_at(trial), trial.user_attrs["shape"])))


def _trial_run(trial: FrozenTrial) -> TrialRun:
    """Return an ended trial as the tracker sees it."""
    attrs = trial.user_attrs
    state: State = "finished" if trial.state == TrialState.COMPLETE else "failed"
    tags: dict[str, str] = {
        name: str(attrs[name])
        for name in ("shape", "cause", "message", "predicted", "rung", CONTINUES)
        if name in attrs
    }
    return TrialRun(
        trial.number,
        f"trial-{trial.number:04d}",
        state,
        attrs["genes"],
        attrs.get("metrics", {}),
        attrs.get("curves", {}),
        tags,
    )


def _finalist_run(row: dict[str, Any], folder: Path) -> TrialRun:
    """Return a delivered student as the tracker sees it, with its files."""
    metrics = {**row["metrics"], "speedup": row["measurement"]["speedup"], "accuracy_mean": row["accuracy_mean"]}
    for device, told in row.get("devices", {}).items():
        metrics[at("speedup", device)] = told["measurement"]["speedup"]
    tags = {"shape": row["shape"], "finalist": "true"}
    return TrialRun(
        row["trial"], f"finalist-{row['name']}", "finished", row["genes"], metrics, row["curves"], tags, folder
    )


def _flat(recipe: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested settings with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in recipe.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
