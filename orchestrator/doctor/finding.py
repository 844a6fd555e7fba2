"""What a check says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    """Jobs run, but slower than they could, or not all of them."""
    FAIL = "fail"
    """Jobs will not run."""


@dataclass(frozen=True)
class Finding:
    """One line of `tandem doctor`, and an object of its JSON."""

    check: str
    """What was looked at."""
    level: Level
    found: str
    """What there is, in words."""
    remedy: str = ""
    """What to do about it; "" where nothing needs to be done."""


GIB = float(1 << 30)
"""Bytes."""


def gib(count: float) -> str:
    """`15.6 GiB`."""
    return f"{count / GIB:.1f} GiB"
