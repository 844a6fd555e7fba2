"""What happened in a run, put together from its events and the metrics of all its attempts. Pure."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_OVER = ("run_succeeded", "run_failed", "run_interrupted")


@dataclass(frozen=True, slots=True)
class Step:
    """A step as the metrics have it. None stands for what is no finite number."""

    step: int
    attempt: int
    time: float
    """Unix time at its end."""
    loss: float | None
    logit_scale: float | None
    learning_rate: float | None
    grad_norm: float | None
    samples_per_second: float | None
    seconds: float
    """That it took, waiting for data included."""
    wait_seconds: float
    """That it waited for data."""
    phases: dict[str, float]
    """Rank 0's seconds by phase, the save before the step among them; empty where an older version wrote the run."""
    health: dict[str, Any] | None
    """`workers.train.health.Health` as JSON, where the step was checked."""

    @classmethod
    def of(cls, record: dict[str, Any], global_batch: int) -> Step:
        """A line of the metrics; older versions have fewer fields."""
        rate = record.get("samples_per_second")
        seconds = global_batch / rate if rate else 0.0
        return cls(
            step=record["step"],
            attempt=record["attempt"],
            time=record.get("time", 0.0),
            loss=record.get("loss"),
            logit_scale=record.get("logit_scale"),
            learning_rate=record.get("learning_rate"),
            grad_norm=record.get("grad_norm"),
            samples_per_second=rate,
            seconds=seconds,
            wait_seconds=seconds * (record.get("data_wait_fraction") or 0.0),
            phases=record.get("phase_seconds") or {},
            health=record.get("health"),
        )


@dataclass(frozen=True)
class Attempt:
    """An attempt as the events have it."""

    number: int
    began: float
    """Unix time."""
    ended: float | None
    """None while it goes on."""
    first_step: int
    """Optimizer steps behind the checkpoint that it went on from."""
    last_step: int
    """The last one that it did."""
    world_size: int
    end: str
    """`running`, `finished`, `failed`, `saved` (asked to end, and committed), or `cut off` (its driver is gone)."""
    cause: str
    """Why it failed or was saved."""


def attempts_of(events: Sequence[dict[str, Any]], steps: Sequence[Step], *, is_going: bool) -> tuple[Attempt, ...]:
    """The attempts, in the order in which they began.

    events: oldest first. steps: of all attempts, also those that were done again.
    """
    last_of: dict[int, Step] = {}
    for step in steps:
        last_of[step.attempt] = max(step, last_of.get(step.attempt, step), key=lambda each: each.step)
    began = [place for place, event in enumerate(events) if event["event"] == "attempt_started"]
    found = []
    for place, until in itertools.pairwise([*began, len(events)]):
        start, behind = events[place], events[place + 1 : until]
        newest = last_of.get(start["attempt"])
        ended, end, cause = _end(start, behind, newest, is_going=is_going and until == len(events))
        found.append(
            Attempt(
                number=start["attempt"],
                began=start["time"],
                ended=ended,
                first_step=start["step"],
                last_step=newest.step if newest else start["step"],
                world_size=start["world_size"],
                end=end,
                cause=cause,
            )
        )
    return tuple(found)


def _end(
    start: dict[str, Any], behind: Sequence[dict[str, Any]], newest: Step | None, *, is_going: bool
) -> tuple[float | None, str, str]:
    """When, how and why an attempt ended. behind: the events from its start to the next one's."""
    for event in behind:
        match event["event"]:
            case "attempt_failed":
                return event["time"], "failed", f"{event.get('kind') or 'failure'}: {event.get('cause')}"
            case "attempt_ended":
                return event["time"], "saved", event.get("reason") or ""
            case "training_finished":
                return event["time"], "finished", ""
            case "run_interrupted":
                return event["time"], "saved", "interrupted"
            case "run_failed":
                return event["time"], "failed", event["message"]
    if is_going:
        return None, "running", ""
    return (newest.time if newest else start["time"]), "cut off", "its driver was ended"


@dataclass(frozen=True)
class Spent:
    """What the time of a run went into, in seconds."""

    computing: float
    """Steps, without waiting for their data."""
    data_wait: float
    starting: float
    """From the begin of each attempt to that of its first step: processes, model, checkpoint."""
    again: float
    """Steps that a later attempt did again."""
    saving: float
    """The rest of the attempts: what stops training between steps, checkpoints above all, and the ends."""
    between: float
    """From the end of an attempt to the begin of the next one."""
    evaluating: float
    """Behind the last step, for evaluations that were not done beside training."""


def time_spent(
    attempts: Sequence[Attempt],
    steps: Sequence[Step],
    superseded: Sequence[Step],
    events: Sequence[dict[str, Any]],
    now: float,
) -> Spent:
    """Of a run that goes on, up to `now`."""
    of_attempt: dict[int, list[Step]] = defaultdict(list)
    for step in (*steps, *superseded):
        of_attempt[step.attempt].append(step)
    starting = saving = 0.0
    for attempt in attempts:
        done = sorted(of_attempt[attempt.number], key=lambda step: step.time)
        end = now if attempt.ended is None else attempt.ended
        start = done[0].time - done[0].seconds if done else end
        starting += max(0.0, start - attempt.began)
        saving += max(0.0, end - start - sum(step.seconds for step in done))
    return Spent(
        computing=sum(step.seconds - step.wait_seconds for step in steps),
        data_wait=sum(step.wait_seconds for step in steps),
        starting=starting,
        again=sum(step.seconds for step in superseded),
        saving=saving,
        between=sum(
            max(0.0, later.began - earlier.ended)
            for earlier, later in itertools.pairwise(attempts)
            if earlier.ended is not None
        ),
        evaluating=_evaluating(events, now),
    )


def _evaluating(events: Sequence[dict[str, Any]], now: float) -> float:
    seconds, since = 0.0, None
    for event in events:
        if event["event"] == "training_finished":
            since = event["time"]
        elif event["event"] in _OVER and since is not None:
            seconds, since = seconds + event["time"] - since, None
    return seconds + (0.0 if since is None else max(0.0, now - since))
