"""The numbers that trackers show, out of the metrics of a step and the events. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TRAIN = ("loss", "logit_scale", "learning_rate", "grad_norm", "masked", "samples_per_second", "data_wait_fraction")


def of_record(record: Mapping[str, Any]) -> dict[str, float]:
    """Of a step: `train/…`, `seconds/…` by phase, `health/…` where it was checked. What is no number is left out."""
    found = {f"train/{name}": record.get(name) for name in _TRAIN}
    found |= {f"seconds/{phase}": seconds for phase, seconds in record.get("phase_seconds", {}).items()}
    for name, value in (record.get("health") or {}).items():
        if isinstance(value, Mapping):
            found |= {f"health/{name}/{side}": each for side, each in value.items()}
        else:
            found[f"health/{name}"] = value
    return {name: float(value) for name, value in found.items() if value is not None}


def of_event(event: Mapping[str, Any]) -> tuple[int, dict[str, float]] | None:
    """The step and the score of an evaluation that has finished; None for other events."""
    if event["event"] != "evaluation_finished":
        return None
    return event["step"], {f"evaluation/{event['evaluation']}/{event['main']}": float(event["score"])}
