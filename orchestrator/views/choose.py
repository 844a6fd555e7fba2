"""Which view a run is shown by."""

from __future__ import annotations

import sys
from enum import Enum

from rich.console import Console

from orchestrator.views.console import SteadyConsole
from orchestrator.views.json_lines import JsonView
from orchestrator.views.lines import LinesView
from orchestrator.views.live import LiveView
from orchestrator.views.quiet import QuietView
from orchestrator.views.view import View


class Show(Enum):
    """How the user wants to see it."""

    TEXT = "text"
    """Live on a terminal, else lines."""
    QUIET = "quiet"
    """Only the end, and errors."""
    JSON = "json"
    """An object a line."""


def view_of(show: Show, name: str, console: Console | None = None) -> View:
    """A view of the run of that name, on this process's output."""
    console = console or SteadyConsole()
    match show:
        case Show.JSON:
            return JsonView(sys.stdout)
        case Show.QUIET:
            return QuietView(console)
        case Show.TEXT:
            return LiveView(console, name) if is_live(console) else LinesView(console)


def is_live(console: Console) -> bool:
    """Whether a view can be drawn over there: a terminal that moves its cursor."""
    return console.is_terminal and not console.is_dumb_terminal and not console.is_jupyter
