"""What every command that works for a while needs: an orderly end, a quiet terminal, paths as people write them."""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from nas.recipe import Recipe


class Stopped(KeyboardInterrupt):
    """SIGTERM: an orderly end like Ctrl-C, with an exit code of its own."""


def absolute_paths(recipe: Recipe) -> Recipe:
    """Return the recipe with local paths that hold from any working directory, so that it resumes from anywhere."""
    data = {name: _absolute(getattr(recipe.data, name)) for name in ("source", "validation", "test")}
    teacher = {"model": _absolute(recipe.teacher.model)}
    parts = {"data": recipe.data.model_copy(update=data), "teacher": recipe.teacher.model_copy(update=teacher)}
    return recipe.model_copy(update=parts)


def _absolute(name: str | None) -> str | None:
    """Return the absolute path of what exists here; anything else, a hub id say, as it is."""
    path = Path(name or "").expanduser()
    return str(path.resolve()) if name and path.exists() else name


def short(path: Path) -> str:
    """Return a path as a person here would type it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn SIGTERM into an orderly end; a second signal ends the process at once."""

    def stop(signum: int, frame: FrameType | None) -> None:
        """Raise what the signal stands for, once."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise Stopped if signum == signal.SIGTERM else KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep other libraries' chatter off the terminal; warnings of theirs stay in their own logs."""
    for name in ("optuna", "mlflow", "alembic", "transformers", "ray", "onnxruntime", "torch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    yield
