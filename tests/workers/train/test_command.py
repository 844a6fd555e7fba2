"""When a checkpoint is due."""

from __future__ import annotations

from typing import Any

from jobspecs.checkpoint import Checkpoint
from workers.train.command import Command, SaveSchedule


def saved(checkpoint: Checkpoint, steps: range, busy: set[int] = frozenset(), seconds: float = 1.0) -> list[int]:  # type: ignore[assignment]
    """Steps after which a checkpoint is saved, at `seconds` a step, when a save is in flight at the `busy` ones."""
    schedule = SaveSchedule(checkpoint, steps.start, 0.0)
    commands: dict[int, Any] = {
        step: schedule.command(step, (step - steps.start) * seconds, busy=step in busy, stop=False)
        for step in steps[1:]
    }
    assert set(commands.values()) <= {Command.GO, Command.SAVE}
    return [step for step, command in commands.items() if command is Command.SAVE]


def test_every_so_many_steps_at_exact_multiples() -> None:
    every_10 = Checkpoint(every_steps=10)
    assert saved(every_10, range(35)) == [10, 20, 30]
    assert saved(every_10, range(13, 35)) == [20, 30]
    assert saved(every_10, range(20, 35)) == [30]
    assert saved(Checkpoint(every_steps=1), range(4)) == [1, 2, 3]


def test_what_comes_due_while_a_save_is_in_flight_waits_for_its_end_and_moves_no_other() -> None:
    assert saved(Checkpoint(every_steps=10), range(45), busy={20, 21, 22}) == [10, 23, 30, 40]
    assert saved(Checkpoint(every_steps=10), range(45), busy=set(range(18, 33))) == [10, 33, 40]


def test_every_so_many_minutes_since_the_last() -> None:
    by_time = Checkpoint(every_steps=None, every_minutes=2)
    assert saved(by_time, range(20), seconds=30.0) == [4, 8, 12, 16]
    assert saved(by_time, range(5, 20), seconds=50.0) == [8, 11, 14, 17]
    assert saved(by_time, range(12), busy={4, 5}, seconds=30.0) == [6, 10]


def test_whichever_comes_first() -> None:
    assert saved(Checkpoint(every_steps=10, every_minutes=3), range(25), seconds=30.0) == [6, 10, 16, 20]


def test_a_request_to_end_waits_for_nothing() -> None:
    schedule = SaveSchedule(Checkpoint(every_steps=10), 0, 0.0)
    assert schedule.command(3, 1.0, busy=True, stop=True) is Command.SAVE_AND_END
