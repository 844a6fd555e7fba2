"""Brings the figures of `telemetry.py` to Ray's metrics, in a thread: the driver's, and those of each rank.

    with Exporter(lambda: figures.values, {"tandem_job": "digits-clip"}): …
    with RankTelemetry("digits-clip", attempt=2, rank=3) as telemetry: train(task, telemetry.step)

Best effort: no figure is worth a step of a job.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from orchestrator.telemetry import ATTEMPT, JOB, MEMORY, METRICS, RANK, Figure, RankFigures, figure
from workers.data.rows import BadSample
from workers.repeating import Repeating

if TYPE_CHECKING:
    from workers.train.record import StepMetrics  # torch, which the driver starts without

PUBLISH_SECONDS = 1.0
"""Ray forgets a gauge that is not set again in time, and takes them up each second at most."""
END_SECONDS = 2.0


class Exporter:
    """Publishes figures while the context is open."""

    def __init__(self, values: Callable[[], Mapping[Figure, float]], tags: Mapping[str, str]) -> None:
        """values: all figures, whenever it is called. tags: that all of them have."""
        self._values = values
        self._tags = dict(tags)
        self._metrics: dict[str, Any] = {}
        self._told: dict[Figure, float] = {}
        """What counters have been brought to."""
        self._publishing = Repeating("telemetry", PUBLISH_SECONDS, self.publish, once_more=True)

    def __enter__(self) -> Exporter:
        self._publishing.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._publishing.stop()
        self._publishing.join(END_SECONDS)

    def publish(self) -> None:
        """Sets all figures once."""
        # Whatever a Ray that does it otherwise raises.
        with contextlib.suppress(Exception):
            import ray

            if ray.is_initialized():
                for each, value in dict(self._values()).items():
                    self._set(each, value)

    def _set(self, each: Figure, value: float) -> None:
        name, tags = each
        metric = self._metrics.get(name) or self._made(name)
        told = {**self._tags, **dict(tags)}
        if METRICS[name].kind == "gauge":
            metric.set(value, told)
        elif value > self._told.get(each, 0.0):
            metric.inc(value - self._told.get(each, 0.0), told)
            self._told[each] = value

    def _made(self, name: str) -> Any:
        from ray.util import metrics

        declared = METRICS[name]
        kind = metrics.Gauge if declared.kind == "gauge" else metrics.Counter
        self._metrics[name] = kind(name, declared.words, (JOB, *declared.tags))
        return self._metrics[name]


class RankTelemetry:
    """The figures of a rank, published while the context is open."""

    def __init__(self, job: str, attempt: int, rank: int) -> None:
        self._figures = RankFigures()
        self._exporter = Exporter(self._values, {JOB: job, ATTEMPT: str(attempt), RANK: str(rank)})

    def __enter__(self) -> RankTelemetry:
        self._exporter.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._exporter.__exit__(*error)

    def step(self, metrics: StepMetrics, bad: list[BadSample]) -> None:
        """A step of this rank."""
        self._figures.step(metrics, bad)

    def _values(self) -> dict[Figure, float]:
        device, size = _memory()
        return {**self._figures.values, figure(MEMORY, device=device): float(size)}


def _memory() -> tuple[str, int]:
    """Most bytes that this process has had allocated on its GPU, or what it has of the main memory."""
    import psutil
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return "gpu", torch.cuda.max_memory_allocated()
    return "cpu", psutil.Process().memory_info().rss
