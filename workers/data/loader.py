"""The batches of one rank, in order, prepared ahead by loader processes.

In: the indexes, the layout and the rank. Out: an iterator of `RankBatch`es from any step on: all that a
resume needs is the step number.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from jobspecs.data import Data
from jobspecs.errors import TandemError
from jobspecs.storage import S3
from workers.data.index import Index
from workers.data.loader_process import Filled, Task
from workers.data.negatives import NegativesTable
from workers.data.order import Layout, lanes_of_rank, rows_per_rank
from workers.data.rows import BadSample, Rows, rows_bytes
from workers.data.tokenize import Tokenizer

_PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
from workers.data.loader_process import main
main({}, {})
"""
"""Not `-m`: what it sends must be of this module, not of its `__main__`. A terminal sends Ctrl-C to it too, and
the rank goes on until it has saved a checkpoint."""


_KEPT_BYTES = 32 << 20
"""Free memory that a loader process keeps for its next image: glibc's largest threshold."""


class LoaderDiedError(RuntimeError):
    """A loader process ended before its last step: killed, out of memory, or a bug of ours."""


@dataclass(frozen=True)
class RankBatch:
    """One rank's rows of one global batch, padded with masked rows to `rows_per_rank`."""

    step: int
    rows: Rows
    bad: list[BadSample]


class Loader:
    """Iterates over a rank's batches of the steps `first_step` … `last_step - 1`. A context manager:
    leaving it ends the processes."""

    def __init__(
        self,
        indexes: tuple[Index, ...],
        layout: Layout,
        data: Data,
        tokenizers: dict[str, Tokenizer],
        s3: S3,
        *,
        rank: int,
        world_size: int,
        first_step: int,
        last_step: int,
        negatives: NegativesTable | None = None,
        ahead: Callable[[int], memoryview] | None = None,
    ) -> None:
        """negatives: what a job that mines for itself has mined; None takes those that the samples have. ahead: makes
        memory of so many bytes, all 0: a batch is put together there while the rank works on the one before, and its
        rows are to be used until the next is asked for. None: each batch has memory of its own."""
        self._layout = layout
        self._data = data
        self._steps = range(first_step, last_step)
        self._rows = rows_per_rank(world_size, layout)
        self._ahead = ahead
        self._lanes = lanes_of_rank(rank, world_size, layout.lanes)
        shares = [self._lanes[i :: data.loader.processes] for i in range(data.loader.processes)]
        self._shares = [share for share in shares if share]
        self._processes: list[_Process] = []
        self._awaited: _Process | None = None
        try:
            for share in self._shares:
                task = Task(indexes, layout, data, tokenizers, s3, tuple(share), first_step, last_step, negatives)
                self._processes.append(_Process(task))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes, and gives their memory back."""
        for process in self._processes:
            process.close()

    @property
    def read_bytes(self) -> int:
        """Bytes that the processes had read from the storage when they sent what was taken of them so far."""
        return sum(process.read_bytes for process in self._processes)

    def reading(self) -> str:
        """Lane and shard that the next batch waits for. Any thread may ask."""
        return "" if self._awaited is None else str(self._awaited.reading)

    def __iter__(self) -> Iterator[RankBatch]:
        """Raises the TandemError that a loader process met, or LoaderDiedError."""
        if self._ahead is not None:
            yield from self._batches_ahead(self._ahead)
            return
        for step in self._steps:
            yield self._batch(step, Rows.empty(self._rows, self._data))

    def _batches_ahead(self, memory: Callable[[int], memoryview]) -> Iterator[RankBatch]:
        spare: queue.SimpleQueue[Rows | None] = queue.SimpleQueue()
        ready: queue.SimpleQueue[RankBatch | BaseException] = queue.SimpleQueue()

        def place() -> None:
            try:
                for step in self._steps:
                    rows = spare.get()
                    if rows is None:
                        return
                    ready.put(self._batch(step, rows))
            except BaseException as error:
                ready.put(error)

        for _ in range(2):
            spare.put(Rows.within(memory(rows_bytes(self._rows, self._data)), self._rows, self._data))
        threading.Thread(target=place, name="loader-ahead", daemon=True).start()
        try:
            for _ in self._steps:
                batch = ready.get()
                if isinstance(batch, BaseException):
                    raise batch
                yield batch
                spare.put(batch.rows)
        finally:
            spare.put(None)

    def _batch(self, step: int, rows: Rows) -> RankBatch:
        """A step's, in `rows`: padding, which no lane fills, is 0 there."""
        bad: list[BadSample] = []
        for share, process in zip(self._shares, self._processes, strict=True):
            self._awaited = process
            filled = process.next()
            process.read_bytes = filled.read_bytes
            assert filled.step == step, f"loader sent step {filled.step} for step {step}"
            rows.place(process.slots[filled.slot], self._places(share))
            process.free(filled.slot)
            bad += filled.bad
        return RankBatch(step, rows, bad)

    def _places(self, share: range) -> NDArray[np.int64]:
        """Where the rows of a share's lanes stand among the rank's."""
        b = self._layout.lane_batch
        return np.concatenate([np.arange(b) + (lane - self._lanes.start) * b for lane in share])


class _Process:
    """A loader process, the memory that it shares with us, and the thread that receives what it sends."""

    def __init__(self, task: Task) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs, os.fdopen(os.memfd_create("tandem-loader"), "wb") as memory:
            memory.truncate(task.shared_bytes)
            self.slots, self.reading = task.map_memory(memory.fileno())
            inherited = theirs.fileno(), memory.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM.format(*inherited)],
                pass_fds=inherited,
                env=_environment(),
                stdin=subprocess.DEVNULL,
            )
            self._connection = Connection(ours.detach())
        self._filled: queue.SimpleQueue[Filled | BaseException] = queue.SimpleQueue()
        self.read_bytes = 0
        self._thread = threading.Thread(target=self._receive, args=(task,), name="loader", daemon=True)
        self._thread.start()

    def next(self) -> Filled:
        received = self._filled.get()
        if isinstance(received, BaseException):
            raise received
        return received

    def free(self, slot: int) -> None:
        """Gives a slot back, to be filled again."""
        with contextlib.suppress(OSError):  # it may have sent its last rows and gone
            self._connection.send(slot)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._thread.join()
        self._connection.close()
        self.slots.clear()  # the memory goes with them
        self.reading.clear()

    def _receive(self, task: Task) -> None:
        try:
            self._connection.send(task)
            for _ in range(task.first_step, task.last_step):
                received = self._connection.recv()
                self._filled.put(received)
                if isinstance(received, TandemError):
                    return
        except (EOFError, OSError):
            code = self._process.wait()
            died = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            self._filled.put(LoaderDiedError(f"a loader process died ({died}); see the worker's log"))
        except Exception as error:
            self._filled.put(error)  # whatever it is: the rank must not wait for ever


def _environment() -> dict[str, str]:
    """Of a loader process, which finds the packages where this process found them.

    glibc's malloc gives large blocks back to the system at once, and takes them again for the next image: that
    cost a third of the time of a 512×384 JPEG. And what the threads of the read-ahead fetched is freed by the
    main thread: with a heap for each thread, a third more memory than the windows' stayed in use.
    """
    malloc = {
        "MALLOC_MMAP_THRESHOLD_": str(_KEPT_BYTES),
        "MALLOC_TRIM_THRESHOLD_": str(_KEPT_BYTES),
        "MALLOC_ARENA_MAX": "1",
    }
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **malloc}
