"""What a person would see: a terminal of fixed size that obeys the control codes a live display uses."""

import re

TOKEN = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|\r|\n|[^\x1b\r\n]")


class Screen:
    """The rows of a terminal, with everything that scrolled off above them."""

    def __init__(self, width: int) -> None:
        self.width, self.row, self.column, self.has_cursor = width, 0, 0, True
        self.cells: list[list[str]] = [[]]

    def feed(self, text: str) -> None:
        """Obey what a program wrote."""
        for match in TOKEN.finditer(text):
            if match[2]:
                self._control(match[1], match[2])
            elif match[0] == "\r":
                self.column = 0
            elif match[0] == "\n":
                self._next_row()
            else:
                self._put(match[0])

    @property
    def lines(self) -> list[str]:
        """Return the rows from the top to the last that is not empty."""
        return "\n".join("".join(row).rstrip() for row in self.cells).rstrip().split("\n")

    def _control(self, number: str, letter: str) -> None:
        if letter == "A":
            self.row = max(0, self.row - int(number or 1))
        elif letter == "K":
            assert number == "2", number
            self.cells[self.row] = []
        elif letter in "hl":
            assert number == "?25", number
            self.has_cursor = letter == "h"
        else:
            assert letter == "m", letter

    def _next_row(self) -> None:
        self.row, self.column = self.row + 1, 0
        if self.row == len(self.cells):
            self.cells.append([])

    def _put(self, letter: str) -> None:
        if self.column == self.width:
            self._next_row()
        row = self.cells[self.row]
        row.extend(" " * (self.column + 1 - len(row)))
        row[self.column] = letter
        self.column += 1
