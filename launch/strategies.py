"""`nas strategies`: how a space can be searched, by name, and what may be set of each way."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from launch.listing import print_line, print_table
from nas.strategies import OPTUNA_SAMPLERS, STRATEGIES, check_strategy
from nas.strategies.base import Strategy
from nas.strategies.names import GIVEN, OPTUNA_SUITS

LIMITS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}  # of a JSON schema


def strategies(name: str | None) -> int:
    """Print all strategies, or one with its options; return the exit code."""
    if name is None:
        rows = [*((row, _class(row).suits) for row in STRATEGIES), *OPTUNA_SUITS.items()]
        print_table(("strategy", "good for"), rows)
        return 0
    check_strategy(name)
    if name in STRATEGIES:
        cls = _class(name)
        print_line(f"{name}: {cls.suits}; objectives: {cls.max_objectives or 'any number'}")
        print_table(("option", "default", "allowed", "what it does"), _options(cls))
    else:
        print_line(f"{name}: {OPTUNA_SUITS[name]}; class {OPTUNA_SAMPLERS[name].replace(':', '.')}")
        print_table(("option", "default"), _parameters(OPTUNA_SAMPLERS.load(name)))
    print_line("Set one with: --set search.options.OPTION=VALUE")
    return 0


def _class(name: str) -> type[Strategy]:
    """Return one of our strategies."""
    cls: type[Strategy] = STRATEGIES.load(name)
    return cls


def _options(cls: type[Strategy]) -> Iterator[tuple[str, ...]]:
    """Return option, default, range and meaning of all options of a strategy of ours."""
    for option, schema in cls.options_model.model_json_schema().get("properties", {}).items():
        yield option, str(schema.get("default")), _allowed(schema), schema.get("description", "")


def _allowed(schema: Mapping[str, Any]) -> str:
    """Return the type and range of an option in words, e.g. ``integer >= 2``."""
    if "anyOf" in schema:
        return " or ".join(_allowed(part) for part in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    limits = (f"{sign} {schema[key]:g}" for key, sign in LIMITS.items() if key in schema)
    kind = str(schema.get("type", "anything"))
    return " ".join(["None" if kind == "null" else kind, *limits])


def _parameters(cls: type) -> Iterator[tuple[str, ...]]:
    """Return argument and default of a sampler of Optuna; its documentation says what they mean."""
    for option, parameter in inspect.signature(cls).parameters.items():
        if option not in GIVEN:
            yield option, str(parameter.default)
