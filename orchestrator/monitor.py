"""The driver's side of the search for ranks that hang: asks the actor that listens to them, and ends those that hang.

    with Beating(desk, attempt, rank): train(task)                on each rank: `beating.py`
    hang = Monitor(desk, attempt).look()                          once a second
    if hang: stacks = monitor.stacks(); monitor.kill()            again and again, until Ray Train has noticed

None of it touches the storage, which may be what the ranks hang on.
"""

from __future__ import annotations

import time
from typing import Any

from orchestrator import ray_cluster
from orchestrator.beats import BEAT_SECONDS, STACKS_SECONDS
from orchestrator.hang import Hang
from orchestrator.kill_workers import kill_workers


class Monitor:
    """Watches the ranks of one attempt."""

    def __init__(self, desk: Any, attempt: int) -> None:
        """desk: a handle of the actor that the ranks beat for."""
        self._nodes: set[str] = set()
        self._hang: Hang | None = None
        self._desk = desk
        self._attempt = attempt

    def look(self) -> Hang | None:
        """The hang, if there is one; it stays one. No answer is none: the next look asks again."""
        if self._hang is None:
            self._hang, self._nodes = self._ask(self._desk.look, self._attempt) or (None, self._nodes)
        return self._hang

    def nodes(self) -> set[str]:
        """Ray's ids of the nodes that had ranks at the last look."""
        return self._nodes

    def stacks(self) -> dict[int, str]:
        """Where the Python threads of each rank are, by rank, as far as they answer within STACKS_SECONDS."""
        deadline = time.monotonic() + STACKS_SECONDS
        beating: set[int] = set()
        stacks: dict[int, str] = {}
        while (not beating or beating - stacks.keys()) and time.monotonic() < deadline:
            # Again and again: where the machine stood still, all have been silent, and some beat now.
            beating |= self._ask(self._desk.ask_for_stacks) or set()
            time.sleep(BEAT_SECONDS / 4)
            stacks = self._ask(self._desk.stacks) or stacks
        return stacks

    def kill(self) -> None:
        """Kills the ranks. Ray Train notices it by itself. To be called until it has: workers that are still to come
        can't be killed yet."""
        kill_workers()

    @staticmethod
    def _ask(method: Any, *arguments: Any) -> Any:
        """What a method of the actor says, or None."""
        import ray
        from ray.exceptions import RayError

        try:
            return ray.get(method.remote(*arguments), timeout=ray_cluster.ANSWER_SECONDS)
        except RayError:
            return None
