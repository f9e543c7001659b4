"""Tables of strings, the only way to extend the project: ``"evolution": "nas.strategies.evolution:AgingEvolution"``.

A row is imported when it is asked for, never before, so listing what exists costs no heavy import.
"""

import difflib
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from search_spaces.errors import ConfigError


def unknown_name(what: str, name: str, known: list[str]) -> ConfigError:
    """Return the error for a name that is not in a table; it lists the known names and the nearest one."""
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return ConfigError(f"{what}: {name!r} is unknown; known: {', '.join(known)}.{hint}")


class Table(Mapping[str, str]):
    """A read-only mapping of a name to ``"module:attribute"``."""

    def __init__(self, what: str, rows: Mapping[str, str]) -> None:
        """Keep the rows; ``what`` names the kind of thing in error messages, e.g. ``"strategy"``."""
        self.what = what
        self._rows = dict(rows)

    def __getitem__(self, name: str) -> str:
        if name not in self._rows:
            raise KeyError(name)
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def load(self, name: str) -> Any:
        """Import and return the object behind a name.

        Raises:
            ConfigError: the name is not in the table.
        """
        if name not in self._rows:
            raise unknown_name(self.what, name, list(self))
        module, _, attribute = self._rows[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
