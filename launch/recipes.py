"""Recipes as files: YAML in, a checked `Recipe` out, every mistake named with its line.

Devices that the recipe only names are filled in with what is known of them, so a saved recipe needs no other file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from launch.device_files import with_devices
from launch.yaml_files import assignments, explained, plain_values, read_text
from nas.files import atomic_write
from nas.recipe import DataSettings, Recipe, TeacherSettings
from search_spaces.errors import ConfigError
from search_spaces.registry import unknown_name

EMBEDDED = Path(__file__).parent / "recipes"
REPLACED = {"device.name": "devices", "devices": "device"}  # what is named on the command line, and what that replaces


def embedded_names() -> list[str]:
    """Return the names of the recipes that ship with the package."""
    return sorted(path.stem for path in EMBEDDED.glob("*.yaml"))


def embedded(name: str) -> Path:
    """Return the file of a recipe that ships with the package.

    Raises:
        ConfigError: There is none of this name.
    """
    if name not in embedded_names():
        raise unknown_name("recipe", name, embedded_names())
    return EMBEDDED / f"{name}.yaml"


def load_recipe(source: str | None, overrides: Mapping[str, Any], sets: Sequence[str]) -> Recipe:
    """Return the recipe of a file or an embedded name, changed by the command line.

    Args:
        source: A path, the name of an embedded recipe, or None for the defaults.
        overrides: Dotted key to value; None values are ignored.
        sets: ``key=value`` strings, the value read as YAML; they win over all else.

    Raises:
        ConfigError: One line a mistake, with file, line and key.
    """
    path = _find(source) if source else None
    text = read_text(path) if path else ""
    raw = _parse(text, path)
    if isinstance(raw.get("device"), str):
        raw["device"] = {"name": raw["device"]}
    for key, value in {**overrides, **assignments(sets, "--set")}.items():
        if value is not None:
            raw.pop(REPLACED.get(key, ""), None)
            _set(raw, key, value)
    try:
        return with_devices(Recipe.model_validate(raw))
    except ValidationError as error:
        raise ConfigError(explained(error, text, path, Recipe)) from None


def check_pair(recipe: Recipe) -> None:
    """Refuse data without a teacher, or a teacher without data: the defaults of a recipe do not fit a stranger.

    Raises:
        ConfigError: One of them has been left at its default.
    """
    if recipe.data == DataSettings():
        raise ConfigError(f"--data: missing for teacher {recipe.teacher.model!r}; give a file or hub id of its task.")
    if recipe.teacher == TeacherSettings():
        raise ConfigError(
            f"--teacher: missing for data {recipe.data.source!r}; give a trained model, or train one with: "
            "--set teacher.finetune.epochs=3"
        )


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write a resolved recipe as YAML."""
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    atomic_write(path, text.encode())


def _find(source: str) -> Path:
    """Return the file of a path or an embedded name."""
    path = Path(source)
    if path.is_file():
        return path
    if path.suffix or "/" in source:
        raise ConfigError(f"recipe {source}: no such file; embedded recipes: {', '.join(embedded_names())}.")
    return embedded(source)


def _parse(text: str, path: Path | None) -> dict[str, Any]:
    """Return the YAML mapping of a text."""
    raw = plain_values(text, path)
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(f"recipe {path}: holds a {type(raw).__name__}; a recipe is a mapping of sections.")
    return raw


def _set(raw: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in nested mappings, making sections on the way."""
    *sections, last = key.split(".")
    for section in sections:
        if not isinstance(raw.get(section), dict):
            raw[section] = {}
        raw = raw[section]
    raw[last] = value
