"""Mirrors a search into MLflow: one parent run, one child run per trial, figures, curves and files.

Every call to MLflow happens on one background thread, in order, so a slow or absent server never holds up a search:
what could not be written stays queued, is tried again, and is written again by a resumed search.
"""

import logging
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from launch.mlflow_mirror import Mirror, is_refusal
from nas.tracker import State, TrialRun

log = logging.getLogger(__name__)

AWAY = (MlflowException, SQLAlchemyError, OSError)  # what a tracker that is down, locked, full or damaged raises
RETRY_S = 30.0
START_S = 60.0
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

        Raises:
            ConfigError: The store is there but of another version of MLflow: waiting would not help.
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
        """Queue one write and return at once; after `finish` there is nothing left to write to."""
        if self._is_closed:
            return
        self._queue.append(write)
        self._thread.submit(self._drain)

    def _drain(self) -> None:
        """Write what is queued, oldest first, until MLflow fails to answer."""
        while self._queue and time.monotonic() >= self._retry_at:
            try:
                self._queue[0]()
            except AWAY as error:
                reason = str(error).partition("\n")[0][:200]
                if self.run_id is None or not is_refusal(error):
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


def _search_id(run_folder: Path) -> str:
    """Return the id that ties this folder to its parent run, made once, before the run: a crash cannot part them."""
    path = run_folder / ID_FILE
    if not path.exists():
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_text(uuid.uuid4().hex)
        fresh.replace(path)
    return path.read_text().strip()
