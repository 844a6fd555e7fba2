"""Lines, for any terminal or none: an event each, and progress every few seconds."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from rich.console import Console

from jobspecs.redaction import redacted
from orchestrator.ledger import Status
from orchestrator.tables import show_results
from orchestrator.views.pace import duration, number, rate, seconds_left
from orchestrator.views.view import TOLD_OTHERWISE, View

PROGRESS_SECONDS = 5.0


class LinesView(View):
    """Prints events as they come, and progress every few seconds."""

    def __init__(self, console: Console, progress_seconds: float = PROGRESS_SECONDS) -> None:
        self.console = console
        self._progress_seconds = progress_seconds
        self._shown_at = 0.0
        self._shown: dict[str, Any] | None = None

    def event(self, event: dict[str, Any]) -> None:
        """A line."""
        if event.get("event") != TOLD_OTHERWISE:
            self._print(event["message"], event["time"])

    def line(self, message: str) -> None:
        """A line."""
        self._print(message, time.time())

    def progress(self, metrics: dict[str, Any], total_steps: int) -> None:
        """A line, if the last one is a while ago or this step is the last of all."""
        step, before = metrics["step"], self._shown
        due = time.monotonic() - self._shown_at >= self._progress_seconds or step == total_steps
        if not due or (before is not None and before["step"] == step):
            return
        self._shown_at, self._shown = time.monotonic(), metrics
        pace = rate(metrics, before)
        masked = f"masked {metrics['masked']}  " if metrics["masked"] else ""
        self.line(
            f"step {step}/{total_steps}  loss {number(metrics['loss'], 4)}  "
            f"scale {number(metrics['logit_scale'], 2)}  "
            f"{pace:.0f} samples/s  data wait {metrics['data_wait_fraction']:.0%}  "
            f"{masked}{duration(seconds_left(metrics, total_steps, pace))} left"
        )

    def results(self, status: Status, title: str) -> None:
        """The table of results."""
        with contextlib.suppress(OSError):
            show_results(self.console, status, title)

    def _print(self, message: str, at: float) -> None:
        clock = time.strftime("%H:%M:%S", time.localtime(at))
        with contextlib.suppress(OSError):
            self.console.print(f"{clock}  {redacted(message)}", highlight=False, markup=False, soft_wrap=True)
