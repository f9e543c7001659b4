"""A student's folder that is written whole or not at all, where the user wants it."""

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from compressors.steps import Step
from nas.files import MANIFEST
from search_spaces.errors import ConfigError

REPORT = "report.json"


def check_target(command: str, target: Path) -> None:
    """Refuse a folder that is no student, or one that cannot be written, before anything slow.

    Raises:
        ConfigError: It is one of these.
    """
    if target.exists() and not (target / MANIFEST).exists():
        raise ConfigError(f"{command} {target}: exists and is no student; choose another --output.")
    parent = next(path for path in target.absolute().parents if path.exists())
    probe = parent / f".{target.name}.{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise _unwritable(command, target, error) from None


@contextmanager
def drafted(command: str, target: Path) -> Iterator[Path]:
    """Give a draft folder beside the target, which it replaces when it is complete.

    Raises:
        ConfigError: It cannot be written.
    """
    draft = target.with_name(f"{target.name}.tmp.{os.getpid()}")
    try:
        draft.mkdir(parents=True)
        yield draft
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
    except OSError as error:
        raise _unwritable(command, target, error) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def student_name(steps: Sequence[Step]) -> str:
    """Return the name of a student: its methods in short, and a digest of their knobs."""
    words = "-".join(step.name.replace("_", "-") for step in steps)[:40].rstrip("-")
    return f"{words}-{hashlib.sha256(' '.join(map(str, steps)).encode()).hexdigest()[:6]}"


def _unwritable(command: str, target: Path, error: OSError) -> ConfigError:
    """Return what to say of a folder that cannot be written."""
    return ConfigError(f"{command} {target}: cannot be written ({error.strerror}); choose another --output.")
