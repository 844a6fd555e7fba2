"""One job, disturbed in a sequence that a seed draws, and what must hold at its end."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.faults import FAULTS, JOB_FAULTS
from tests.chaos.stage import Stage
from tests.chaos.storage_faults import STORAGE_FAULTS
from workers.run import read_parts

ALL = {**FAULTS, **STORAGE_FAULTS}
"""The faults, by name."""

STEPS_A_FAULT = 60
"""Time for one: metrics come once a second, a commit every 20 steps. There is as much left when all are done."""

TOLERANCE = 1e-5
"""Between the losses of a disturbed and an undisturbed run: sums over other numbers of ranks are rounded otherwise,
which comes to 2e-6 in 720 steps that nothing disturbs."""


@dataclass(frozen=True)
class Told:
    """What happened."""

    done: list[str]
    """The faults, in words."""
    events: list[dict[str, Any]]
    """The run's event log."""

    def __str__(self) -> str:
        return "\n".join([*self.done, "", *(f"{event['event']}: {event['message']}" for event in self.events)])


def play(
    stage: Stage, root: Path | str, names: Sequence[str], seed: int = 0, say: Callable[[str], None] = lambda _: None
) -> Told:
    """Runs a job below `root` on `stage`, disturbed by the faults of these names one after the other, to its end."""
    done: list[str] = []
    steps = STEPS_A_FAULT * (1 + len(names))
    stage.new_job(root, seed, steps, as_job=not JOB_FAULTS.isdisjoint(names))
    stage.start_driver()
    for name in names:
        words = ALL[name](stage)
        if words is None:
            say(f"{name}: the job was over")
            break
        done.append(f"{name}: {words}")
        say(done[-1])
    code, output = stage.driver_ended()
    told = Told(done, stage.ledger.events())
    assert code == 0, f"{told}\n\n{output}"
    assert done or not names, f"the job was over before {names[0]}\n{told}"
    return told


def check(stage: Stage, told: Told, expected: list[dict[str, Any]]) -> None:
    """The job succeeded, and is the experiment that it would have been; expected: the metrics of that one."""
    status = stage.ledger.status()
    assert status.state == "succeeded", told
    metrics = list(stage.ledger.metrics())
    assert [record["step"] for record in metrics] == list(range(1, stage.steps + 1)), told
    digests = {record["step"]: record["batch_digest"] for record in expected}
    # Of all attempts, not only of the newest of each step.
    for record in read_parts(stage.ledger.storage, stage.ledger.run.metrics):
        assert record["batch_digest"] == digests[record["step"]], f"step {record['step']}\n{told}"
    for ours, theirs in zip(metrics, expected, strict=True):
        assert abs(ours["loss"] - theirs["loss"]) <= TOLERANCE, f"{json.dumps([ours, theirs])}\n{told}"
    attempts = [event for event in told.events if event["event"] == "attempt_started"]
    ends = [
        event
        for event in told.events
        if event["event"] in ("attempt_failed", "attempt_ended", "run_interrupted", "run_started")
    ]
    # Each attempt but the last has an end, or a driver that was started anew behind it.
    assert len(attempts) <= len(ends) + 1, told


def sequence(seed: int, length: int) -> list[str]:
    """Names of faults, drawn with repetition: those of the storage, which are many, as often as the others."""
    draws = random.Random(f"sequence {seed}")
    return [draws.choice(list(draws.choice([FAULTS, STORAGE_FAULTS]))) for _ in range(length)]


def digits_in(folder: Path) -> Path:
    """The digits as tars."""
    from workers.data.demo import write_demo

    data = folder / "digits"
    if not data.exists():
        write_demo("digits", data)
    return data
