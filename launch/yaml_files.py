"""YAML files of plain values: read with limits, and every mistake named with its line.

Files over 1 MiB or with many aliases are refused. Knows YAML and pydantic; not what is in the files.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from search_spaces.errors import ConfigError
from search_spaces.registry import unknown_name

MAX_BYTES = 1 << 20
MAX_ALIASES = 50


def read_text(path: Path) -> str:
    """Return the text of a file of reasonable size.

    Raises:
        ConfigError: It is missing, too large, or not UTF-8.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give a YAML or JSON file.")
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError(f"{path}: {path.stat().st_size:,} bytes; at most {MAX_BYTES:,} are read.")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8 text.") from None


def read_values(path: Path) -> Any:
    """Return the plain values of a YAML or JSON file.

    Raises:
        ConfigError: It is missing, too large, or not YAML.
    """
    return plain_values(read_text(path), path)


def plain_values(text: str, path: Path | None) -> Any:
    """Return the plain values of a YAML text; ``path`` is where it comes from.

    Raises:
        ConfigError: It is no YAML, or has many aliases.
    """
    try:
        aliases = sum(isinstance(token, yaml.AliasToken) for token in yaml.scan(text))
        raw = yaml.safe_load(text) if aliases <= MAX_ALIASES else None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise ConfigError(f"{path}:{line}: not valid YAML: {error.problem}; indent with spaces.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())[:200]}.") from None
    if aliases > MAX_ALIASES:
        raise ConfigError(f"{path}: {aliases} YAML aliases; at most {MAX_ALIASES} are allowed.")
    return raw


def assignments(texts: Sequence[str], option: str) -> dict[str, Any]:
    """Return the ``key=value`` strings of an option of the command line as a mapping, the values read as YAML.

    Raises:
        ConfigError: One of them is not written so, or its value is no YAML.
    """
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"{option} {text!r}: not an assignment; write key=value.")
        try:
            pairs[key] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError):
            raise ConfigError(f"{option} {text!r}: the value is not valid YAML.") from None
    return pairs


def explained(error: ValidationError, text: str, path: Path | None, model: type[BaseModel]) -> str:
    """Return one line for each mistake that pydantic found in a text which is to be a model."""
    root = yaml.compose(text) if text else None
    lines = []
    for fault in error.errors():
        keys = [str(part) for part in fault["loc"]]
        line = _line_of(root, keys)
        where = (
            f"{path}:{line}: {'.'.join(keys)}"
            if line
            else ".".join([model.__name__.removesuffix("Settings").lower(), *keys])
        )
        if fault["type"] == "extra_forbidden":
            lines.append(str(unknown_name(where, keys[-1], _keys_at(model, keys[:-1]))))
        else:
            message = fault["msg"].removeprefix("Value error, ")  # one of our own
            value = "" if isinstance(fault["input"], dict) else f"{fault['input']!r}: "  # a whole section says nothing
            lines.append(f"{where}: {value}{message[0].lower()}{message[1:]}.")
    return "\n".join(lines)


def _keys_at(root: type[BaseModel], sections: Sequence[str]) -> list[str]:
    """Return the keys that a section of a model allows, or each of a list of sections."""
    model: Any = root
    for section in (name for name in sections if not name.isdigit()):
        field = getattr(model, "model_fields", {}).get(section)
        options = getattr(field.annotation, "__args__", (field.annotation,)) if field else ()
        model = next((option for option in options if hasattr(option, "model_fields")), None)
    return list(getattr(model, "model_fields", {}))


def _line_of(node: yaml.Node | None, keys: Sequence[str]) -> int:
    """Return the line (from 1) of a nested key in a YAML document, 0 if it is not there."""
    line = 0
    for key in keys:
        if isinstance(node, yaml.SequenceNode) and key.isdigit() and int(key) < len(node.value):
            node = node.value[int(key)]
            line = node.start_mark.line + 1
            continue
        if not isinstance(node, yaml.MappingNode):
            break
        pair = next(((k, v) for k, v in node.value if k.value == key), None)
        if pair is None:
            break
        line, node = pair[0].start_mark.line + 1, pair[1]
    return line
