"""The folder of one run: where things lie, and that only one live process uses it.

recipe.yaml, study.db, mlflow.db, log.txt, profile.json (of several devices profile-<name>.json each), teacher/, cache/,
checkpoints/, students/<name>/, report.html
"""

import fcntl
import os
from pathlib import Path

from search_spaces.errors import ConfigError, StateError


class RunFolder:
    """Paths of a run, and its lock."""

    def __init__(self, path: Path) -> None:
        """Name the folder; nothing is touched."""
        self.path = path.resolve()
        self._lock: int | None = None

    recipe = property(lambda self: self.path / "recipe.yaml")
    study = property(lambda self: self.path / "study.db")
    log = property(lambda self: self.path / "log.txt")
    profile = property(lambda self: self.path / "profile.json")
    teacher = property(lambda self: self.path / "teacher")
    cache = property(lambda self: self.path / "cache")
    checkpoints = property(lambda self: self.path / "checkpoints")
    finalists = property(lambda self: self.path / "finalists")
    students = property(lambda self: self.path / "students")
    report = property(lambda self: self.path / "report.html")

    def profile_on(self, device: str) -> Path:
        """Return where the measurements of one of several devices are kept; the only one is called ""."""
        return self.path / f"profile-{device}.json" if device else self.profile

    @property
    def storage_url(self) -> str:
        """Return the Optuna storage URL of the study."""
        return f"sqlite:///{self.study}"

    def create(self) -> None:
        """Make the folder, readable by its owner only.

        Raises:
            ConfigError: The folder cannot be written.
        """
        try:
            for folder in (self.path, self.teacher, self.students):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe = self.path / ".probe"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"run folder {self.path}: cannot be written ({error.strerror}); give another place with --output."
            ) from None

    def lock(self) -> None:
        """Take the folder for this process until `unlock` or the process ends, however it ends.

        Raises:
            StateError: Another live process holds it.
        """
        handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(handle, 32).decode(errors="replace").strip()
            os.close(handle)
            raise StateError(
                f"run folder {self.path}: in use by process {holder or 'unknown'}; "
                "wait for it, stop it, or give a search or a comparison another --output."
            ) from None
        os.truncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        self._lock = handle

    def unlock(self) -> None:
        """Give the folder back; idempotent."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def fresh_folder(root: Path, name: str) -> RunFolder:
    """Return the first of ``name``, ``name-2``, ``name-3``... under ``root`` that does not exist yet."""
    number = 1
    while (root / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return RunFolder(root / (name if number == 1 else f"{name}-{number}"))
