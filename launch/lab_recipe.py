"""The recipe of the commands that need a teacher and its data only: nothing named means the quickstart's."""

from collections.abc import Mapping, Sequence
from typing import Any

from launch.process import absolute_paths
from launch.recipes import check_pair, load_recipe
from nas.engine import check_names
from nas.recipe import Recipe
from search_spaces.errors import ConfigError

DEFAULT = "quickstart"  # whose teacher and data are used where none are named


def lab_recipe(source: str | None, overrides: Mapping[str, Any], sets: Sequence[str]) -> Recipe:
    """Return the recipe of teacher, data, device and training, with paths that hold from any working directory.

    Args:
        source: Recipe file or embedded recipe; None: the options say all, or `DEFAULT` does.
        overrides: Dotted key to value, see `load_recipe`.
        sets: ``key=value`` strings.

    Raises:
        ConfigError: One line a mistake, with file, line and key; a teacher without data, or data without a teacher; or
            several devices.
    """
    bare = is_bare(source, overrides)
    recipe = load_recipe(DEFAULT if bare else source, overrides, sets)
    if source is None and not bare:
        check_pair(recipe)
    if len(recipe.targets) > 1:
        raise ConfigError(f"devices: {', '.join(recipe.targets)}; one is allowed here. Choose it: --set devices=[NAME]")
    check_names(recipe.model_copy(update={"compress": {}, "or_compress": ()}))  # which mean nothing in a lab
    return absolute_paths(recipe)


def is_bare(source: str | None, overrides: Mapping[str, Any]) -> bool:
    """Return whether neither a recipe nor a teacher nor data were named."""
    return source is None and not any(overrides[key] for key in ("teacher.model", "data.source"))
