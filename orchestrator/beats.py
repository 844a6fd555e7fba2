"""What the ranks of an attempt said last: an actor that listens. Each rank beats (`beating.py`), the driver asks
(`monitor.py`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.hang import Hang, Heard, find_hang
from workers.train.pulse import Moment

BEAT_SECONDS = 2.0
STACKS_SECONDS = 3 * BEAT_SECONDS
"""Ranks that beat answer in this time with their stacks."""


@dataclass(frozen=True)
class Beat:
    """A rank is alive."""

    rank: int
    node: str
    """Ray's id of its node."""
    moment: Moment


class Beats:
    """What the ranks of an attempt said last. The driver runs it as an actor; its clock alone counts."""

    def __init__(self, world_size: int, hang_after_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._hang_after_seconds = hang_after_seconds
        self._clock = clock
        began = clock()
        self._heard = {rank: Heard(rank, None, None, began, began) for rank in range(world_size)}
        self._wants_stacks = False
        self._stacks: dict[int, str] = {}

    def beat(self, beat: Beat) -> bool:
        """Takes a beat. Returns whether the rank shall say where its threads are."""
        before = self._heard.get(beat.rank)
        if before is None:  # it has left: this came late
            return False
        now = self._clock()
        # Another shard of the same batch is headway too.
        moved = before.moved if before.moment == beat.moment else now
        self._heard[beat.rank] = Heard(beat.rank, beat.node, beat.moment, now, moved)
        return self._wants_stacks and beat.rank not in self._stacks

    def leave(self, rank: int) -> None:
        """The rank is done, or has failed: Ray Train will say which."""
        self._heard.pop(rank, None)

    def look(self) -> tuple[Hang | None, set[str]]:
        """The hang, if there is one, and the nodes that have ranks."""
        heard = list(self._heard.values())
        nodes = {one.node for one in heard if one.node is not None}
        return find_hang(heard, self._clock(), self._hang_after_seconds), nodes

    def ask_for_stacks(self) -> set[int]:
        """From now on ranks that beat are asked for their stacks. Returns those that beat just now."""
        self._wants_stacks = True
        return {one.rank for one in self._heard.values() if self._clock() - one.beat < STACKS_SECONDS}

    def take_stacks(self, rank: int, stacks: str) -> None:
        """Takes what a rank was asked for."""
        self._stacks[rank] = stacks

    def stacks(self) -> dict[int, str]:
        """Those that came, by rank."""
        return self._stacks
