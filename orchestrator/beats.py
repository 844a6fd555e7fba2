"""What the ranks of an attempt said last. Each rank beats (`beating.py`), the driver asks (`monitor.py`); in between
stands an actor (`desk.py`)."""

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

    attempt: int
    rank: int
    node: str
    """Ray's id of its node."""
    moment: Moment


class Beats:
    """What the ranks of an attempt said last. Its clock alone counts."""

    def __init__(self, hang_after_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._hang_after_seconds = hang_after_seconds
        self._clock = clock
        self._attempt = 0
        self._heard: dict[int, Heard] = {}
        self._places: dict[int, str] = {}
        """The nodes of all ranks that have beaten."""
        self._wants_stacks = False
        self._stacks: dict[int, str] = {}

    def begin(self, attempt: int, world_size: int) -> None:
        """From now on the ranks of this attempt are listened to, and no others."""
        began = self._clock()
        self._attempt = attempt
        self._heard = {rank: Heard(rank, None, None, began, began) for rank in range(world_size)}
        self._places = {}
        self._wants_stacks = False
        self._stacks = {}

    def beat(self, beat: Beat) -> bool:
        """Takes a beat. Returns whether the rank shall say where its threads are."""
        before = self._heard.get(beat.rank)
        if before is None or beat.attempt != self._attempt:  # it has left, or is of the attempt before
            return False
        now = self._clock()
        self._places[beat.rank] = beat.node
        # Another shard of the same batch is headway too.
        moved = before.moved if before.moment == beat.moment else now
        self._heard[beat.rank] = Heard(beat.rank, beat.node, beat.moment, now, moved)
        return self._wants_stacks and beat.rank not in self._stacks

    def leave(self, attempt: int, rank: int) -> None:
        """The rank is done, or has failed: Ray Train will say which."""
        if attempt == self._attempt:
            self._heard.pop(rank, None)

    def look(self, attempt: int) -> tuple[Hang | None, set[str]]:
        """The hang, if there is one, and the nodes that have ranks; nothing of an attempt that has not begun."""
        if attempt != self._attempt:
            return None, set()
        heard = list(self._heard.values())
        nodes = {one.node for one in heard if one.node is not None}
        return find_hang(heard, self._clock(), self._hang_after_seconds), nodes

    def ask_for_stacks(self) -> set[int]:
        """From now on ranks that beat are asked for their stacks. Returns those that beat just now."""
        self._wants_stacks = True
        return {one.rank for one in self._heard.values() if self._clock() - one.beat < STACKS_SECONDS}

    def take_stacks(self, attempt: int, rank: int, stacks: str) -> None:
        """Takes what a rank was asked for."""
        if attempt == self._attempt:
            self._stacks[rank] = stacks

    def stacks(self) -> dict[int, str]:
        """Those that came, by rank."""
        return self._stacks
