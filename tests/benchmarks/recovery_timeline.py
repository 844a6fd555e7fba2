"""From moments of a job that lost a worker to the parts of its cold start and of its recovery. Pure.

    asked ── start ── begun ── load ── loaded ── first step ── the first step is done      cold start
    killed ── detect ── noticed ── start ── begun ── load ── loaded ── first step ── …     recovery

Moments are Unix times in seconds, all of one machine's clock.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Parts = dict[str, float]
"""Seconds of each part, in their order."""
PARTS = ("detect", "start", "load", "first step")


@dataclass(frozen=True)
class Beginning:
    """Of an attempt, on rank 0."""

    begun: float
    """`workers.train.loop.train` is called."""
    loaded: float
    """Model, engine and checkpoint are there: the first batch is waited for."""
    stepped: float
    """The first optimizer step is done."""


@dataclass(frozen=True)
class Timeline:
    """A job from its start to the first step after a worker was killed."""

    asked: float
    """The first attempt is started."""
    first: Beginning
    killed: float
    """SIGKILL."""
    noticed: float
    """Whoever starts the next attempt knows that one is needed."""
    second: Beginning


def beginnings(told: Iterable[tuple[float, float]], metrics: Iterable[Mapping[str, Any]]) -> list[Beginning]:
    """Of each attempt that came to a step. told: (begun, loaded) of each, in any order; metrics: records of steps."""
    stepped: dict[int, float] = {}
    for record in metrics:
        stepped[record["attempt"]] = min(record["time"], stepped.get(record["attempt"], record["time"]))
    return [
        Beginning(begun, loaded, stepped[attempt])
        for (begun, loaded), attempt in zip(sorted(told), sorted(stepped), strict=True)
    ]


def cold_start(timeline: Timeline) -> Parts:
    """Parts of the first attempt's start."""
    first = timeline.first
    return _parts(PARTS[1:], timeline.asked, first.begun, first.loaded, first.stepped)


def recovery(timeline: Timeline) -> Parts:
    """Parts of the way from the kill to the next attempt's first step."""
    second = timeline.second
    return _parts(PARTS, timeline.killed, timeline.noticed, second.begun, second.loaded, second.stepped)


def _parts(names: Iterable[str], *moments: float) -> Parts:
    assert list(moments) == sorted(moments), f"moments out of order: {moments}"
    return {name: end - begin for name, (begin, end) in zip(names, itertools.pairwise(moments), strict=True)}
