"""From numbers to places on a chart, and to words. Pure.

Scale.over([0.2, 4.9], 0, 400)      values -> pixels, both ends at round numbers
ticks(0.2, 4.9)                     [1.0, 2.0, 3.0, 4.0]
thin(points, 300)                   a long series as a short one
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """A linear map of [low, high] to [start, end]."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Iterable[float], start: float, end: float, *, tight: bool = False) -> Scale:
        """One that holds all `values`, with a margin of round numbers unless `tight`."""
        found = list(values) or [0.0, 1.0]
        low, high = min(found), max(found)
        if low == high:
            room = abs(low) * 0.1 or 1.0
            low, high = (low, high + room) if tight else (low - room, high + room)
        if not tight:
            step = nice_step(low, high)
            low, high = math.floor(low / step) * step, math.ceil(high / step) * step
        return cls(low, high, start, end)

    def __call__(self, value: float) -> float:
        """The place of a value, to a tenth of a pixel."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)


def nice_step(low: float, high: float, most: int = 5) -> float:
    """1, 2 or 5 times a power of ten, so that [low, high] has about `most` of it."""
    rough = (high - low) / most
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(times * power for times in (1, 2, 5, 10) if times * power >= rough * 0.999)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """The round numbers in [low, high]."""
    step = nice_step(low, high, most)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def number(value: float | None) -> str:
    """As people read it: four digits that count, and thousands apart."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e12 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """0.4 s, 12 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    for size, name, small, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            whole, rest = divmod(int(seconds), size)
            return f"{whole} {name} {rest // small} {smaller}" if rest // small else f"{whole} {name}"
    raise AssertionError("less than a minute was told above")


@dataclass(frozen=True)
class Bin:
    """Points of a series that are shown as one."""

    x: float
    """Of the last of them."""
    mean: float
    low: float
    high: float
    count: int


def thin(points: Sequence[tuple[float, float | None]], most: int) -> list[Bin | None]:
    """At most about `most` bins of equally many points; None where the series has a hole: no value for a whole bin."""
    size = max(1, math.ceil(len(points) / most))
    bins: list[Bin | None] = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        values = [value for _, value in part if value is not None and math.isfinite(value)]
        if values:
            bins.append(Bin(part[-1][0], sum(values) / len(values), min(values), max(values), len(part)))
        elif bins and bins[-1] is not None:
            bins.append(None)
    return bins
