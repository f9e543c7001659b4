"""Run folders in use: held by one process, and not left behind by an error that came before anything slow."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from nas.lab import IDENTITY
from nas.run_folder import RunFolder
from search_spaces.errors import NasError


@contextmanager
def occupied(*folders: RunFolder) -> Iterator[None]:
    """Make and hold folders; one that is new and has nothing to go on from is removed after an expected error.

    Raises:
        ConfigError: A folder cannot be written.
        StateError: Another process holds one.
    """
    new = [folder for folder in folders if not folder.path.exists()]
    with ExitStack() as held:
        try:
            for folder in folders:
                folder.create()
                folder.lock()
                held.callback(folder.unlock)
            yield
        except NasError:
            for folder in new:
                if folder.path.exists() and _is_empty(folder):
                    shutil.rmtree(folder.path)
            raise


def _is_empty(folder: RunFolder) -> bool:
    """Return whether nothing in a folder took long to make."""
    return {path.name for path in folder.teacher.iterdir()} <= {IDENTITY} and not folder.cache.exists()
