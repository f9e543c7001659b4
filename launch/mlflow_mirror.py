"""What a search looks like in MLflow: which runs, tags, parameters and metrics, each write safe to repeat.

Knows MLflow's rules for names and sizes; not when to write, nor what to do when MLflow is away.
"""

import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from alembic.util.exc import CommandError
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from nas.tracker import State, TrialRun
from search_spaces.errors import ConfigError

STATUS: dict[State, str] = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
PARENT = "mlflow.parentRunId"
SEARCH = "prentice.search"
TRIAL = "prentice.trial"


class Mirror:
    """The writes themselves, each safe to repeat after a failure half-way."""

    def __init__(self, uri: str, experiment: str, artifacts: str | None, search_id: str) -> None:
        """Remember where to write; ``open`` connects."""
        self.run_id: str | None = None
        self._where = (uri, experiment, artifacts)
        self._search_id = search_id
        self._client: Any = None
        self._experiment_id = ""
        self._children: dict[str, Run] = {}

    def open(self) -> None:
        """Connect, and create the store and the experiment when they are missing.

        Raises:
            ConfigError: The store is a database of another version of MLflow, or one half made.
        """
        uri, name, artifacts = self._where
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
        try:
            self._client = MlflowClient(uri)
            found = self._client.get_experiment_by_name(name)
        except CommandError as error:  # alembic's, when it does not know the schema's revision
            raise ConfigError(
                f"tracking: {uri} is not a store of this MLflow ({error}); move the file away, install the version of "
                "MLflow that wrote it, or search without: --set tracking.mlflow=false"
            ) from None
        self._experiment_id = found.experiment_id if found else self._client.create_experiment(name, artifacts)

    def start(self, name: str, params: Mapping[str, Any], run_id: str | None) -> None:
        """Find or create the parent run and learn which children it has."""
        run = self._parent(run_id)
        if run is None:
            run = self._client.create_run(self._experiment_id, run_name=name, tags={SEARCH: self._search_id})
        else:
            self._client.update_run(run.info.run_id, status="RUNNING")
        self._log_params(run, params)
        children = self._search(f"tags.`{PARENT}` = '{run.info.run_id}'")
        self._children = {child.data.tags[TRIAL]: child for child in children if TRIAL in child.data.tags}
        self.run_id = run.info.run_id

    def _parent(self, run_id: str | None) -> Run | None:
        """Return the run of this id, else the one this folder began, else None."""
        if run_id:
            try:
                return self._client.get_run(run_id)
            except MlflowException as error:
                if not is_refusal(error):
                    raise
        ours = self._search(f"tags.`{SEARCH}` = '{self._search_id}'")
        return next((run for run in ours if PARENT not in run.data.tags), None)

    def log_trial(self, trial: TrialRun) -> None:
        """Write one child, unless a finished one of this name exists; a half-written one is completed."""
        run = self._children.get(trial.name)
        if run is not None and run.info.status != "RUNNING":
            return
        if run is None:
            tags = {SEARCH: self._search_id, PARENT: self.run_id, TRIAL: trial.name, "prentice.number": trial.number}
            tags |= {_key(name): value for name, value in trial.tags.items()}
            texts = {name: str(value) for name, value in tags.items()}
            run = self._client.create_run(self._experiment_id, run_name=trial.name, tags=texts)
            self._children[trial.name] = run
        self._log_params(run, trial.params)
        self._log_metrics(run, _points(trial.metrics, trial.curves))
        if trial.folder is not None:
            self._log_path(run, trial.folder)
        self._client.set_terminated(run.info.run_id, STATUS[trial.state])
        self._children[trial.name] = self._client.get_run(run.info.run_id)

    def log_summary(self, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        """Write figures and files to the parent."""
        run = self._client.get_run(self.run_id)
        self._log_metrics(run, _points(metrics, {}))
        for path in files:
            self._log_path(run, path)

    def finish(self, state: State) -> None:
        """Close the parent; nothing to do when none was started."""
        if self.run_id is None:
            return
        self._client.set_terminated(self.run_id, STATUS[state])

    def _search(self, query: str) -> list[Run]:
        """Return all runs of the experiment that match."""
        page = self._client.search_runs([self._experiment_id], query, max_results=1000)
        runs: list[Run] = list(page)
        while page.token:
            page = self._client.search_runs([self._experiment_id], query, max_results=1000, page_token=page.token)
            runs += page
        return runs

    def _log_params(self, run: Run, params: Mapping[str, Any]) -> None:
        """Write the parameters a run does not have; MLflow's are write-once, so changed ones become tags."""
        texts = {_key(name): str(value) for name, value in params.items()}
        has = run.data.params
        fresh = [Param(name, text) for name, text in texts.items() if name not in has]
        for chunk in _chunks(fresh, 100):
            self._client.log_batch(run.info.run_id, params=chunk)
        changed = [RunTag(f"resumed.{n}", text) for n, text in texts.items() if n in has and has[n] != text]
        for tags in _chunks(changed, 100):
            self._client.log_batch(run.info.run_id, tags=tags)

    def _log_metrics(self, run: Run, points: Sequence[tuple[str, float, int]]) -> None:
        """Write metrics; one fixed time stamp, so that a repeated point is the same point."""
        stamp = run.info.start_time
        for chunk in _chunks([Metric(name, value, stamp, step) for name, value, step in points], 1000):
            self._client.log_batch(run.info.run_id, metrics=chunk)

    def _log_path(self, run: Run, path: Path) -> None:
        """Copy a file, or a folder under its own name."""
        if path.is_dir():
            self._client.log_artifacts(run.info.run_id, str(path), artifact_path=path.name)
        else:
            self._client.log_artifact(run.info.run_id, str(path))


def is_refusal(error: Exception) -> bool:
    """Return whether trying the same write again is hopeless: MLflow does not accept it, or its file is gone."""
    if isinstance(error, MlflowException):
        code: int = error.get_http_status_code()
        return 400 <= code < 500 and code not in (401, 403, 408, 429)
    return isinstance(error, FileNotFoundError)


def _points(metrics: Mapping[str, float], curves: Mapping[str, Sequence[float]]) -> list[tuple[str, float, int]]:
    """Return (name, value, step) of all finite figures; MLflow would store infinity as a wrong number."""
    points = [(_key(name), float(value), 0) for name, value in metrics.items()]
    points += [(_key(name), float(v), step) for name, values in curves.items() for step, v in enumerate(values)]
    return [point for point in points if math.isfinite(point[1])]


def _key(name: str) -> str:
    """Return a name that MLflow accepts as a key."""
    return re.sub(r"[^A-Za-z0-9_\-. :/]", "_", name).replace("..", "__")


def _chunks(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of at most ``size`` items: MLflow limits one request."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
