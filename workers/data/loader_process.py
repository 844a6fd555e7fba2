"""A loader process: reads and decodes every W-th lane of a rank and sends its rows, step after step.

Started by `loader.Loader` as a program of its own, not forked: a training process has threads. It
imports neither torch nor transformers, so that it is there in half a second. It ends when the pipe's
other end is gone, so no rank leaves one behind.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from multiprocessing.connection import Connection

from jobspecs.data import Data
from jobspecs.errors import TandemError
from jobspecs.storage import S3
from workers.data.index import Index
from workers.data.lane import Lane
from workers.data.order import Layout
from workers.data.rows import BadSample, Rows
from workers.storage import Storage


@dataclass(frozen=True)
class Task:
    """What one loader process does."""

    index: Index
    layout: Layout
    data: Data
    s3: S3
    lanes: tuple[int, ...]
    first_step: int
    last_step: int
    """Steps first_step … last_step - 1, from 0."""


@dataclass(frozen=True)
class Block:
    """The rows of a task's lanes in one step, lane after lane."""

    step: int
    rows: Rows
    bad: list[BadSample]


def serve(connection: Connection) -> None:
    """Receives a Task and sends a Block for each step; sends a TandemError in its place when it fails."""
    task: Task = connection.recv()
    storage = Storage(task.s3)
    lanes = [Lane(lane, task.index, task.layout, task.data, storage) for lane in task.lanes]
    lane_batch = task.layout.lane_batch
    try:
        for step in range(task.first_step, task.last_step):
            rows = Rows.empty(len(lanes) * lane_batch, task.data)
            bad: list[BadSample] = []
            for number, lane in enumerate(lanes):
                bad += lane.fill(step, rows, number * lane_batch)
            connection.send(Block(step, rows, bad))
    except TandemError as error:
        connection.send(error)


def main(file_descriptor: int) -> None:
    """The program of a loader process: serves the connection that it inherited."""
    # These mean that the rank is gone or wants no more.
    with contextlib.suppress(BrokenPipeError, EOFError, ConnectionResetError, KeyboardInterrupt):
        serve(Connection(file_descriptor))
