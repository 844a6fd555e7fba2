"""What events and metrics say of a run so far: the state behind the live view. Pure: no clock, no terminal.

    picture = Picture("digits-clip", time.time())
    picture.event({"event": "attempt_started", "attempt": 1, "world_size": 2, …})
    picture.progress(metrics, 350)
    picture.stage, picture.step, picture.losses.values, …

Kinds of events that it does not know change nothing.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from orchestrator.views.pace import rate, seconds_left

STAGES = {
    "run_started": "preparing",
    "mining_started": "mining negatives",
    "negatives_mined": "preparing",
    "waiting_for_workers": "waiting for workers",
    "attempt_started": "starting workers",
    "stop_requested": "stopping",
    "attempt_failed": "between attempts",
    "attempt_ended": "between attempts",
    "resume_failed": "between attempts",
    "retry": "waiting to try again",
    "training_finished": "evaluating",
    "run_succeeded": "succeeded",
    "run_interrupted": "interrupted",
    "run_failed": "failed",
}
"""What a run is at after an event of a kind."""
PACE_SECONDS = 30.0
"""The rate is that of so long: of less it jumps, of more it tells of what was."""
MOST_LOSSES = 512
"""As many are kept for the curve, at most, and half as many at least."""


class Losses:
    """A curve of bounded size over all steps: at most `MOST_LOSSES` points, each the mean of equally many."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self._each = 1
        self._pending: list[float] = []

    def add(self, loss: float) -> None:
        """The next one."""
        self._pending.append(loss)
        if len(self._pending) < self._each:
            return
        self.values.append(sum(self._pending) / self._each)
        self._pending = []
        if len(self.values) == MOST_LOSSES:
            self.values = [(a + b) / 2 for a, b in zip(self.values[::2], self.values[1::2], strict=True)]
            self._each *= 2


class Picture:
    """A run as far as it is known."""

    def __init__(self, name: str, began: float) -> None:
        """began: Unix time."""
        self.name = name
        self.began = began
        self.stage = "starting"
        self.attempt = 0
        """0: none has begun."""
        self.workers = 0
        self.failures = 0
        """Attempts that failed."""
        self.total_steps: int | None = None
        self.start = 0
        """The step that the attempt began with."""
        self.metrics: dict[str, Any] | None = None
        """The newest record of this attempt."""
        self.losses = Losses()
        self.samples_per_second = 0.0
        self.masked = 0
        """Of the batches that were seen."""
        self.commit: tuple[int, float] | None = None
        """Step and Unix time of the newest one."""
        self.evaluations: dict[str, str] = {}
        """By name, how it stands."""
        self._recent: deque[dict[str, Any]] = deque()

    @property
    def step(self) -> int:
        """Steps that the attempt has done, those before it included."""
        return self.start if self.metrics is None else int(self.metrics["step"])

    @property
    def seconds_left(self) -> float | None:
        """Of training; None while there is no rate to tell it by."""
        if self.metrics is None or self.total_steps is None or not self.samples_per_second:
            return None
        return seconds_left(self.metrics, self.total_steps, self.samples_per_second)

    def event(self, event: dict[str, Any]) -> None:
        """Something happened."""
        kind = event.get("event", "")
        self.stage = STAGES.get(kind, self.stage)
        match kind:
            case "run_started":
                self.total_steps = event.get("total_steps", self.total_steps)
                self.began = min(self.began, event["time"])  # of a run that is followed, longer ago
            case "attempt_started":
                self.attempt, self.workers, self.start = event["attempt"], event["world_size"], event["step"]
                self.metrics, self.samples_per_second = None, 0.0
                self._recent.clear()
            case "attempt_failed":
                self.failures += 1
            case "checkpoint_committed":
                self.commit = event["step"], event["time"]
            case "evaluation_started":
                self.evaluations[event["evaluation"]] = f"step {event['step']} is being scored"
            case "evaluation_finished" if "score" in event:  # those of older runs have none
                told = f"{event['main']} {event['score']:.4f} at step {event['step']}"
                self.evaluations[event["evaluation"]] = told
            case "evaluation_failed":
                again = ", is tried again" if event.get("again") else ""
                self.evaluations[event["evaluation"]] = f"failed at step {event['step']}{again}"
            case "evaluation_displaced":
                for name in event["evaluations"]:
                    self.evaluations[name] = f"step {event['step']} waits for room"

    def progress(self, metrics: dict[str, Any], total_steps: int) -> None:
        """The newest step."""
        self.total_steps = total_steps
        before = self.metrics
        if before is not None and (before["attempt"], before["step"]) == (metrics["attempt"], metrics["step"]):
            return
        if self.stage == STAGES["attempt_started"]:
            self.stage = "training"
        self.attempt, self.workers = metrics["attempt"], metrics.get("world_size", self.workers)
        self.metrics = metrics
        self.masked += metrics["masked"]
        if metrics["loss"] is not None:
            self.losses.add(metrics["loss"])
        while len(self._recent) > 1 and metrics["time"] - self._recent[1]["time"] > PACE_SECONDS:
            self._recent.popleft()
        self.samples_per_second = rate(metrics, self._recent[0] if self._recent else None)
        self._recent.append(metrics)
