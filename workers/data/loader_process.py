"""A loader process: reads and decodes every W-th lane of a rank, step after step, into shared memory.

Started by `loader.Loader` as a program of its own, not forked: a training process has threads. It
imports neither torch nor transformers, so that it is there in half a second. It ends when the pipe's
other end is gone, so no rank leaves one behind.

Rows are decoded straight into a slot of memory that the rank maps too; the pipe carries which slot is full
(from here) and which is free again (from the rank).
"""

from __future__ import annotations

import contextlib
import mmap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection

from jobspecs.data import Data
from jobspecs.errors import TandemError
from jobspecs.storage import S3
from workers.data.index import Index
from workers.data.lane import Lane
from workers.data.negatives import NONE, NegativesTable
from workers.data.order import Layout, SourceOrder
from workers.data.reading import Reading, reading_bytes
from workers.data.row_maker import RowMaker
from workers.data.rows import BadSample, Rows, rows_bytes
from workers.data.tokenize import Tokenizer
from workers.storage import Storage, received

_STARTING = 16
"""Lanes whose first windows are read at the same time: they wait for the network."""


@dataclass(frozen=True)
class Task:
    """What one loader process does."""

    indexes: tuple[Index, ...]
    layout: Layout
    data: Data
    tokenizers: dict[str, Tokenizer]
    s3: S3
    lanes: tuple[int, ...]
    first_step: int
    last_step: int
    """Steps first_step … last_step - 1, from 0."""
    negatives: NegativesTable | None = None
    """What a job that mines for itself has mined; None takes those that the samples have."""

    @property
    def rows(self) -> int:
        """Rows that it makes in each step."""
        return len(self.lanes) * self.layout.lane_batch

    @property
    def slots(self) -> int:
        """Blocks of rows that are full or being filled at a time."""
        return self.data.loader.prefetch + 1

    @property
    def memory_bytes(self) -> int:
        """Shared memory of all slots."""
        return self.slots * rows_bytes(self.rows, self.data)

    @property
    def shared_bytes(self) -> int:
        """The slots' memory, and behind it what is being read."""
        return self.memory_bytes + reading_bytes(len(self.lanes))

    def map_memory(self, file_descriptor: int) -> tuple[list[Rows], Reading]:
        """The slots as rows, and what is being read, in the shared memory behind a file descriptor."""
        memory = memoryview(mmap.mmap(file_descriptor, self.shared_bytes))
        size = rows_bytes(self.rows, self.data)
        slots = [Rows.within(memory[i * size : (i + 1) * size], self.rows, self.data) for i in range(self.slots)]
        return slots, Reading(memory[self.memory_bytes :], self.lanes, self.indexes)


@dataclass(frozen=True)
class Filled:
    """A slot holds the rows of a task's lanes in one step, lane after lane."""

    step: int
    slot: int
    bad: list[BadSample]
    read_bytes: int
    """That this process has read from the storage so far."""


def serve(connection: Connection, memory: int) -> None:
    """Receives a Task and sends a Filled for each step; sends a TandemError in its place when it fails.

    The rank sends the number of a slot when it has copied it.
    """
    task: Task = connection.recv()
    slots, reading = task.map_memory(memory)
    storage = Storage(task.s3, task.data.loader.cache, task.data.loader.read_ahead)
    maker = RowMaker(task.data, task.tokenizers, task.layout.seed, mined=task.negatives is not None)
    free = list(range(task.slots))
    orders = tuple(
        SourceOrder(index.source, index.samples, task.layout, number) for number, index in enumerate(task.indexes)
    )
    try:
        lanes = [
            Lane(
                lane,
                task.indexes,
                orders,
                maker,
                storage,
                first_step=task.first_step,
                last_step=task.last_step,
                opening=partial(reading.opens, number),
                negatives=task.negatives or NONE,
            )
            for number, lane in enumerate(task.lanes)
        ]
        with ThreadPoolExecutor(_STARTING) as starting:
            list(starting.map(Lane.start, lanes))
        for step in range(task.first_step, task.last_step):
            slot = free.pop() if free else connection.recv()
            bad: list[BadSample] = []
            for number, lane in enumerate(lanes):
                reading.fills(number)
                bad += lane.fill(step, slots[slot], number * task.layout.lane_batch)
            connection.send(Filled(step, slot, bad, received.bytes))
    except TandemError as error:
        connection.send(error)


def main(connection: int, memory: int) -> None:
    """The program of a loader process: serves the connection that it inherited."""
    # These mean that the rank is gone or wants no more.
    with contextlib.suppress(BrokenPipeError, EOFError, ConnectionResetError):
        serve(Connection(connection), memory)
