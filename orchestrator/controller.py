"""What Ray Train's controller does for Tandem when ranks have failed: it asks at the desk before it starts new ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
import ray.train

from orchestrator.desk import DismissedError


@dataclass
class AskFirst(ray.train.UserCallback):  # type: ignore[misc]  # Ray Train tells mypy nothing of it
    """Ray Train calls it as soon as it knows, and decides when it returns: to start anew, or to end where it raises."""

    desk: Any
    """A handle of the desk: `desk.py`."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raises DismissedError; RayError when the desk is gone."""
        errors = {rank: portable(error) for rank, error in worker_exceptions.items()}
        if not ray.get(self.desk.report.remote(errors)):
            raise DismissedError("the driver goes on otherwise, or not at all: its log says why")


def portable(error: Exception) -> bytes:
    """Pickles an error; in its place, where it can't be, one that says the same."""
    try:
        pickled: bytes = ray.cloudpickle.dumps(error)
        ray.cloudpickle.loads(pickled)
    except Exception:
        pickled = ray.cloudpickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return pickled
