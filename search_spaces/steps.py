"""Evenly spaced floats as a sequence that is never listed; knows nothing of genes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

NEARLY = 1e-8  # a number this close to a step of a grid, in steps, is on it; the tolerance of Optuna


@dataclass(frozen=True)
class Steps(Sequence[float]):
    """The numbers ``low, low + step, ...`` up to ``high``, never listed; a number nearly on one of them is that one."""

    low: float
    high: float
    step: float

    def __len__(self) -> int:
        return round((self.high - self.low) / self.step) + 1

    @overload
    def __getitem__(self, place: int) -> float: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[float, ...]: ...

    def __getitem__(self, place: int | slice) -> float | tuple[float, ...]:
        places = range(len(self))[place]
        if isinstance(places, range):
            return tuple(self[i] for i in places)
        return min(self.high, places * self.step + self.low) + 0.0  # as Optuna rounds; never -0.0

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int | float) or not math.isfinite(value):
            return False
        place = (value - self.low) / self.step
        return 0 <= round(place) < len(self) and abs(place - round(place)) < NEARLY

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        """Return the place of a contained value."""
        place: int = round((value - self.low) / self.step)
        return place
