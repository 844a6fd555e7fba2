"""One lane of a job -> its rows, step after step: the streams of its sources, decoded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from workers.data.index import Index
from workers.data.negatives import NONE, NegativesTable
from workers.data.order import SourceOrder
from workers.data.row_maker import RowMaker
from workers.data.rows import BadSample, Rows
from workers.data.stream import Stream
from workers.storage import Storage


class Lane:
    """The rows of lane number `lane`, from `first_step` to before `last_step`. `orders` are of the sources that
    `indexes` are of; the lanes of a process share them. `opening` is told which shard of which source it reads.
    negatives: that the job has mined."""

    def __init__(
        self,
        lane: int,
        indexes: tuple[Index, ...],
        orders: tuple[SourceOrder, ...],
        maker: RowMaker,
        storage: Storage,
        *,
        first_step: int,
        last_step: int,
        opening: Callable[[int, int], None] = lambda source, shard: None,
        negatives: NegativesTable = NONE,
    ) -> None:
        self._maker = maker
        self._streams = [
            Stream(
                index,
                order,
                lane,
                maker.columns,
                storage,
                first_step=first_step,
                last_step=last_step,
                opening=partial(opening, order.number),
                negatives=partial(negatives.of_shard, storage, index.source),
            )
            for index, order in zip(indexes, orders, strict=True)
            if order.layout.slots_of(order.number, lane)
        ]

    def start(self) -> None:
        """Reads what the first step waits for. Raises StorageError, DataError."""
        for stream in self._streams:
            stream.start()

    def fill(self, step: int, rows: Rows, offset: int) -> list[BadSample]:
        """Writes the lane's b rows of `step` into `rows` from `offset` on; returns those left masked.

        Raises StorageError when a shard can't be read, DataError when it is not the one that was indexed.
        """
        placed = [placed for stream in self._streams for placed in stream.take(step)]
        bad = (self._maker.fill(sample, rows, row) for row, sample in enumerate(placed, start=offset))
        return [sample for sample in bad if sample is not None]
