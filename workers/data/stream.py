"""The samples of one source in one lane, step after step, read from its shards in long stretches.

Holds one window of undecoded samples: as one window is used up, the next is read, so that reading is spread
evenly over the steps and a sample's bytes are held no longer than the shuffle needs them. No step waits for
more than the window that it takes from, the first one after a resume included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from workers.data.index import Index
from workers.data.negatives import Negatives
from workers.data.order import Segment, SourceOrder
from workers.data.shards import Sample, read_samples
from workers.storage import Storage


@dataclass(frozen=True)
class Placed:
    """A sample and where it came from."""

    sample: Sample
    source: str
    shard: int
    uri: str
    pass_: int
    negatives: Sequence[str] = ()
    """That the job mined for it."""

    @property
    def identity(self) -> tuple[str, int, int]:
        """Source, shard, place: what all random draws about a sample are keyed by."""
        return self.source, self.shard, self.sample.place


class _Window:
    """A window that is being read or used: its samples at their places in batch order."""

    def __init__(self, key: tuple[int, int], samples: Iterator[Placed], place_of_read: list[int], start: int) -> None:
        self.key = key
        """Pass and number."""
        self._start = start
        """Places before it were used before a resume, and are read but not held."""
        self._used = start
        self._reading = samples
        self._place_of_read = place_of_read
        self._read = 0
        self._held: list[Placed | None] = [None] * len(place_of_read)

    def __len__(self) -> int:
        return len(self._held)

    @property
    def used(self) -> float:
        """How much was taken of what it held at first, as a fraction."""
        return (self._used - self._start) / (len(self) - self._start)

    def read(self, fraction: float = 1.0) -> None:
        """Reads until so much of it was read."""
        until = math.ceil(fraction * len(self))
        for number in range(self._read, until):
            placed = next(self._reading)
            place = self._place_of_read[number]
            if place >= self._start:
                self._held[place] = placed
        self._read = max(self._read, until)

    def take(self, stop: int) -> list[Placed]:
        """The next samples in batch order, up to place `stop`."""
        taken = [placed for placed in self._held[self._used : stop] if placed is not None]
        assert len(taken) == stop - self._used, f"window {self.key} was asked for places up to {stop} too early"
        self._held[self._used : stop] = [None] * len(taken)
        self._used = stop
        return taken


class Stream:
    """The samples of a source in `lane`, from `first_step` to before `last_step`. `opening` is told each shard that
    it begins to read; `negatives` gives what was mined for a shard's samples, by their place."""

    def __init__(
        self,
        index: Index,
        order: SourceOrder,
        lane: int,
        columns: tuple[tuple[str, ...], ...],
        storage: Storage,
        *,
        first_step: int,
        last_step: int,
        opening: Callable[[int], None] = lambda shard: None,
        negatives: Callable[[int], Negatives] = lambda shard: {},
    ) -> None:
        self._opening = opening
        self._negatives = negatives
        self._mined: Negatives = {}
        """Of the shard that is open."""
        self._index = index
        self._order = order
        self._lane = lane
        self._columns = columns
        self._storage = storage
        self._last = self._key(last_step - 1, -1)
        self._open: tuple[int, int, Iterator[Sample]] | None = None
        """Shard, next of its samples, and what reads on from there."""
        (_, start, _), *_ = order.windows_of_step(first_step, lane)
        self._window = self._make_window(self._key(first_step, 0), start)
        self._next: _Window | None = None

    def start(self) -> None:
        """Reads the first window. Raises StorageError, DataError."""
        self._window.read()

    def take(self, step: int) -> list[Placed]:
        """The samples of `step`; steps are asked for one after the other.

        Raises StorageError, DataError.
        """
        # For the steps before: their batches did not wait for it.
        self._read_ahead()
        taken = []
        for window, _, stop in self._order.windows_of_step(step, self._lane):
            self._enter((self._order.pass_of(step), window))
            taken += self._window.take(stop)
        return taken

    def _enter(self, key: tuple[int, int]) -> None:
        """Makes the window `key` the one in use, and reads what is missing of it."""
        if self._window.key != key:
            self._window = self._next or self._make_window(key, 0)
            self._next = None
            assert self._window.key == key, f"window {key} was asked for after {self._window.key}"
        self._window.read()

    def _read_ahead(self) -> None:
        """Reads as much of the next window as this one is used up."""
        pass_, window = self._window.key
        following = (pass_, window + 1) if window + 1 < self._order.windows(self._lane) else (pass_ + 1, 0)
        if following > self._last:
            return
        self._next = self._next or self._make_window(following, 0)
        self._next.read(self._window.used)

    def _key(self, step: int, at: int) -> tuple[int, int]:
        """Pass and window of the first or last sample of a step."""
        return self._order.pass_of(step), self._order.windows_of_step(step, self._lane)[at][0]

    def _make_window(self, key: tuple[int, int], start: int) -> _Window:
        pass_, number = key
        window = self._order.window(pass_, self._lane, number)
        place_of_read = np.argsort(window.order)
        samples = (placed for segment in window.segments for placed in self._segment(pass_, segment))
        return _Window(key, samples, place_of_read.tolist(), start)

    def _segment(self, pass_: int, segment: Segment) -> Iterator[Placed]:
        uri = self._index.uris[segment.shard]
        for number in range(segment.start, segment.stop):
            sample = self._sample(segment.shard, number)
            mined = self._mined.get(sample.place, ())
            yield Placed(sample, self._index.source, segment.shard, uri, pass_, mined)

    def _sample(self, shard: int, number: int) -> Sample:
        """Sample number `number` of a shard: the next one of the shard that is open, or the first of another."""
        if self._open is None or self._open[:2] != (shard, number):
            self._open = None  # lets go of its ranges before the other one fetches its own
            self._opening(shard)
            self._mined = self._negatives(shard)
            samples = read_samples(self._storage, self._index.shard(shard), self._columns, number)
        else:
            samples = self._open[2]
        sample = next(samples)
        self._open = shard, number + 1, samples
        return sample
