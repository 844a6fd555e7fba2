"""The request to stop: an object in the run directory, looked for beside training."""

from __future__ import annotations

import threading
from types import TracebackType

from jobspecs.errors import StorageError
from workers.storage import Storage

POLL_SECONDS = 1.0


class StopWatch:
    """Looks for the object at `uri` in a thread. Only rank 0 runs one: the ranks agree on its answer with
    the gather that every step does anyway. A context manager."""

    def __init__(self, storage: Storage, uri: str) -> None:
        self._storage = storage
        self._uri = uri
        self._seen = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stop-watch", daemon=True)

    @property
    def requested(self) -> bool:
        """Whether somebody asked the job to stop."""
        return self._seen.is_set()

    def __enter__(self) -> StopWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closing.wait(POLL_SECONDS):
            try:
                if self._storage.exists(self._uri):
                    self._seen.set()
                    return
            except StorageError:
                continue  # no answer is not a request; a store that stays away ends the job at its next save
