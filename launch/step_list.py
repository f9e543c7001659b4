"""Steps as a person gives them: on the command line, and in a file."""

from collections.abc import Sequence
from pathlib import Path

from compressors.steps import Step, check_order, check_standalone
from launch.yaml_files import read_values
from search_spaces.errors import ConfigError


def wanted_steps(texts: Sequence[str], path: Path | None) -> list[Step]:
    """Return the steps of a file, then those of the command line.

    Args:
        texts: As `Step.parse` reads them.
        path: A YAML or JSON file with a list, or with a mapping that has the list under ``steps``.

    Raises:
        ConfigError: One of them is no step, or their order is impossible.
    """
    steps = [*_from_file(path), *map(Step.parse, texts)]
    check_order(steps)
    check_standalone(steps)
    return steps


def _from_file(path: Path | None) -> list[Step]:
    """Return the steps of a file."""
    if path is None:
        return []
    values = read_values(path)
    listed = values.get("steps") if isinstance(values, dict) else values
    if not isinstance(listed, list):
        raise ConfigError(f"steps {path}: holds a {type(listed).__name__}; a list of steps is expected.")
    return [Step.from_json(value) for value in listed]
