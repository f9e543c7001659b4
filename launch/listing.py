"""Lists of names on a terminal: short names and a line on each, or tables of knobs and options."""

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

WIDE = 200  # columns of what is no terminal: more than any line has


def print_line(text: str) -> None:
    """Print one line, wrapped at the terminal's width."""
    Console(highlight=False, markup=False).print(text)


def print_lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of words below each other, the last column wrapped in itself where the terminal is narrow.

    Elsewhere, in a pipe say, every row is one line, as `grep` wants it.
    """
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = WIDE
    table = Table(*columns, box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for column in table.columns[:-1]:
        column.no_wrap = True
    for row in rows:
        table.add_row(*row)
    console.print(table)


def print_table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Print a table; long words break, nothing is cut off."""
    table = Table()
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(markup=False).print(table)
