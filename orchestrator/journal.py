"""What happens to a job, written down and shown at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jobspecs.errors import StorageError
from orchestrator.ledger import Ledger
from orchestrator.views.view import View

if TYPE_CHECKING:
    from orchestrator.listening import Listener

END_TRIES = 4
END_PAUSE_SECONDS = 2.0
"""The last event has no next one to be written with: it is tried so often, with pauses between."""


class Journal:
    """The event log of a run, the terminal, and who else listens."""

    def __init__(self, ledger: Ledger, view: View) -> None:
        self.ledger = ledger
        self.view = view
        self.listeners: Sequence[Listener] = ()

    def event(self, kind: str, message: str, /, **fields: Any) -> None:
        """Something that belongs to the run's story."""
        event = self._appended(kind, message, **fields)
        try:
            self.ledger.flush()
        except StorageError as error:
            # It is kept, and written with the next one: a job outlives a short outage of its storage.
            self.view.line(f"{message} (not written down yet: {error})")
        else:
            self.view.event(event)

    def end(self, kind: str, message: str) -> None:
        """The last event of this go. A storage that stays away is told to the user, and changes nothing of how the
        go ended."""
        event = self._appended(kind, message)
        for left in reversed(range(END_TRIES)):
            try:
                self.ledger.flush()
            except StorageError as error:
                if left:
                    time.sleep(END_PAUSE_SECONDS)
                else:
                    self.view.line(f"{message} (it could not be written down: {error})")
            else:
                self.view.event(event)
                return

    def steps(self, records: Sequence[dict[str, Any]]) -> None:
        """New metrics of the attempt that runs, which its ranks have written down."""
        for listener in self.listeners:
            listener.steps(records)

    def _appended(self, kind: str, message: str, /, **fields: Any) -> dict[str, Any]:
        event = self.ledger.append(kind, message, **fields)
        for listener in self.listeners:
            listener.event(event)
        return event

    def line(self, message: str) -> None:
        """Something to see, and nothing to keep."""
        self.view.line(message)
