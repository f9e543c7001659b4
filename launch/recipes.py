"""Recipes as files: YAML in, a checked `Recipe` out, every mistake named with its line.

Only plain YAML values are read; files over 1 MiB or with many aliases are refused.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from nas.files import atomic_write
from nas.recipe import DataSettings, Recipe, TeacherSettings
from search_spaces.errors import ConfigError
from search_spaces.registry import unknown_name

EMBEDDED = Path(__file__).parent / "recipes"
MAX_BYTES = 1 << 20
MAX_ALIASES = 50


def embedded_names() -> list[str]:
    """Return the names of the recipes that ship with the package."""
    return sorted(path.stem for path in EMBEDDED.glob("*.yaml"))


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
    text = _read(path) if path else ""
    raw = _parse(text, path)
    for key, value in {**overrides, **_assignments(sets)}.items():
        if value is not None:
            _set(raw, key, value)
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(_explain(error, text, path)) from None


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
    if source not in embedded_names():
        raise unknown_name("recipe", source, embedded_names())
    return EMBEDDED / f"{source}.yaml"


def _read(path: Path) -> str:
    """Return the text of a recipe file of reasonable size."""
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError(f"recipe {path}: {path.stat().st_size:,} bytes; at most {MAX_BYTES:,} are read.")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"recipe {path}: not UTF-8 at byte {error.start}; save it as UTF-8 text.") from None


def read_values(path: Path) -> Any:
    """Return the plain values of a YAML or JSON file.

    Raises:
        ConfigError: It is missing, too large, or not YAML.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give a YAML or JSON file.")
    return _values(_read(path), path)


def _parse(text: str, path: Path | None) -> dict[str, Any]:
    """Return the YAML mapping of a text."""
    raw = _values(text, path)
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(f"recipe {path}: holds a {type(raw).__name__}; a recipe is a mapping of sections.")
    return raw


def _values(text: str, path: Path | None) -> Any:
    """Return the plain YAML values of a text."""
    try:
        aliases = sum(isinstance(token, yaml.AliasToken) for token in yaml.scan(text))
        raw = yaml.safe_load(text) if aliases <= MAX_ALIASES else None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise ConfigError(f"{path}:{line}: not valid YAML: {error.problem}; indent with spaces.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"recipe {path}: not valid YAML: {' '.join(str(error).split())[:200]}.") from None
    if aliases > MAX_ALIASES:
        raise ConfigError(f"recipe {path}: {aliases} YAML aliases; at most {MAX_ALIASES} are allowed.")
    return raw


def _assignments(sets: Sequence[str]) -> dict[str, Any]:
    """Return ``key=value`` strings as a mapping."""
    pairs = {}
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {text!r}: not an assignment; write key=value, e.g. search.trials=40.")
        try:
            pairs[key] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError):
            raise ConfigError(f"--set {text!r}: the value is not valid YAML.") from None
    return pairs


def _set(raw: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in nested mappings, making sections on the way."""
    *sections, last = key.split(".")
    for section in sections:
        if not isinstance(raw.get(section), dict):
            raw[section] = {}
        raw = raw[section]
    raw[last] = value


def _explain(error: ValidationError, text: str, path: Path | None) -> str:
    """Return one line for each mistake pydantic found."""
    root = yaml.compose(text) if text else None
    lines = []
    for fault in error.errors():
        keys = [str(part) for part in fault["loc"]]
        line = _line_of(root, keys)
        where = f"{path}:{line}: {'.'.join(keys)}" if line else f"recipe.{'.'.join(keys)}"
        if fault["type"] == "extra_forbidden":
            lines.append(str(unknown_name(where, keys[-1], _keys_at(keys[:-1]))))
        else:
            message = fault["msg"].removeprefix("Value error, ")  # one of our own
            lines.append(f"{where}: {fault['input']!r}: {message[0].lower()}{message[1:]}.")
    return "\n".join(lines)


def _keys_at(sections: Sequence[str]) -> list[str]:
    """Return the keys that a section of the recipe allows."""
    model: Any = Recipe
    for section in sections:
        field = getattr(model, "model_fields", {}).get(section)
        options = getattr(field.annotation, "__args__", (field.annotation,)) if field else ()
        model = next((option for option in options if hasattr(option, "model_fields")), None)
    return list(getattr(model, "model_fields", {}))


def _line_of(node: yaml.Node | None, keys: Sequence[str]) -> int:
    """Return the line (from 1) of a nested key in a YAML document, 0 if it is not there."""
    line = 0
    for key in keys:
        if not isinstance(node, yaml.MappingNode):
            break
        pair = next(((k, v) for k, v in node.value if k.value == key), None)
        if pair is None:
            break
        line, node = pair[0].start_mark.line + 1, pair[1]
    return line
