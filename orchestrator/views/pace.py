"""How fast a run is, and how long it will take: arithmetic on records of metrics."""

from __future__ import annotations

from typing import Any


def rate(metrics: dict[str, Any], before: dict[str, Any] | None) -> float:
    """Samples a second since the record `before`, checkpoints included; of the newest step alone where `before` is none
    or another attempt's. One step's own rate would make the time that is left jump."""
    if before is not None and before["attempt"] == metrics["attempt"] and metrics["time"] > before["time"]:
        return float((metrics["samples"] - before["samples"]) / (metrics["time"] - before["time"]))
    return float(metrics["samples_per_second"])


def seconds_left(metrics: dict[str, Any], total_steps: int, samples_per_second: float) -> float:
    """Of training, at that rate."""
    return float((total_steps - metrics["step"]) * metrics["samples"] / metrics["step"] / samples_per_second)


def duration(seconds: float) -> str:
    """`0:07`, `1:02:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def number(value: float | None, digits: int) -> str:
    """With so many digits behind the point; JSON has no NaN: such a value is none."""
    return "none" if value is None else f"{value:.{digits}f}"
