"""A run as events and metrics tell it."""

from __future__ import annotations

from typing import Any

from orchestrator.ledger import Status


def event(kind: str, time: float = 0.0, **fields: Any) -> dict[str, Any]:
    return {"event": kind, "time": time, "message": f"{kind}!", **fields}


def started(attempt: int, step: int, workers: int = 2, time: float = 0.0) -> dict[str, Any]:
    return event("attempt_started", time, attempt=attempt, step=step, world_size=workers)


def metrics(step: int, time: float, *, attempt: int = 1, rate: float = 1000.0, **fields: Any) -> dict[str, Any]:
    """A record of a run of batches of 100."""
    known = {
        "step": step,
        "samples": 100 * step,
        "time": time,
        "attempt": attempt,
        "loss": 2.5,
        "logit_scale": 14.3,
        "samples_per_second": rate,
        "data_wait_fraction": 0.0,
        "masked": 0,
        "world_size": 2,
    }
    return {**known, **fields}


def status_of(**fields: Any) -> Status:
    """The status of a job that succeeded."""
    known: dict[str, Any] = {
        "name": "job",
        "run_directory": "file:///runs/job",
        "state": "succeeded",
        "attempt": 1,
        "step": 1_000_000,
        "total_steps": 1_000_000,
        "world_size": 2,
        "loss": 1.0,
        "bad_samples": {},
        "filtered": 0,
        "failures": [],
        "latest_checkpoint": None,
        "evaluations": [],
        "message": "",
        "submission_id": None,
    }
    return Status(**{**known, **fields})
