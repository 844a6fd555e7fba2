"""One live view of a run for a terminal: a panel that is drawn anew each second, and the events above it.

    21:06:37  attempt 1: 2 workers from step 0
    21:07:02  checkpoint at step 100
    ╭─ digits-clip ────────────────────────────────────────────────────────────────╮
    │ training  attempt 1  2 workers                                          0:51 │
    │ step        123 of 350  ━━━━━━━━━━━━━━                              0:39 left │
    ╰──────────────────────────────────────────────────────────────────────────────╯

What is known is `picture.py`'s, how it looks `panel.py`'s. A terminal that goes away ends the drawing, nothing else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.live import Live

from orchestrator.ledger import Status
from orchestrator.views.lines import LinesView
from orchestrator.views.panel import panel
from orchestrator.views.picture import Picture
from orchestrator.views.view import View
from workers.repeating import Repeating

DRAW_SECONDS = 1.0
"""As often as there can be something new: a panel takes a few milliseconds."""
END_SECONDS = 5.0


class LiveView(View):
    """Draws a run on a terminal while the context is open."""

    def __init__(self, console: Console, name: str, clock: Callable[[], float] = time.time) -> None:
        """clock: Unix time."""
        self._console = console
        self._lines = LinesView(console)
        self._clock = clock
        self._picture = Picture(name, clock())
        self._lock = threading.Lock()
        """Of the picture."""
        # Its own thread would end in a traceback where the terminal is gone.
        self._live = Live(console=console, auto_refresh=False, get_renderable=self._panel)
        self._drawing = Repeating("live view", DRAW_SECONDS, self.draw)
        self._gone = False

    def __enter__(self) -> Self:
        self._attempt(lambda: self._live.start(refresh=True))
        self._drawing.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drawing.stop()
        self._drawing.join(END_SECONDS)
        self._attempt(self._live.stop)

    def event(self, event: dict[str, Any]) -> None:
        """A line above the panel, and what it says in it."""
        with self._lock:
            self._picture.event(event)
        self._lines.event(event)

    def line(self, message: str) -> None:
        """A line above the panel."""
        self._lines.line(message)

    def progress(self, metrics: dict[str, Any], total_steps: int) -> None:
        """In the panel."""
        with self._lock:
            self._picture.progress(metrics, total_steps)

    def results(self, status: Status, title: str) -> None:
        """The table of results, below all."""
        self._lines.results(status, title)

    def draw(self) -> bool:
        """Draws the panel as of now. Returns whether there is nothing to draw on any more."""
        self._attempt(self._live.refresh)
        return self._gone

    def _panel(self) -> RenderableType:
        with self._lock:
            return panel(self._picture, self._clock(), self._console.width)

    def _attempt(self, work: Callable[[], None]) -> None:
        try:
            work()
        except OSError:
            self._gone = True
