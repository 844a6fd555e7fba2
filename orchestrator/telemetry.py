"""Which figures of a job its monitoring shows, and what they are: out of the events, the metrics of the steps, and what
a rank says of its own. Pure; `exporter.py` brings them to Ray, which serves them to Prometheus as `ray_<name>`.

    figures = RunFigures("digits-clip", total_steps=400)        the driver's
    figures.event(event); figures.steps(records)
    figures.values                                              -> {("tandem_loss", (("attempt", "2"),)): 1.25, …}

    figures = RankFigures()                                     each rank's: what the driver can't know
    figures.step(metrics, bad)

All have the tag `tandem_job`, the job's name: a plain `job` would be taken for the scrape job of Prometheus, which
renames it unless it is told otherwise. Times are Unix times, as Prometheus wants them: an age is `time() - x`, and goes
on growing where nobody is left to tell it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.failure import Kind
from workers.data.rows import BadSample

if TYPE_CHECKING:
    from workers.train.record import StepMetrics  # torch, which the driver starts without

JOB, ATTEMPT, RANK = "tandem_job", "attempt", "rank"

Figure = tuple[str, tuple[tuple[str, str], ...]]
"""A metric's name, and its tags but those that all figures of a process have."""


@dataclass(frozen=True)
class Metric:
    """A metric, as it is declared once."""

    name: str
    words: str
    tags: tuple[str, ...]
    """Besides JOB."""
    kind: Literal["gauge", "counter"] = "gauge"

    @property
    def exposed(self) -> str:
        """Its name in Prometheus."""
        return f"ray_{self.name}" + ("_total" if self.kind == "counter" else "")


_OF_STEP = {
    "step": Metric("tandem_step", "Optimizer steps done.", (ATTEMPT,)),
    "loss": Metric("tandem_loss", "Of the newest step's global batch.", (ATTEMPT,)),
    "samples_per_second": Metric("tandem_samples_per_second", "Of the newest step.", (ATTEMPT,)),
    "data_wait_fraction": Metric(
        "tandem_data_wait_fraction", "Share of a step that rank 0 waits for data.", (ATTEMPT,)
    ),
    "logit_scale": Metric("tandem_logit_scale", "Inverse temperature.", (ATTEMPT,)),
    "learning_rate": Metric("tandem_learning_rate", "Of the newest step.", (ATTEMPT,)),
    "grad_norm": Metric("tandem_grad_norm", "Global L2 norm before clipping.", (ATTEMPT,)),
    "world_size": Metric("tandem_world_size", "Ranks of the attempt.", (ATTEMPT,)),
}
"""By field of the metrics of a step."""
_OF_SIDES = {
    "mean_cosine": Metric("tandem_mean_cosine", "Of different rows of a side; 1 is collapsed.", (ATTEMPT, "side")),
    "effective_rank": Metric("tandem_effective_rank", "Dimensions that a side uses.", (ATTEMPT, "side")),
}
"""By field of a step's health."""
_ACCURACY = Metric("tandem_batch_accuracy", "Share of queries whose positive beats the batch.", (ATTEMPT,))
_TOTAL_STEPS = Metric("tandem_total_steps", "Steps that the run has.", ())
_ATTEMPT = Metric("tandem_attempt", "The newest attempt's number.", ())
_LAST_STEP = Metric("tandem_last_step_time_seconds", "When the newest step was done; before the first, the start.", ())
_LAST_COMMIT = Metric("tandem_last_commit_time_seconds", "When it committed last; before the first, the start.", ())
_CHECKPOINT_SECONDS = Metric("tandem_checkpoint_seconds", "From the copy of the state to the newest commit.", ())
_CHECKPOINT_BYTES = Metric("tandem_checkpoint_bytes", "Size of the newest commit.", ())
# A gauge: what Prometheus first sees of a counter counts for nothing in a rate, and few jobs fail twice.
_FAILURES = Metric("tandem_failures", "Attempts that failed since the driver started, by class.", ("kind",))
_SCORE = Metric("tandem_evaluation_score", "Main score of the newest result.", ("evaluation", "score"))
_STEP_SECONDS = Metric(
    "tandem_step_seconds", "Time of the rank's steps, by phase.", (ATTEMPT, RANK, "phase"), "counter"
)
_MASKED = Metric("tandem_masked_rows", "Samples that could not be used, by cause.", (ATTEMPT, RANK, "cause"), "counter")
_STORAGE = Metric("tandem_storage_bytes", "Read from the storage by the loader.", (ATTEMPT, RANK), "counter")
_GATHERED = Metric("tandem_gathered_bytes", "Received from other ranks for the loss.", (ATTEMPT, RANK), "counter")
MEMORY = Metric(
    "tandem_memory_bytes",
    "Most that was allocated on the GPU; without one, the rank's memory.",
    (ATTEMPT, RANK, "device"),
)

METRICS = {
    metric.name: metric
    for metric in (
        *_OF_STEP.values(),
        *_OF_SIDES.values(),
        _ACCURACY,
        _TOTAL_STEPS,
        _ATTEMPT,
        _LAST_STEP,
        _LAST_COMMIT,
        _CHECKPOINT_SECONDS,
        _CHECKPOINT_BYTES,
        _FAILURES,
        _SCORE,
        _STEP_SECONDS,
        _MASKED,
        _STORAGE,
        _GATHERED,
        MEMORY,
    )
}
"""All that there are, by name."""


def figure(metric: Metric, **tags: str) -> Figure:
    """A figure of `metric`."""
    return metric.name, tuple(sorted(tags.items()))


class RunFigures:
    """What the driver knows of a run. A listener: see `listening.py`."""

    def __init__(self, total_steps: int, now: float | None = None) -> None:
        """now: Unix time of the start, the clock's unless given."""
        start = time.time() if now is None else now
        self.values: dict[Figure, float] = {
            figure(_TOTAL_STEPS): float(total_steps),
            figure(_LAST_STEP): start,
            figure(_LAST_COMMIT): start,
            **{figure(_FAILURES, kind=kind): 0.0 for kind in Kind},
        }

    def event(self, event: Mapping[str, Any]) -> None:
        """An event of the ledger."""
        match event["event"]:
            case "attempt_started":
                self._leave_attempt()
                self.values[figure(_ATTEMPT)] = float(event["attempt"])
            case "attempt_failed" | "attempt_ended" if event.get("kind"):
                self.values[figure(_FAILURES, kind=event["kind"])] += 1.0
            case "checkpoint_committed":
                self.values[figure(_LAST_COMMIT)] = event["time"]
                if "bytes" in event:
                    self.values[figure(_CHECKPOINT_SECONDS)] = float(event["seconds"])
                    self.values[figure(_CHECKPOINT_BYTES)] = float(event["bytes"])
            case "training_finished":
                # Training may end early, and a driver that only evaluates has seen no step. The alerts ask both.
                attempt = str(int(self.values.get(figure(_ATTEMPT), 0)))
                self.values[figure(_OF_STEP["step"], attempt=attempt)] = float(event["step"])
                self.values[figure(_TOTAL_STEPS)] = float(event["step"])
            case "evaluation_finished":
                score = figure(_SCORE, evaluation=event["evaluation"], score=event["main"])
                self.values[score] = float(event["score"])

    def steps(self, records: Sequence[Mapping[str, Any]]) -> None:
        """New metrics, oldest first. What is no number stays as it was."""
        for record in records:
            self.values[figure(_LAST_STEP)] = record["time"]
            attempt = str(record["attempt"])
            self._put({figure(metric, attempt=attempt): record.get(name) for name, metric in _OF_STEP.items()})
            health = record.get("health")
            if health is not None:
                self._put({figure(_ACCURACY, attempt=attempt): health["accuracy"]})
                for name, metric in _OF_SIDES.items():
                    self._put({figure(metric, attempt=attempt, side=side): x for side, x in health[name].items()})

    def close(self) -> None:
        """Nothing is held."""

    def _put(self, values: Mapping[Figure, float | None]) -> None:
        self.values.update({each: float(value) for each, value in values.items() if value is not None})

    def _leave_attempt(self) -> None:
        """An attempt that is over has no newest step."""
        of_run = {each: value for each, value in self.values.items() if ATTEMPT not in dict(each[1])}
        self.values = of_run


class RankFigures:
    """What a rank knows of itself."""

    def __init__(self) -> None:
        self.values: dict[Figure, float] = {}

    def step(self, metrics: StepMetrics, bad: Sequence[BadSample]) -> None:
        """A step of this rank, and what it masked."""
        for phase, seconds in metrics.phase_seconds.items():
            self._add(figure(_STEP_SECONDS, phase=phase), seconds)
        for sample in bad:
            self._add(figure(_MASKED, cause=sample.cause), 1)
        self._add(figure(_STORAGE), metrics.storage_bytes)
        self._add(figure(_GATHERED), metrics.gathered_bytes)

    def _add(self, each: Figure, value: float) -> None:
        self.values[each] = self.values.get(each, 0.0) + value
