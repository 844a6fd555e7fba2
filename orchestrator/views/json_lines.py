"""JSON, for programs: an object a line, told apart by `type`.

    {"type": "event", "time": …, "event": "attempt_started", "message": …, …}     as in the run directory's event log
    {"type": "progress", "total_steps": 350, "step": 12, "loss": …, …}            as `tandem metrics` has it
    {"type": "line", "time": …, "message": …}                                     what no log keeps
    {"type": "status", "name": …, "state": …, …}                                  the last: as `tandem status -o json`

Of steps the newest is told about each second, not every one: those are in `tandem metrics`.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict
from typing import Any, TextIO

from jobspecs.redaction import redacted
from orchestrator.ledger import Status
from orchestrator.views.console import let_go
from orchestrator.views.view import View


class JsonView(View):
    """Writes JSON lines."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._step: tuple[int, int] | None = None
        self._lock = threading.Lock()

    def event(self, event: dict[str, Any]) -> None:
        """`type: event`."""
        self._write({"type": "event", **event})

    def line(self, message: str) -> None:
        """`type: line`."""
        self._write({"type": "line", "time": time.time(), "message": redacted(message)})

    def progress(self, metrics: dict[str, Any], total_steps: int) -> None:
        """`type: progress`, once a step."""
        step = (metrics["attempt"], metrics["step"])
        if step != self._step:
            self._step = step
            self._write({"type": "progress", "total_steps": total_steps, **metrics})

    def results(self, status: Status, title: str) -> None:
        """`type: status`."""
        self._write({"type": "status", **asdict(status)})

    def _write(self, item: dict[str, Any]) -> None:
        with self._lock:
            try:
                self._file.write(json.dumps(item) + "\n")
                self._file.flush()
            except OSError:
                let_go(self._file)
