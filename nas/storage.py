"""Optuna storages as a single writer uses them: one transaction an event, SQLite in WAL mode, created atomically.

Only public calls of Optuna and SQLAlchemy touch the tables, so `optuna-dashboard` and `optuna.load_study` read them.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from search_spaces.errors import ConfigError, StateError

BUSY_S = 30.0  # wait that long for another reader or writer, e.g. a dashboard


class Connection(sqlite3.Connection):
    """A SQLite connection that commits with one fsync of the write-ahead log and loses no commit."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """Connect and set the file up."""
        super().__init__(*args, **options)
        self.execute("PRAGMA journal_mode=WAL")
        self.execute("PRAGMA synchronous=FULL")


def sqlite_file(url: str) -> Path | None:
    """Return the file behind a storage URL; None for another database or SQLite in memory.

    Raises:
        ConfigError: The URL cannot be read.
    """
    try:
        parsed = make_url(url)
    except SQLAlchemyError:
        raise ConfigError(f"storage: {url!r} is not a database URL; write e.g. 'sqlite:///study.db'.") from None
    is_file = parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:")
    return Path(str(parsed.database)) if is_file else None


def open_storage(url: str) -> RDBStorage:
    """Return the storage behind a URL; a SQLite file is created whole or not at all, and checked if it exists.

    Raises:
        ConfigError: The URL cannot be read, or its database cannot be reached.
        StateError: The SQLite file is damaged; it is left as it is.
    """
    path = sqlite_file(url)
    if path is None:
        with storage_errors(make_url(url).render_as_string(hide_password=True), ConfigError):
            return RDBStorage(url)
    if path.exists():
        _check_file(path)
    else:
        _create_file(path)
    with storage_errors(str(path)):
        return _sqlite_storage(path)


@contextmanager
def transaction(storage: RDBStorage) -> Iterator[None]:
    """Commit all that the storage writes within the block at once, or nothing of it if the block raises.

    Raises:
        StateError: The database cannot be written.

    Source: "Joining a Session into an External Transaction", https://docs.sqlalchemy.org/en/20/orm/session_transaction.html
    """
    sessions = storage.scoped_session
    with storage_errors(str(storage.engine.url)), storage.engine.begin() as connection:
        sessions.remove()
        sessions.configure(bind=connection, join_transaction_mode="rollback_only")
        try:
            yield
        finally:
            sessions.remove()
            sessions.configure(bind=storage.engine, join_transaction_mode="conditional_savepoint")


@contextmanager
def storage_errors(where: str, kind: type[ConfigError | StateError] = StateError) -> Iterator[None]:
    """Turn what a database raises into one line."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, sqlite3.Error) as error:
        cause = getattr(error, "orig", None) or getattr(error.__cause__, "orig", None) or error
        raise kind(
            f"study {where}: the database failed ({cause}); check that it is whole and can be written."
        ) from error


def _sqlite_storage(path: Path) -> RDBStorage:
    """Return the storage of a SQLite file, tuned for one writer."""
    return RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"factory": Connection, "timeout": BUSY_S}})


def _create_file(path: Path) -> None:
    """Write an empty study database under a temporary name and rename it, so that a crash leaves no half of one."""
    draft = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    try:
        with storage_errors(str(path), ConfigError):
            _sqlite_storage(draft).engine.dispose()
        draft.chmod(0o600)
        with suppress(FileExistsError):  # another process was first: its file stays
            os.link(draft, path)
    finally:
        for suffix in ("", "-wal", "-shm"):
            draft.with_name(draft.name + suffix).unlink(missing_ok=True)


def _check_file(path: Path) -> None:
    """Read the whole file once without changing it.

    Raises:
        StateError: It is empty, cut, or no database.
    """
    verdict = "it is empty"
    if path.stat().st_size:
        try:
            with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=BUSY_S)) as connection:
                verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0].splitlines()[-1]
        except sqlite3.Error as error:
            verdict = str(error)
    if verdict != "ok":
        raise StateError(
            f"study {path}: the file is damaged ({verdict}); nothing was changed. Restore a copy or start a new run."
        )
