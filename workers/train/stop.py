"""The request to stop: an object in the run directory, looked for beside training."""

from __future__ import annotations

import contextlib
from types import TracebackType

from jobspecs.errors import NotFoundError, StorageError
from workers.repeating import Repeating
from workers.storage import Storage

POLL_SECONDS = 1.0
AT_ONCE = b"now"
"""The word that asks for no commit: the ranks are ended by their driver, and leave it to that."""


class StopWatch:
    """Looks for the object at `uri` in a thread. Only rank 0 runs one: the ranks agree on its answer with
    the gather that every step does anyway. A context manager."""

    def __init__(self, storage: Storage, uri: str) -> None:
        self._storage = storage
        self._uri = uri
        self._seen = False
        self._looking = Repeating("stop-watch", POLL_SECONDS, self._look)

    @property
    def requested(self) -> bool:
        """Whether somebody asked the job to stop."""
        return self._seen

    def __enter__(self) -> StopWatch:
        self._looking.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Not waited for: a store that does not answer is what an attempt may be ending for.
        self._looking.stop()

    def _look(self) -> bool:
        # No answer is not a request; a store that stays away ends the job at its next save.
        with contextlib.suppress(StorageError):
            try:
                self._seen = self._storage.read(self._uri) != AT_ONCE
            except NotFoundError:
                self._seen = False
        return self._seen
