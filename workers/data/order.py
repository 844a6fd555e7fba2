"""The canonical order: which sample stands in which slot of which global batch. Pure arithmetic.

In: the sample counts of a source's shards and a `Layout`, which the plan fixes and the run keeps. Out:
for each lane, the samples of each window in reading order and in batch order. The cluster is not an
input: ranks and loader processes only share the lanes out (`lanes_of_rank`).

    pass e    shards are permuted with Philox(seed, source, e) and laid end to end in a ring, entered at
              a random sample; steps_per_pass · B samples from there are the pass (the fewer than B that
              are left over differ in each pass)
    lane ℓ    one of L equal contiguous stretches of it
    window w  M consecutive samples of a lane, permuted with Philox(seed, source, e, lane, w)
    step k    the next b = B/L samples of every lane, in lane order: slot = ℓ·b + j

Nothing repeats inside a pass, no batch straddles two passes, and the resume cursor is the step number.

Letters: B global batch, L lanes, b samples of a lane in a batch, M window of a lane.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from workers.data.keyed import permutation, raw


@dataclass(frozen=True)
class Layout:
    """What the plan fixes: the shape of every global batch, whatever the cluster."""

    seed: int
    global_batch: int
    lanes: int
    window: int
    """Samples of a lane that are permuted among each other."""

    def __post_init__(self) -> None:
        if self.global_batch % self.lanes:
            raise ValueError(f"global batch {self.global_batch} is not a multiple of {self.lanes} lanes")

    @property
    def lane_batch(self) -> int:
        """b: samples of one lane in one global batch."""
        return self.global_batch // self.lanes


def auto_lanes(global_batch: int) -> int:
    """The number of lanes for a batch, whatever the cluster: its largest divisor up to B/32, but up to 32
    where the batch gives each lane 8 samples. More lanes share out more evenly among ranks, fewer are
    fewer streams to read: 16 for B = 128, 32 for 1,024, 1,024 for 32,768."""
    most = max(1, global_batch // 32, min(32, global_batch // 8))
    return next(lanes for lanes in range(most, 0, -1) if global_batch % lanes == 0)


def lanes_of_rank(rank: int, world_size: int, lanes: int) -> range:
    """The lanes that `rank` owns: contiguous, and as even as they divide."""
    return range(rank * lanes // world_size, (rank + 1) * lanes // world_size)


def rows_per_rank(world_size: int, layout: Layout) -> int:
    """Rows that every rank computes: those of the rank with most lanes; the others pad with masked rows."""
    most = max(len(lanes_of_rank(rank, world_size, layout.lanes)) for rank in range(world_size))
    return most * layout.lane_batch


@dataclass(frozen=True)
class Segment:
    """Consecutive samples of one shard: `start` (included) to `stop` (excluded)."""

    shard: int
    start: int
    stop: int


@dataclass(frozen=True)
class Window:
    """A window of a lane: read `segments` one after the other, then take the samples in `order`."""

    segments: tuple[Segment, ...]
    order: NDArray[np.int64]
    """The j-th sample of the window in batch order is the `order[j]`-th read."""


class SourceOrder:
    """The canonical order of one source."""

    def __init__(self, source: str, counts: NDArray[np.int64], layout: Layout) -> None:
        self.source = source
        self.counts = counts
        self.layout = layout
        self.samples = int(counts.sum())
        self.steps_per_pass = self.samples // layout.global_batch
        self._lane_length = self.steps_per_pass * layout.lane_batch
        # A loader walks through the passes: the one it is in and the next are all it needs.
        self._ring = lru_cache(maxsize=2)(self._make_ring)

    def pass_of(self, step: int) -> int:
        """The pass that step `step` (from 0) belongs to."""
        return step // self.steps_per_pass

    def windows_of_step(self, step: int, lane: int) -> list[tuple[int, int, int]]:
        """Where the samples of `lane` in the batch of `step` stand: (window, start, stop) in batch order,
        one entry for each window that the batch touches."""
        first = (step % self.steps_per_pass) * self.layout.lane_batch
        last = first + self.layout.lane_batch
        M = self.layout.window
        return [
            (w, max(first, w * M) - w * M, min(last, (w + 1) * M) - w * M)
            for w in range(first // M, (last - 1) // M + 1)
        ]

    def window(self, pass_: int, lane: int, window: int) -> Window:
        """Window number `window` of `lane` in pass `pass_`; the last one of a lane may be short."""
        M = self.layout.window
        start = window * M
        length = min(M, self._lane_length - start)
        segments = self._segments(pass_, lane * self._lane_length + start, length)
        order = permutation(length, self.layout.seed, "window", self.source, pass_, lane, window)
        return Window(segments, order)

    def _segments(self, pass_: int, position: int, length: int) -> tuple[Segment, ...]:
        """The `length` samples from `position` of the pass on, as stretches of shards."""
        shards, ends, entry = self._ring(pass_)
        segments = []
        while length:
            place = (entry + position) % self.samples
            at = int(np.searchsorted(ends, place, side="right"))
            shard = int(shards[at])
            start = place - (int(ends[at]) - int(self.counts[shard]))
            take = min(length, int(self.counts[shard]) - start)
            segments.append(Segment(shard, start, start + take))
            position += take
            length -= take
        return tuple(segments)

    def _make_ring(self, pass_: int) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """Shards in the order of the pass, the end of each in the ring, and the entry to the ring."""
        shards = permutation(len(self.counts), self.layout.seed, "shards", self.source, pass_)
        entry = int(raw(1, self.layout.seed, "entry", self.source, pass_)[0] % np.uint64(self.samples))
        return shards, np.cumsum(self.counts[shards]), entry
