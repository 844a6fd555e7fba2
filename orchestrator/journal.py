"""What happens to a job, written down and shown at once."""

from __future__ import annotations

from typing import Any

from jobspecs.errors import StorageError
from orchestrator.ledger import Ledger
from orchestrator.view import View


class Journal:
    """The event log of a run, and the terminal."""

    def __init__(self, ledger: Ledger, view: View) -> None:
        self.ledger = ledger
        self.view = view

    def event(self, kind: str, message: str, /, **fields: Any) -> None:
        """Something that belongs to the run's story."""
        try:
            event = self.ledger.event(kind, message, **fields)
        except StorageError as error:
            # It is kept, and written with the next one: a job outlives a short outage of its storage.
            self.view.line(f"{message} (not written down yet: {error})")
        else:
            self.view.event(event)

    def line(self, message: str) -> None:
        """Something to see, and nothing to keep."""
        self.view.line(message)
