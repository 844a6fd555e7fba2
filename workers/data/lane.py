"""One lane of a source -> its rows, step after step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from jobspecs.data import Data
from workers.data.decode import UndecodableError, image_array
from workers.data.index import Index
from workers.data.keyed import hash64
from workers.data.order import Layout, SourceOrder
from workers.data.rows import BadSample, Rows
from workers.data.shards import Sample, extensions, read_samples
from workers.data.tokenize import byte_tokens
from workers.storage import Storage


@dataclass(frozen=True)
class _Placed:
    """A sample with its identity."""

    sample: Sample
    pass_: int
    shard: int
    place: int


class Lane:
    """The rows of one lane. Holds one window of undecoded samples, M at most."""

    def __init__(self, lane: int, index: Index, layout: Layout, data: Data, storage: Storage) -> None:
        self._lane = lane
        self._index = index
        self._layout = layout
        self._order = SourceOrder(index.source, index.counts, layout)
        self._data = data
        self._storage = storage
        self._image_extensions = extensions(data.image.column)
        self._text_extensions = extensions(data.text.column)
        self._window: tuple[tuple[int, int], list[_Placed]] | None = None

    def fill(self, step: int, rows: Rows, offset: int) -> list[BadSample]:
        """Writes the lane's b rows of `step` into `rows` from `offset` on; returns those left masked.

        Raises StorageError when a shard can't be read.
        """
        bad = []
        for row, placed in enumerate(self._samples(step), start=offset):
            identity = (self._index.source, placed.shard, placed.place)
            rows.ids[row] = hash64(*identity, placed.sample.key)
            cause = self._decode(placed, identity, rows, row)
            rows.valid[row] = cause is None
            if cause is not None:
                bad.append(BadSample(self._index.uris[placed.shard], placed.place, placed.sample.key, cause))
        return bad

    def _samples(self, step: int) -> Iterator[_Placed]:
        pass_ = self._order.pass_of(step)
        for window, start, stop in self._order.windows_of_step(step, self._lane):
            yield from self._read_window(pass_, window)[start:stop]

    def _read_window(self, pass_: int, window: int) -> list[_Placed]:
        """The samples of a window in batch order; the window is kept until another is asked for."""
        if self._window is None or self._window[0] != (pass_, window):
            self._window = None  # its memory is free before the next one is read
            layout = self._order.window(pass_, self._lane, window)
            columns = frozenset(self._image_extensions + self._text_extensions)
            read = [
                _Placed(sample, pass_, segment.shard, place)
                for segment in layout.segments
                for place, sample in enumerate(
                    read_samples(self._storage, self._index.uris[segment.shard], columns, segment.start, segment.stop),
                    start=segment.start,
                )
            ]
            self._window = (pass_, window), [read[i] for i in layout.order]
        return self._window[1]

    def _decode(self, placed: _Placed, identity: tuple[str, int, int], rows: Rows, row: int) -> str | None:
        """Fills the row; returns the cause where that can't be."""
        sample = placed.sample
        if sample.fault is not None:
            return sample.fault
        image = sample.column(self._image_extensions)
        text = sample.column(self._text_extensions)
        if image is None or text is None:
            return "missing_column"
        draw = (self._layout.seed, "crop", placed.pass_, *identity)
        try:
            rows.images[row] = image_array(image, self._data.image, draw)
            rows.tokens[row] = byte_tokens(text.decode("utf-8"), self._data.text.context_length)
        except (UndecodableError, UnicodeDecodeError):
            rows.images[row] = 0
            return "undecodable"
        return None
