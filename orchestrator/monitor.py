"""The driver's side of the search for ranks that hang: asks the actor that listens to them, and ends those that hang.

    monitor = Monitor(world_size=2, hang_after_seconds=300)       starts the actor: `beats.py`
    with Beating(monitor.beats, rank): train(task)                on each rank: `beating.py`
    hang = monitor.look()                                         once a second
    if hang: stacks = monitor.stacks(); monitor.kill()            again and again, until Ray Train has ended
    monitor.close()

None of it touches the storage, which may be what the ranks hang on.
"""

from __future__ import annotations

import time
from typing import Any

from orchestrator import ray_cluster
from orchestrator.beats import BEAT_SECONDS, STACKS_SECONDS, Beats
from orchestrator.hang import Hang
from orchestrator.kill_workers import kill_workers


class Monitor:
    """Watches the ranks of one attempt."""

    def __init__(self, *, world_size: int, hang_after_seconds: float) -> None:
        """Starts the actor on this node, which the driver needs anyway."""
        import ray

        self._nodes: set[str] = set()
        self._hang: Hang | None = None
        # One that died starts anew, and hears all that beat.
        actor = ray.remote(num_cpus=0, max_restarts=-1)(Beats)
        here = ray_cluster.on_node(ray.get_runtime_context().get_node_id())
        self.beats: Any = actor.options(scheduling_strategy=here).remote(world_size, hang_after_seconds)
        """The actor, for the ranks' `Beating`."""

    def look(self) -> Hang | None:
        """The hang, if there is one; it stays one. No answer is none: the next look asks again."""
        if self._hang is None:
            self._hang, self._nodes = self._ask(self.beats.look) or (None, self._nodes)
        return self._hang

    def nodes(self) -> set[str]:
        """Ray's ids of the nodes that had ranks at the last look."""
        return self._nodes

    def stacks(self) -> dict[int, str]:
        """Where the Python threads of each rank are, by rank, as far as they answer within STACKS_SECONDS."""
        beating = self._ask(self.beats.ask_for_stacks) or set()
        deadline = time.monotonic() + STACKS_SECONDS
        stacks: dict[int, str] = {}
        while beating - stacks.keys() and time.monotonic() < deadline:
            time.sleep(BEAT_SECONDS / 4)
            stacks = self._ask(self.beats.stacks) or stacks
        return stacks

    def kill(self) -> None:
        """Kills the ranks. Ray Train then gives up by itself. To be called until it has: workers that are still to come
        can't be killed yet."""
        kill_workers()

    def close(self) -> None:
        """The attempt is over."""
        import ray

        ray.kill(self.beats)

    @staticmethod
    def _ask(method: Any) -> Any:
        """What a method of the actor says, or None."""
        import ray
        from ray.exceptions import RayError

        try:
            return ray.get(method.remote(), timeout=ray_cluster.ANSWER_SECONDS)
        except RayError:
            return None
