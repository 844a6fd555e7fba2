"""Where the driver and the processes of Ray Train leave word for each other: an actor on the driver's node.

    driver: attempt(order) ──> ranks: take(), and then they beat (`beats.py`)
    ranks: tell(traceback), controller: report(errors) ──> driver, which waits in attempt()
    controller, which waits in report(): True <── the next attempt(); False <── dismiss()

An actor that died starts anew and knows nothing: the driver, whose call fails with it, calls again, and the ranks that
train do not notice. A call of the controller's or of ranks that start fails, and the attempt of it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from orchestrator import ray_cluster
from orchestrator.beats import Beats


class DismissedError(Exception):
    """The driver wants no further attempt of this group."""


@dataclass(frozen=True)
class Order:
    """An attempt, for its ranks."""

    attempt: int
    world_size: int
    task: bytes
    """The pickled `TrainTask`: who passes it on need not import what training needs."""


@dataclass(frozen=True)
class Errors:
    """What the ranks of an attempt have failed of, by rank."""

    pickled: dict[int, bytes]
    """Exceptions, without their tracebacks."""
    told: dict[int, str]
    """Tracebacks, of the ranks that had time to tell theirs."""
    places: dict[int, str]
    """Ray's ids of their nodes, of the ranks that have beaten."""


class Desk(Beats):
    """The actor. Calls of its coroutines wait for what they ask for."""

    def __init__(self, hang_after_seconds: float) -> None:
        super().__init__(hang_after_seconds)
        self._order: Order | None = None
        self._errors: dict[int, bytes] | None = None
        self._told: dict[int, str] = {}
        self._dismissed = False
        self._changed = asyncio.Condition()

    # --- the driver ---

    async def attempt(self, order: Order) -> Errors:
        """Hands out an attempt, to ranks that start and to a controller that waits to start them; one that is handed
        out already stays as it is. Returns when its ranks have failed."""
        async with self._changed:
            if self._order is None or order.attempt != self._order.attempt:
                self._order, self._errors, self._told = order, None, {}
                self.begin(order.attempt, order.world_size)
                self._changed.notify_all()
            await self._changed.wait_for(lambda: self._errors is not None and self._number() == order.attempt)
            assert self._errors is not None
            return Errors(self._errors, self._told, self._places)

    async def dismiss(self) -> None:
        """The controller shall end rather than start ranks anew."""
        async with self._changed:
            self._dismissed = True
            self._changed.notify_all()

    # --- the controller ---

    async def report(self, errors: dict[int, bytes]) -> bool:
        """Ranks have failed. Returns, once it is known, whether new ones shall start."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._order is not None)
            failed, self._errors = self._number(), errors
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._dismissed or self._number() != failed)
            return not self._dismissed

    # --- the ranks ---

    async def take(self) -> bytes:
        """The task of the attempt."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._order is not None)
            assert self._order is not None
            return self._order.task

    def tell(self, attempt: int, rank: int, traceback: str) -> None:
        """The rank is about to fail of this."""
        if attempt == self._number():
            self._told[rank] = traceback

    def _number(self) -> int | None:
        return None if self._order is None else self._order.attempt


def open_desk(hang_after_seconds: float) -> Any:
    """Starts the actor on this node, which the driver needs anyway. Returns its handle."""
    import ray

    # One that died starts anew.
    actor = ray.remote(num_cpus=0, max_restarts=-1)(Desk)
    here = ray_cluster.on_node(ray.get_runtime_context().get_node_id())
    return actor.options(scheduling_strategy=here).remote(hang_after_seconds)
