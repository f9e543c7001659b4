"""The templates of this package's pages and pictures, and how they are read: nothing undefined, everything escaped."""

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def template(name: str, **filters: Callable[..., Any]) -> Template:
    """Return a template of this package, with filters of its own.

    Args:
        name: Of the file, e.g. ``report.html.j2``.
        filters: By the names that the template uses.
    """
    environment = Environment(
        loader=PackageLoader("launch", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment.get_template(name)
