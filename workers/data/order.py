"""The canonical order: which sample stands in which slot of which global batch. Pure arithmetic.

In: the sample counts of each source's shards and a `Layout`, which the plan fixes and the run keeps. Out:
for each source and lane, the samples of each window in reading order and in batch order. The cluster is
not an input: ranks and loader processes only share the lanes out (`lanes_of_rank`).

    slots     each source has its fixed stretch of the B slots of every global batch; the line of slots is
              cut into L equal lanes of b = B/L, so a lane has slots of one source or of a few
    pass e    of a source with B_s slots: its shards are permuted by draws of (seed, source, e) and laid end
              to end in a ring, entered at a random sample; steps_per_pass · B_s samples from there are the
              pass (the fewer than B_s that are left over differ in each pass)
    stream    of a source in a lane: the stretch of the pass that its slots there take, equal for all slots
    window w  consecutive samples of a stream, permuted by draws of (seed, source, e, lane, w)
    step k    the next samples of every stream, as many as it has slots, in slot order

Nothing repeats inside a source's pass, no batch straddles two of its passes, and the resume cursor is the
step number. Finding the samples of a (step, lane) takes O(log shards), after O(shards · log shards) once
a pass: 20 ms for 230,000 shards.

Letters: B global batch, L lanes, b slots of a lane, M window of a lane.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
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
    slots: tuple[int, ...]
    """Slots of each source in every global batch, in the order of the sources."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "slots", tuple(self.slots))  # JSON has lists
        if self.global_batch % self.lanes:
            raise ValueError(f"global batch {self.global_batch} is not a multiple of {self.lanes} lanes")
        if sum(self.slots) != self.global_batch:
            raise ValueError(f"the sources' slots {self.slots} don't add up to the batch of {self.global_batch}")

    @property
    def lane_batch(self) -> int:
        """b: slots of one lane in one global batch."""
        return self.global_batch // self.lanes

    def slots_of(self, source: int, lane: int) -> range:
        """The slots of `lane` that source number `source` has, counted from the source's first slot."""
        first = sum(self.slots[:source])
        b = self.lane_batch
        begin, end = max(first, lane * b), min(first + self.slots[source], (lane + 1) * b)
        return range(begin - first, max(begin, end) - first)


def auto_lanes(global_batch: int) -> int:
    """The number of lanes for a batch, whatever the cluster: its largest divisor up to B/32, but up to 32
    where the batch gives each lane 8 samples. More lanes share out more evenly among ranks, fewer are
    fewer streams to read: 16 for B = 128, 32 for 1,024, 1,024 for 32,768."""
    most = max(1, global_batch // 32, min(32, global_batch // 8))
    return next(lanes for lanes in range(most, 0, -1) if global_batch % lanes == 0)


def share_out(global_batch: int, weights: list[float]) -> tuple[int, ...]:
    """Slots of each source in a batch, in proportion to `weights`; what rounding leaves goes to the largest
    remainders (ties to the first source). share_out(10, [2, 1]) -> (7, 3)."""
    total = sum(map(Fraction, weights))
    exact = [global_batch * Fraction(weight) / total for weight in weights]
    slots = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: slots[i] - exact[i])
    for source in by_remainder[: global_batch - sum(slots)]:
        slots[source] += 1
    return tuple(slots)


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
    """A window of a stream: read `segments` one after the other, then take the samples in `order`."""

    segments: tuple[Segment, ...]
    order: NDArray[np.int64]
    """The j-th sample of the window in batch order is the `order[j]`-th read."""


class SourceOrder:
    """The canonical order of one source."""

    def __init__(self, name: str, counts: NDArray[np.int64], layout: Layout, number: int = 0) -> None:
        """`counts`: samples of each shard. `number`: the source's place among the sources."""
        self.name = name
        self.counts = counts
        self.layout = layout
        self.number = number
        self.samples = int(counts.sum())
        self.steps_per_pass = self.samples // layout.slots[number]
        # A loader walks through the passes: the one it is in and the next are all it needs.
        self._ring = lru_cache(maxsize=2)(self._make_ring)

    def pass_of(self, step: int) -> int:
        """The pass that step `step` (from 0) belongs to."""
        return step // self.steps_per_pass

    def windows(self, lane: int) -> int:
        """Windows of the source's stream in `lane` in one pass; the last one may be short."""
        length = self.steps_per_pass * len(self.layout.slots_of(self.number, lane))
        return -(-length // self._window_length(lane))

    def windows_of_step(self, step: int, lane: int) -> list[tuple[int, int, int]]:
        """Where the samples of `lane` in the batch of `step` stand: (window, start, stop) in batch order,
        one entry for each window that the batch touches."""
        slots = len(self.layout.slots_of(self.number, lane))
        first = (step % self.steps_per_pass) * slots
        last = first + slots
        M = self._window_length(lane)
        return [
            (w, max(first, w * M) - w * M, min(last, (w + 1) * M) - w * M)
            for w in range(first // M, (last - 1) // M + 1)
        ]

    def window(self, pass_: int, lane: int, window: int) -> Window:
        """Window number `window` of the stream in `lane` in pass `pass_`."""
        slots = self.layout.slots_of(self.number, lane)
        M = self._window_length(lane)
        start = window * M
        length = min(M, self.steps_per_pass * len(slots) - start)
        segments = self.segments(pass_, self.steps_per_pass * slots.start + start, length)
        order = permutation(length, self.layout.seed, "window", self.name, pass_, lane, window)
        return Window(segments, order)

    def segments(self, pass_: int, position: int, length: int) -> tuple[Segment, ...]:
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

    def _window_length(self, lane: int) -> int:
        """Samples of a window of the source's stream in `lane`: its share of the lane's M."""
        slots = len(self.layout.slots_of(self.number, lane))
        return max(1, self.layout.window * slots // self.layout.lane_batch)

    def _make_ring(self, pass_: int) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """Shards in the order of the pass, the end of each in the ring, and the entry to the ring."""
        shards = permutation(len(self.counts), self.layout.seed, "shards", self.name, pass_)
        entry = int(raw(1, self.layout.seed, "entry", self.name, pass_)[0] % np.uint64(self.samples))
        return shards, np.cumsum(self.counts[shards]), entry
