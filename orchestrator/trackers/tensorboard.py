"""TensorBoard's event files, in the run directory: `tensorboard --logdir <run directory>/tensorboard`.

An object store can't append, and TensorBoard does not look again at what it has read: so an event file is written once,
whole, and the next events go into another one, which TensorBoard reads behind it. One is written when it is 2 % as old
as what this driver has run, 10 s to 10 min: a week is some 1,500 of them, and a short run is there at once.

The format is that of `tensorboardX`, which Ray Train brings along: the `tensorboard` package is needed only to look.
Each record is (length, CRC of the length, Event, CRC of the Event); see TFRecord in TensorFlow's documentation.
"""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any

from jobspecs.errors import StorageError
from orchestrator.trackers import scalars
from workers.run import RunDirectory
from workers.storage import Storage, join

SHORTEST_SECONDS, LONGEST_SECONDS = 10.0, 600.0
SHARE = 0.02


class TensorBoard:
    """Writes the event files of one driver."""

    def __init__(self, storage: Storage, run: RunDirectory) -> None:
        self._storage = storage
        self._folder = join(run.uri, "tensorboard")
        self._began = self._written = time.monotonic()
        self._part = 0
        self._records = bytearray()

    def event(self, event: Mapping[str, Any]) -> None:
        """An event of the ledger."""
        if event["event"] == "attempt_started":
            # What earlier attempts did behind the step that this one goes on from is done again: TensorBoard drops it.
            self._append(event["time"], event["step"] + 1, session_start=True)
        found = scalars.of_event(event)
        if found is not None:
            self._append(event["time"], found[0], found[1])
        self._write_if_due()

    def steps(self, records: Sequence[Mapping[str, Any]]) -> None:
        """New metrics of steps."""
        for record in records:
            self._append(record["time"], record["step"], scalars.of_record(record))
        self._write_if_due()

    def close(self) -> None:
        """Writes what there is. Raises StorageError."""
        self._write()

    def _append(
        self, at: float, step: int, values: Mapping[str, float] | None = None, *, session_start: bool = False
    ) -> None:
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary

        if not self._records:
            self._records += _framed(Event(wall_time=at, file_version="brain.Event:2"))
        event = Event(wall_time=at, step=step)
        if session_start:
            event.session_log.CopyFrom(SessionLog(status=SessionLog.START))
        else:
            summary = [Summary.Value(tag=tag, simple_value=value) for tag, value in (values or {}).items()]
            event.summary.CopyFrom(Summary(value=summary))
        self._records += _framed(event)

    def _write_if_due(self) -> None:
        now = time.monotonic()
        due = min(max(SHARE * (now - self._began), SHORTEST_SECONDS), LONGEST_SECONDS)
        if now - self._written >= due:
            self._written = now
            with contextlib.suppress(StorageError):  # it is away for now: the next time writes all
                self._write()

    def _write(self) -> None:
        if not self._records:
            return
        # TensorBoard reads a folder's files in the order of their names.
        name = f"events.out.tfevents.{int(time.time()):010d}.{self._part:06d}"
        self._storage.write(join(self._folder, name), bytes(self._records))
        self._part += 1
        self._records.clear()


def _framed(event: Any) -> bytes:
    from tensorboardX.record_writer import masked_crc32c

    content: bytes = event.SerializeToString()
    length = struct.pack("<Q", len(content))
    parts = (length, struct.pack("<I", masked_crc32c(length)), content, struct.pack("<I", masked_crc32c(content)))
    return b"".join(parts)
