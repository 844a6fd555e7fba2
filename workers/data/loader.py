"""The batches of one rank, in order, prepared ahead by loader processes.

In: the index, the layout and the rank. Out: an iterator of `RankBatch`es from any step on: all that a
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
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType

import numpy as np

from jobspecs.data import Data
from jobspecs.errors import TandemError
from jobspecs.storage import S3
from workers.data.index import Index
from workers.data.loader_process import Block, Task
from workers.data.order import Layout, lanes_of_rank, rows_per_rank
from workers.data.rows import BadSample, Rows


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
        index: Index,
        layout: Layout,
        data: Data,
        s3: S3,
        *,
        rank: int,
        world_size: int,
        first_step: int,
        last_step: int,
    ) -> None:
        self._layout = layout
        self._data = data
        self._steps = range(first_step, last_step)
        self._rows = rows_per_rank(world_size, layout)
        self._lanes = lanes_of_rank(rank, world_size, layout.lanes)
        shares = [self._lanes[i :: data.loader.processes] for i in range(data.loader.processes)]
        self._shares = [share for share in shares if share]
        self._processes = [
            _Process(Task(index, layout, data, s3, tuple(share), first_step, last_step), data.loader.prefetch)
            for share in self._shares
        ]

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.close()

    def __iter__(self) -> Iterator[RankBatch]:
        """Raises the TandemError that a loader process met, or LoaderDiedError."""
        for step in self._steps:
            rows = Rows.empty(self._rows, self._data)
            bad: list[BadSample] = []
            for share, process in zip(self._shares, self._processes, strict=True):
                block = process.next()
                assert block.step == step, f"loader sent step {block.step} for step {step}"
                self._place(block.rows, share, rows)
                bad += block.bad
            yield RankBatch(step, rows, bad)

    def _place(self, source: Rows, share: range, target: Rows) -> None:
        """Copies a share's rows to the places of its lanes in the rank's rows."""
        b = self._layout.lane_batch
        places = np.concatenate([np.arange(b) + (lane - self._lanes.start) * b for lane in share])
        target.images[places] = source.images
        target.tokens[places] = source.tokens
        target.ids[places] = source.ids
        target.valid[places] = source.valid


class _Process:
    """A loader process and the thread that receives what it sends, `prefetch` blocks ahead."""

    def __init__(self, task: Task, prefetch: int) -> None:
        ours, theirs = socket.socketpair()
        # Not `-m`: what it sends must be of this module, not of its `__main__`.
        program = f"from workers.data.loader_process import main; main({theirs.fileno()})"
        with theirs:
            # The child finds the packages where this process found them.
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            self._process = subprocess.Popen(
                [sys.executable, "-c", program],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
            )
        self._connection = Connection(ours.detach())
        self._closing = threading.Event()
        self._blocks: queue.Queue[Block | BaseException] = queue.Queue(maxsize=prefetch)
        self._thread = threading.Thread(target=self._receive, args=(task,), name="loader", daemon=True)
        self._thread.start()

    def next(self) -> Block:
        received = self._blocks.get()
        if isinstance(received, BaseException):
            raise received
        return received

    def close(self) -> None:
        self._closing.set()
        self._process.terminate()
        self._process.wait()
        self._thread.join()
        self._connection.close()

    def _receive(self, task: Task) -> None:
        try:
            self._connection.send(task)
            for _ in range(task.first_step, task.last_step):
                received = self._connection.recv()
                self._put(received)
                if isinstance(received, TandemError):
                    return
        except (EOFError, OSError):
            code = self._process.wait()
            died = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            self._put(LoaderDiedError(f"a loader process died ({died}); see the worker's log"))
        except Exception as error:
            self._put(error)  # whatever it is: the rank must not wait for ever

    def _put(self, item: Block | BaseException) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(queue.Full):
                self._blocks.put(item, timeout=0.2)
                return
