"""Nothing but the end."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from orchestrator.ledger import Status
from orchestrator.views.lines import LinesView
from orchestrator.views.view import View


class QuietView(View):
    """Says how the run ended. Errors are the command's to tell."""

    def __init__(self, console: Console) -> None:
        self._end = LinesView(console)

    def event(self, event: dict[str, Any]) -> None:
        """Nothing."""

    def line(self, message: str) -> None:
        """Nothing."""

    def progress(self, metrics: dict[str, Any], total_steps: int) -> None:
        """Nothing."""

    def results(self, status: Status, title: str) -> None:
        """The table of results."""
        self._end.results(status, title)
