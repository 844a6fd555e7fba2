"""A job's entry on its cluster's Jobs page, kept up to date by its driver: the newest event, or how far it has come.

Ray has no public call for it. The entry is a value in the cluster's key-value store, which Ray's own supervisor of the
job writes when the driver starts and when it has ended, and nobody between. Where a later version keeps it elsewhere,
the entry stays as Ray made it: nothing else depends on it.
"""

from __future__ import annotations

import contextlib
import json
from types import TracebackType
from typing import Any, Self

from rich.console import Console

from orchestrator.lease import this_submission
from orchestrator.views.choose import Show, view_of
from orchestrator.views.lines import LinesView
from orchestrator.views.view import View
from workers.repeating import Repeating

WRITE_SECONDS = 2.0
PROGRESS_SECONDS = 20.0
"""A job's log tells the story in a few lines a minute."""
END_SECONDS = 5.0


class JobView(LinesView):
    """The view of a driver that is a job of a cluster: its output is the job's log, and its last line the job's
    message. A context manager."""

    def __init__(self, console: Console, submission_id: str) -> None:
        super().__init__(console, PROGRESS_SECONDS)
        self._submission_id = submission_id
        self._told = self._written = ""
        self._writing = Repeating("job entry", WRITE_SECONDS, self._write, once_more=True)

    def __enter__(self) -> Self:
        self._writing.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writing.stop()
        self._writing.join(END_SECONDS)

    def event(self, event: dict[str, Any]) -> None:
        """An event of the ledger."""
        super().event(event)
        self._told = event["message"]

    def progress(self, metrics: dict[str, Any], total_steps: int) -> None:
        """The newest step."""
        super().progress(metrics, total_steps)
        loss = "" if metrics["loss"] is None else f", loss {metrics['loss']:.4f}"
        self._told = f"step {metrics['step']:,} of {total_steps:,}{loss}, attempt {metrics['attempt']}"

    def _write(self) -> None:
        told = self._told
        if told != self._written and write_entry(self._submission_id, told):
            self._written = told


def view_of_driver(show: Show, name: str) -> View:
    """What this process shows of the job of that name, which it drives."""
    submission_id = this_submission()
    if submission_id is None:
        return view_of(show, name)
    return JobView(Console(width=200), submission_id)


def write_entry(submission_id: str, message: str) -> bool:
    """Writes how the job is doing into its entry. Returns whether it could."""
    import ray

    # Whatever a Ray that does it otherwise raises: a job is not worth less for what its list says.
    with contextlib.suppress(Exception):
        if not ray.is_initialized():
            return False
        from ray.experimental import internal_kv

        key, namespace = f"_ray_internal_job_info_{submission_id}", "job"
        entry = json.loads(internal_kv._internal_kv_get(key, namespace=namespace))
        if entry["status"] != "RUNNING":
            return False
        entry["message"] = message
        entry["metadata"] = {**(entry["metadata"] or {}), "progress": message}
        internal_kv._internal_kv_put(key, json.dumps(entry).encode(), overwrite=True, namespace=namespace)
        return True
    return False
