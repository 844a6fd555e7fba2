"""What a loader process reads, as the rank that waits for it can see: in memory that both map.

The process notes which of its lanes it fills and which shard each lane has opened: an integer a shard, some
thousand samples. The rank makes words of it only where somebody asks what it waits for.
"""

from __future__ import annotations

import numpy as np

from workers.data.index import Index

_SHARD_BITS = 40


def reading_bytes(lanes: int) -> int:
    """Bytes that a `Reading` of so many lanes takes."""
    return 8 * (1 + lanes)


class Reading:
    """Written by the loader process, read by the rank. Memory of zeros: nothing is open yet."""

    def __init__(self, buffer: memoryview | bytearray, lanes: tuple[int, ...], indexes: tuple[Index, ...]) -> None:
        self._lanes = lanes
        self._indexes = indexes
        # The lane that is filled, then the shard that each has open, both counted from 1.
        self._notes = np.ndarray(1 + len(lanes), np.int64, buffer)

    def fills(self, number: int) -> None:
        """The process fills the rows of its lane number `number`, from 0."""
        self._notes[0] = number + 1

    def opens(self, number: int, source: int, shard: int) -> None:
        """Its lane number `number` reads shard `shard` of source number `source`."""
        self._notes[1 + number] = (source << _SHARD_BITS | shard) + 1

    def clear(self) -> None:
        """Lets go of the memory."""
        self._notes = np.zeros_like(self._notes)

    def __str__(self) -> str:
        filled, *opened = self._notes.tolist()
        if not filled:
            return f"the first samples of lanes {', '.join(map(str, self._lanes))}"
        lane, shard = self._lanes[filled - 1], opened[filled - 1] - 1
        if shard < 0:
            return f"lane {lane}"
        return f"lane {lane}, {self._indexes[shard >> _SHARD_BITS].uris[shard & ((1 << _SHARD_BITS) - 1)]}"
