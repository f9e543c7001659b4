"""Mirrors a search into MLflow: one parent run, one child run per trial, figures, curves and files.

Every call to MLflow happens on one background thread, in order, so a slow or absent server never holds up a search:
what could not be written stays queued, is tried again, and is written again by a resumed search.
"""

import logging
import math
import os
import re
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning
from itertools import islice
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from nas.tracker import State, TrialRun

log = logging.getLogger(__name__)

AWAY = (MlflowException, SQLAlchemyError, OSError)  # what a tracker that is down, locked, full or damaged raises
RETRY_S = 30.0
START_S = 60.0
STATUS: dict[State, str] = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
PARENT = "mlflow.parentRunId"
SEARCH = "prentice.search"
TRIAL = "prentice.trial"
ID_FILE = ".tracking-id"


class MlflowTracker:
    """A `nas.tracker.Tracker` on any MLflow store; by default SQLite and plain files in the run folder."""

    def __init__(self, uri: str | None, experiment: str, run_folder: Path) -> None:
        """Begin to open the store in the background: a new SQLite store takes seconds.

        Args:
            uri: Tracking URI; None takes ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the run folder.
            experiment: Its name; created when missing.
            run_folder: Folder of the search; artefacts of a local store go to ``artifacts`` in it.
        """
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # the queue tries again
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
        local = f"sqlite:///{run_folder.resolve() / 'mlflow.db'}"
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or local
        artifacts = (run_folder.resolve() / "artifacts").as_uri() if self.uri == local else None
        self._mirror = Mirror(self.uri, experiment, artifacts, _search_id(run_folder))
        self._queue: deque[Callable[[], None]] = deque([self._mirror.open])
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlflow")
        self._retry_at = 0.0
        self._is_closed = False
        self._has_warned = False
        self._thread.submit(self._drain)

    @property
    def run_id(self) -> str | None:
        """Return the id of the parent run, None while there is none."""
        return self._mirror.run_id

    def start(self, name: str, params: Mapping[str, Any], run_id: str | None) -> str | None:
        """Open the parent run, reopen ``run_id``, or reopen the run this folder began before a crash.

        Returns:
            The parent's id, or None when MLflow does not answer; it is tried again as trials are logged.
        """
        self._queue.append(lambda: self._mirror.start(name, params, run_id))
        try:
            self._thread.submit(self._drain).result(START_S)
        except StillRunning:
            log.warning("tracking: %s has not answered within %g s; the search goes on without it", self.uri, START_S)
        return self.run_id

    def log_trial(self, trial: TrialRun) -> None:
        """Record one child run; a run of the same name under this parent is not written twice."""
        self._later(lambda: self._mirror.log_trial(trial))

    def log_summary(self, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        """Record figures, files and whole folders on the parent run."""
        self._later(lambda: self._mirror.log_summary(metrics, files))

    def finish(self, state: State) -> None:
        """Close the parent run after everything queued is written; idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._queue.append(lambda: self._mirror.finish(state))
        self._retry_at = 0.0  # one last try
        self._thread.submit(self._drain)
        self._thread.shutdown()
        if self._queue:
            log.warning("tracking: %d entries did not reach %s; resume to write them", len(self._queue), self.uri)

    def _later(self, write: Callable[[], None]) -> None:
        """Queue one write and return at once."""
        self._queue.append(write)
        self._thread.submit(self._drain)

    def _drain(self) -> None:
        """Write what is queued, oldest first, until MLflow fails to answer."""
        while self._queue and time.monotonic() >= self._retry_at:
            try:
                self._queue[0]()
            except AWAY as error:
                reason = str(error).partition("\n")[0][:200]
                if self.run_id is None or not _is_refusal(error):
                    self._pause(reason)
                    return
                log.warning("tracking: %s refused an entry (%s); it is left out", self.uri, reason)
            self._queue.popleft()

    def _pause(self, reason: str) -> None:
        """Leave the queue alone for a while; warn the first time."""
        self._retry_at = time.monotonic() + RETRY_S
        if not self._has_warned:
            log.warning("tracking: %s does not answer (%s); the search goes on, writes wait", self.uri, reason)
            self._has_warned = True


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
        """Connect, and create the store and the experiment when they are missing."""
        uri, name, artifacts = self._where
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
        self._client = MlflowClient(uri)
        found = self._client.get_experiment_by_name(name)
        self._experiment_id = found.experiment_id if found else self._client.create_experiment(name, artifacts)

    def start(self, name: str, params: Mapping[str, Any], run_id: str | None) -> None:
        """Find or create the parent run and learn which children it has."""
        known = self._search(f"tags.`{SEARCH}` = '{self._search_id}'")
        run = self._client.get_run(run_id) if run_id else next((r for r in known if PARENT not in r.data.tags), None)
        if run is None:
            run = self._client.create_run(self._experiment_id, run_name=name, tags={SEARCH: self._search_id})
        else:
            self._client.update_run(run.info.run_id, status="RUNNING")
        self._log_params(run, params)
        children = self._search(f"tags.`{PARENT}` = '{run.info.run_id}'")
        self._children = {child.data.tags[TRIAL]: child for child in children if TRIAL in child.data.tags}
        self.run_id = run.info.run_id

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
        """Close the parent."""
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


def _search_id(run_folder: Path) -> str:
    """Return the id that ties this folder to its parent run, made once, before the run: a crash cannot part them."""
    path = run_folder / ID_FILE
    if not path.exists():
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_text(uuid.uuid4().hex)
        fresh.replace(path)
    return path.read_text().strip()


def _is_refusal(error: Exception) -> bool:
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
