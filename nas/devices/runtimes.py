"""Where runtimes live that cannot be where the project is, and how to make their environments.

The folder is ``$PRENTICE_RUNTIMES``, else ``~/.local/share/prentice/runtimes``, with a virtual environment for each
runtime. Knows paths and names of packages; not runtimes themselves.
"""

import importlib.metadata
import importlib.util
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from search_spaces.errors import MissingDependencyError
from search_spaces.registry import unknown_name

FOLDER = "PRENTICE_RUNTIMES"  # environment variable
DEFAULT_FOLDER = Path("~/.local/share/prentice/runtimes")
ASKING_S = 60.0
SHARED = ("torch", "safetensors")  # they write a model here and read it there
VERSION = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"


@dataclass(frozen=True)
class Runtime:
    """A runtime with what converts models for it.

    Attributes:
        name: Row of `nas.devices.program.PROGRAMS`.
        title: What it is called.
        module: What its Python can import.
        package: Whose version is that of the runtime.
        needs: What its environment is made of, besides `SHARED`.
    """

    name: str
    title: str
    module: str
    package: str
    needs: tuple[str, ...]

    @property
    def python(self) -> Path:
        """Return the Python of its own environment, whether it exists or not."""
        folder = Path(os.environ.get(FOLDER) or DEFAULT_FOLDER).expanduser()
        return folder / self.name / "bin" / "python"

    @property
    def is_here(self) -> bool:
        """Return True if this very Python has it."""
        return importlib.util.find_spec(self.module) is not None

    def why_not(self) -> str | None:
        """Return None where some Python has it, else what to do."""
        if self.is_here or self.python.exists():
            return None
        return f"no Python has {self.title}. Make one with what this prints: nas devices runtime {self.name}"

    def commands(self) -> list[str]:
        """Return what makes its environment, one command a line."""
        python = str(self.python)
        return [
            shlex.join([sys.executable, "-m", "venv", str(self.python.parents[1])]),
            self._install(python),
        ]

    def version(self, python: str) -> str:
        """Return the version that a Python has.

        Raises:
            MissingDependencyError: It has none, or is no Python.
        """
        command = [python, "-c", VERSION, self.package]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=ASKING_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise MissingDependencyError(f"{python} is no Python that starts: {error}") from None
        if ended.returncode:
            raise MissingDependencyError(f"{python} has no {self.package}. Install it with: {self._install(python)}")
        return ended.stdout.strip()

    def _install(self, python: str) -> str:
        """Return the command that installs it, and what both Pythons share in the version that this one has."""
        pins = [f"{name}=={_public(importlib.metadata.version(name))}" for name in SHARED]
        return shlex.join([python, "-m", "pip", "install", *self.needs, *pins])


EXECUTORCH = Runtime("executorch", "ExecuTorch", "executorch", "executorch", ("executorch>=1.5",))
LITERT = Runtime("litert", "LiteRT", "litert_torch", "ai-edge-litert", ("litert-torch>=0.10",))
RUNTIMES: Mapping[str, Runtime] = {runtime.name: runtime for runtime in (EXECUTORCH, LITERT)}


def find_runtime(name: str) -> Runtime:
    """Return a runtime by its name.

    Raises:
        ConfigError: There is none of this name.
    """
    if name not in RUNTIMES:
        raise unknown_name("runtime", name, list(RUNTIMES))
    return RUNTIMES[name]


def _public(version: str) -> str:
    """Return a version without the name of a build, e.g. of ``2.13.0+cpu``, which not every index has."""
    return version.partition("+")[0]
