"""Where a job's curves go beside its run directory, by section of `tracking:`. A tracker is a `Listener`, made in a
thread of its own (`listening.py`); each has a file, and a line here.

They go on after a restart: what a later driver of the same run tells comes under the same run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from jobspecs.errors import UsageError
from jobspecs.tracking import Tracking
from orchestrator.trackers.mlflow import MlflowTracker
from orchestrator.trackers.tensorboard import TensorBoard
from orchestrator.trackers.wandb import WandbTracker

if TYPE_CHECKING:
    from orchestrator.listening import Listener
    from orchestrator.prepare import Prepared

TRACKERS: dict[str, Callable[[Prepared, str], Listener]] = {
    "tensorboard": lambda job, _: TensorBoard(job.storage, job.run),
    "mlflow": MlflowTracker,
    "wandb": WandbTracker,
}
"""Field of `tracking:` -> makes the tracker of a job, under the key of its run."""
EXTRAS = {"mlflow": "mlflow", "wandb": "wandb"}
"""Field -> the package that an extra of the same name brings."""


def chosen(tracking: Tracking) -> list[str]:
    """The trackers that a job has."""
    return [name for name in TRACKERS if getattr(tracking, name)]


def check_trackers(tracking: Tracking) -> None:
    """Raises UsageError where the driver lacks the package of a tracker."""
    for name in chosen(tracking):
        if name in EXTRAS and find_spec(EXTRAS[name]) is None:
            raise UsageError(
                f"tracking.{name} needs the package {EXTRAS[name]}, which is not installed where the driver runs. "
                f"Install Tandem from its sources with the extra there (pip install '.[{name}]'), or take the section "
                "out."
            )


def trackers_of(job: Prepared) -> dict[str, Callable[[], Listener]]:
    """What makes each tracker of a job, by name."""
    key = run_key(job)
    return {name: partial(TRACKERS[name], job, key) for name in chosen(job.spec.tracking)}


def run_key(job: Prepared) -> str:
    """The same for all drivers of a run, and for no other run."""
    return hashlib.sha256(f"{job.run.uri}\n{job.fixed.spec_hash}".encode()).hexdigest()[:16]
