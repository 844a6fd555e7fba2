"""Saves checkpoints beside training: a copy to host memory, then a thread that writes, confirms and commits it.

    with Saver(storage, run, attempt, engine, recorder, max_age_seconds) as saver:
        …
        saver.save(manifest)        on all ranks between two steps; returns when the state may change again
        …
        saver.wait()                at the end of the attempt: all that was saved is committed

Each rank writes its own files. Then the ranks' threads meet in a process group of their own: rank 0 hears what every
rank wrote, and commits it (`commit.py`). What the storage refuses is tried again by all ranks together, with growing
pauses, until the save is `max_age_seconds` old. A rank that the storage never answers can't say so: a save that is
still in flight `GRACE_SECONDS` later has failed too, by each rank's own clock.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch.distributed as dist

from jobspecs.errors import StorageError
from workers.run import RunDirectory
from workers.storage import Storage, join
from workers.train.checkpoint import File, Manifest
from workers.train.commit import Committer, Tried, Verdict
from workers.train.engine import Engine
from workers.train.host_copy import HostCopy
from workers.train.pulse import Phase, pulse
from workers.train.record import Recorder

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0
"""Between two tries of a save."""
GRACE_SECONDS = 60.0
"""How long after its age limit a save may still come to a verdict of its own: longer than a pause and a short try."""
CLOSE_SECONDS = 60.0
"""How long the end of an attempt that failed waits for a save that is in flight."""
WAITING: frozenset[Phase] = frozenset({"save", "end"})
"""Phases in which the loop may wait for a save. In any other a save that goes on says nothing of the loop."""
OTHERS = "the other ranks' files"
"""What a rank waits for that has written its own."""
_SLOWEST = timedelta(days=1)
"""Between the first rank that has written its files and the last."""


class Saver:
    """The saves of one attempt, one at a time. All ranks make it, and call `save`, together. A context manager."""

    def __init__(
        self,
        storage: Storage,
        run: RunDirectory,
        attempt: int,
        engine: Engine,
        recorder: Recorder,
        max_age_seconds: float,
        *,
        driver: int = 0,
    ) -> None:
        """driver: number of the attempt's, which may not have been replaced at a commit; 0: it has none."""
        self._storage, self._run, self._attempt = storage, run, attempt
        self._engine, self._recorder, self._max_age_seconds = engine, recorder, max_age_seconds
        self._committer = Committer(storage, run, attempt, max_age_seconds, driver=driver)
        self._rank, self._world_size = dist.get_rank(), dist.get_world_size()
        # Of the CPU's, beside training's own: its messages may not mix with those of a step.
        self._group = dist.new_group(backend="gloo", timeout=_SLOWEST)
        self._copy: HostCopy | None = None
        self._failure: Exception | None = None
        self._saving = False
        self._step = 0
        self._began = time.monotonic()
        self._waits_for = ""
        self._closing = threading.Event()
        layout = engine.held()
        self._thread = self._start(lambda: self._prepare(layout))

    @property
    def busy(self) -> bool:
        """Whether a save is in flight."""
        return self._saving and self._thread.is_alive()

    @property
    def failed(self) -> bool:
        """Whether one has failed for good, or is overdue: `wait` raises it. One that ends after all has not failed."""
        return self._failure is not None or (self.busy and self._seconds_left <= 0)

    @property
    def _seconds_left(self) -> float:
        """Until the save in flight is given up, verdict or not."""
        return self._began + self._max_age_seconds + GRACE_SECONDS - time.monotonic()

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Lets a save in flight come to its end, but not try again."""
        pulse.phase("end", "its save")
        self._closing.set()
        self._thread.join(max(0.0, min(CLOSE_SECONDS, self._seconds_left)) if self._saving else CLOSE_SECONDS)
        if not self._thread.is_alive():
            dist.destroy_process_group(self._group)

    def save(self, manifest: Manifest) -> None:
        """Copies the engine's state; goes on in a thread. `manifest` lacks its files only.

        Waits for the save before, if that is in flight, and raises what that has failed with: see `wait`.
        """
        self.wait()
        assert self._copy is not None
        self._copy.take(self._engine.held())
        self._saving, self._step, self._began = True, manifest.step, time.monotonic()
        self._thread = self._start(lambda: self._commit(manifest))

    def wait(self) -> None:
        """Waits for the save in flight, but no longer than until it is overdue. Raises, on all ranks, StorageError (it
        could not be committed in time) or FencedError."""
        # Before the first save the thread takes host memory, and waits for nobody.
        self._thread.join(max(0.0, self._seconds_left) if self._saving else None)
        overdue = self.busy  # looked at first: what ends now has its failure by then
        if self._failure is not None:
            raise self._failure
        if overdue:
            raise StorageError(
                f"no checkpoint could be committed for {(time.monotonic() - self._began) / 60:.1f} minutes, since step "
                f"{self._step}, and training does not go on without beyond checkpoint.max_age_minutes: rank "
                f"{self._rank} still waits for {self._waits_for}. Look after the storage (storage.root): does it "
                "answer on all nodes?"
            )

    def _start(self, work: Any) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except Exception as error:
                self._failure = error

        thread = threading.Thread(target=run, name="saver", daemon=True)
        thread.start()
        return thread

    # --- in the thread ---

    def _prepare(self, layout: Any) -> None:
        self._copy = HostCopy(layout, self._rank, self._world_size)

    def _commit(self, manifest: Manifest) -> None:
        began = time.monotonic()
        written: dict[str, File] = {}
        for pause in _pauses():
            pulse.moved(of=WAITING)
            fault: Exception | None = None
            try:
                tried = self._write(manifest.step, written)
            except Exception as error:
                fault = error
                tried = Tried(fault=f"{type(error).__name__}: {error}")
            self._waits_for = OTHERS
            gathered: list[Any] = [None] * self._world_size
            tried = replace(tried, closing=self._closing.is_set())
            dist.gather_object(tried, gathered if self._rank == 0 else None, dst=0, group=self._group)
            verdict: list[Any] = [None]
            if self._rank == 0:
                self._waits_for = f"manifest.json to be written to {self._run.checkpoint(manifest.step)}"
                verdict = [self._committer.judge(manifest, gathered, time.monotonic() - began)]
            dist.broadcast_object_list(verdict, src=0, group=self._group)
            assert isinstance(verdict[0], Verdict)
            if verdict[0].failure is not None:
                raise fault or verdict[0].failure
            if verdict[0].committed:
                return
            for name in verdict[0].lost & written.keys():
                del written[name]
            self._closing.wait(pause)

    def _write(self, step: int, written: dict[str, File]) -> Tried:
        """Writes this rank's files but those that are `written`, which grows."""
        assert self._copy is not None
        try:
            self._waits_for = "its metrics to be written"
            # A step that is committed has its metrics: nobody will do it again.
            self._recorder.flush()
            for place, file in self._copy.files.items():
                kind, number = place.split("-")
                name = f"{kind}-a{self._attempt:05d}-r{self._rank:05d}-{number}.safetensors"
                if name not in written:
                    content = file.content
                    self._waits_for = f"{name} to be written to {self._run.checkpoint(step)}"
                    self._storage.write(join(self._run.checkpoint(step), name), content)
                    written[name] = File(name, len(content), hashlib.sha256(content).hexdigest())
                    pulse.moved(of=WAITING)
        except StorageError as error:
            return Tried(refused=error)
        return Tried(tuple(written.values()))


def _pauses() -> Iterator[float]:
    pause = FIRST_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
