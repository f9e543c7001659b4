"""Options of a strategy: a frozen pydantic model, the same for a recipe and for Python."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ConfigDict, ValidationError

from nas.recipe import Section
from search_spaces.errors import ConfigError
from search_spaces.registry import unknown_name

WHERE = "search.options"


class Options(Section):
    """What may be set of a strategy; this one has nothing to set. True is no number here, nor is a text."""

    model_config = ConfigDict(strict=True)


Chosen = TypeVar("Chosen", bound=Options)


def check_options(strategy: str, model: type[Chosen], values: Mapping[str, Any]) -> Chosen:
    """Return the options of a strategy.

    Args:
        strategy: Its name, for the message.
        model: What it allows.
        values: Option -> value.

    Raises:
        ConfigError: An option is unknown or its value is not allowed; it lists the known names, or what is allowed.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in (WHERE, *fault["loc"]))
        if fault["type"] == "extra_forbidden":
            name = str(fault["loc"][-1])
            raise unknown_name(f"{where}: option of {strategy}", name, list(model.model_fields)) from None
        raise ConfigError(f"{where}: {fault['input']!r} is not allowed; {_lower(fault['msg'])}.") from None


def _lower(sentence: str) -> str:
    """Return a sentence with a small first letter."""
    return sentence[0].lower() + sentence[1:]
