"""What driver, controller and ranks learn at the desk, without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from orchestrator.beats import Beat
from orchestrator.desk import Desk, Errors, Order
from workers.train.pulse import Moment

FIRST, SECOND = Order(1, 2, b"first"), Order(2, 2, b"second")
ERRORS = {0: b"error"}


def play(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 10))


async def begun(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """It waits for what it asks for."""
    task = asyncio.ensure_future(coroutine)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    return task


def test_failed_ranks_start_anew_with_the_next_attempt() -> None:
    async def scene() -> None:
        desk = Desk(10)
        rank = await begun(desk.take())
        driver = await begun(desk.attempt(FIRST))
        assert await rank == b"first"
        desk.tell(1, 0, "traceback")
        controller = await begun(desk.report({0: b"error"}))
        assert await driver == Errors({0: b"error"}, {0: "traceback"}, {})
        driver = await begun(desk.attempt(SECOND))
        assert await controller is True
        assert await desk.take() == b"second"
        desk.tell(1, 1, "late")
        await begun(desk.report({1: b"another"}))
        assert await driver == Errors({1: b"another"}, {}, {})

    play(scene())


def test_a_controller_that_is_dismissed_ends() -> None:
    async def scene() -> None:
        desk = Desk(10)
        await begun(desk.attempt(FIRST))
        controller = await begun(desk.report(ERRORS))
        await desk.dismiss()
        assert await controller is False
        assert await desk.report(ERRORS) is False  # of ranks that were killed, once nobody wants them

    play(scene())


def test_an_attempt_is_handed_out_again_where_the_call_was_lost() -> None:
    """What was reported meanwhile is not lost, and does not start it anew."""

    async def scene() -> None:
        desk = Desk(10)
        (await begun(desk.attempt(SECOND))).cancel()
        controller = await begun(desk.report(ERRORS))
        assert (await desk.attempt(SECOND)).pickled == ERRORS
        assert not controller.done()

    play(scene())


def test_a_desk_that_starts_anew_gets_the_attempt_again() -> None:
    """A report that came before is of this attempt, and does not start it anew."""

    async def scene() -> None:
        desk = Desk(10)
        controller = await begun(desk.report(ERRORS))
        assert (await desk.attempt(SECOND)).pickled == ERRORS
        assert not controller.done()

    play(scene())


def test_it_listens_to_the_ranks_of_the_attempt() -> None:
    async def scene() -> None:
        desk = Desk(10)
        assert desk.look(1) == (None, set())
        await begun(desk.attempt(FIRST))
        await begun(desk.attempt(SECOND))
        for attempt in (1, 2):
            desk.beat(Beat(attempt, 0, f"node-{attempt}", Moment(5, "data", "", 1)))
        assert desk.look(2) == (None, {"node-2"})
        desk.leave(2, 0)
        await begun(desk.report(ERRORS))
        assert (await desk.attempt(SECOND)).places == {0: "node-2"}

    play(scene())
