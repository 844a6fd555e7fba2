"""A stream of samples against the order that it has to keep, and what it reads and holds meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobspecs.errors import DataError, NotFoundError
from tests.workers.data.tars import InMemory, caption, filtered, in_memory, on_disk, tar_of, texts, without_offsets
from workers.data import stream as stream_module
from workers.data.index import Index
from workers.data.order import Layout, SourceOrder
from workers.data.shards import OFFSET_STRIDE, Sample
from workers.data.stream import Placed, Stream
from workers.storage import Storage

COLUMNS = (("txt",),)
Identity = tuple[str, int, int]


def order_of(index: Index, layout: Layout) -> SourceOrder:
    return SourceOrder(index.source, index.samples, layout)


def expected(order: SourceOrder, lane: int, step: int, every: int = 1) -> list[Identity]:
    """Source, shard, place of the samples of a step, where every so many of a shard are kept."""
    samples = []
    for number, start, stop in order.windows_of_step(step, lane):
        window = order.window(order.pass_of(step), lane, number)
        read = [(s.shard, place * every) for s in window.segments for place in range(s.start, s.stop)]
        samples += [(order.name, *read[i]) for i in window.order[start:stop]]
    return samples


def stream_of(
    index: Index, order: SourceOrder, storage: Storage, lane: int = 0, first: int = 0, last: int = 10**6
) -> Stream:
    return Stream(index, order, lane, COLUMNS, storage, first_step=first, last_step=last)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[int], Layout]:
    """Sample counts of shards for one global batch at least, and a layout of one source."""
    lanes, lane_batch = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    counts = draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    counts[0] += max(0, lanes * lane_batch - sum(counts))
    batch = lanes * lane_batch
    return counts, Layout(draw(st.integers(0, 2**32)), batch, lanes, draw(st.integers(1, 60)), (batch,))


class Reads:
    """Counts the samples that streams read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._read_samples = stream_module.read_samples
        monkeypatch.setattr(stream_module, "read_samples", self._counting)

    def _counting(self, *arguments: Any) -> Iterator[Sample]:
        for sample in self._read_samples(*arguments):
            self.count += 1
            yield sample


@given(cases(), st.data())
@settings(deadline=None, max_examples=100)
def test_from_any_step_to_any_other_it_gives_the_order_and_holds_no_more_than_a_window(
    case: tuple[list[int], Layout], data: st.DataObject
) -> None:
    counts, layout = case
    every = data.draw(st.integers(1, 3), label="every")
    storage, (index,) = in_memory({"web": [tar_of(texts(shard, count * every)) for shard, count in enumerate(counts)]})
    if every > 1:
        index = filtered(index, every)
    order = order_of(index, layout)
    lane = data.draw(st.integers(0, layout.lanes - 1), label="lane")
    first = data.draw(st.integers(0, 2 * order.steps_per_pass), label="first")
    last = first + data.draw(st.integers(1, 2 * order.steps_per_pass + 1), label="steps")
    slots, longest = layout.lane_batch, len(order.window(0, lane, 0).order)
    with pytest.MonkeyPatch.context() as monkeypatch:
        reads = Reads(monkeypatch)
        stream = stream_of(index, order, storage, lane, first, last)
        (number, used, _), *others = order.windows_of_step(first, lane)
        for step in range(first, last):
            placed = stream.take(step)
            assert [sample.identity for sample in placed] == expected(order, lane, step, every)
            assert {sample.pass_ for sample in placed} == {order.pass_of(step)}
            for sample in placed:
                assert sample.uri == index.uris[sample.shard]
                text = caption(sample.shard, sample.sample.place).encode()
                assert sample.sample == Sample(
                    f"{sample.shard}-{sample.sample.place}", {"txt": text}, place=sample.sample.place
                )
            if step == first and not others:
                assert reads.count == len(order.window(order.pass_of(first), lane, number).order)
            # What was read and neither passed over at the start nor taken.
            assert reads.count - used - (step + 1 - first) * slots <= longest
            assert storage.most_open == 1


def test_reading_is_spread_evenly_over_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    storage, (index,) = in_memory({"web": [tar_of(texts(shard, 100)) for shard in range(4)]})
    order = order_of(index, Layout(seed=0, global_batch=5, lanes=1, window=50, slots=(5,)))
    reads = Reads(monkeypatch)
    stream = stream_of(index, order, storage, last=160)
    stream.start()
    counts = [reads.count]
    for step in range(160):  # two passes
        stream.take(step)
        counts.append(reads.count)
    # A window before the first step; then each step makes up for the one before it.
    assert counts[0] == 50
    assert np.diff(counts).tolist() == [0] + [5] * 150 + [0] * 9
    # Each shard once a pass, and the one with the entry to the ring twice.
    assert storage.opened in (4 + 4, 5 + 4, 4 + 5, 5 + 5)


def test_the_last_step_is_the_last_that_is_read_for(monkeypatch: pytest.MonkeyPatch) -> None:
    storage, (index,) = in_memory({"web": [tar_of(texts(0, 100))]})
    order = order_of(index, Layout(seed=0, global_batch=5, lanes=1, window=20, slots=(5,)))
    reads = Reads(monkeypatch)
    stream = stream_of(index, order, storage, last=6)  # of two windows
    for step in range(6):
        stream.take(step)
    assert reads.count == 40


LARGE = Layout(seed=0, global_batch=8, lanes=2, window=200, slots=(8,))


@pytest.fixture(scope="module")
def large() -> tuple[InMemory, Index]:
    """Six shards of some strides of offsets each."""
    storage, (index,) = in_memory({"web": [tar_of(texts(shard, 2000 + 100 * shard)) for shard in range(6)]})
    return storage, index


def bytes_to_first_batch(large: tuple[InMemory, Index], index: Index, seed: int, step: int) -> int:
    """Of both lanes."""
    storage, _ = large
    layout = Layout(seed, LARGE.global_batch, LARGE.lanes, LARGE.window, LARGE.slots)
    order = order_of(index, layout)
    before = storage.bytes_read
    for lane in range(layout.lanes):
        stream_of(index, order, storage, lane, step).take(step)
    return storage.bytes_read - before


@pytest.mark.parametrize("offsets", [True, False], ids=["offsets", "no offsets"])
def test_a_resume_in_mid_pass_reads_at_most_twice_what_a_fresh_start_does(
    large: tuple[InMemory, Index], offsets: bool
) -> None:
    index = large[1] if offsets else without_offsets(large[1])
    steps = order_of(index, LARGE).steps_per_pass
    fresh = [bytes_to_first_batch(large, index, seed, 0) for seed in range(20)]
    resumed = [bytes_to_first_batch(large, index, seed, 1 + seed * (steps - 2) // 19) for seed in range(20)]
    assert np.mean(resumed) <= 2 * np.mean(fresh)
    if offsets:
        # A window of each lane, two where the step begins one, and up to a stride before each shard in it.
        sample, shards = 1024, 2
        most = LARGE.lanes * (2 * LARGE.window + shards * OFFSET_STRIDE) * sample
        assert max(fresh + resumed) <= most
    else:
        assert max(fresh + resumed) > LARGE.window * LARGE.lanes * 1024 * 3  # most of it is passed over


def test_a_shard_that_is_gone_or_another_one_is_an_error_that_names_it(tmp_path: Path) -> None:
    index = on_disk(tmp_path, [tar_of(texts(0, 9))])
    order = order_of(index, Layout(seed=0, global_batch=3, lanes=1, window=4, slots=(3,)))
    path = tmp_path / "shard-0.tar"
    path.write_bytes(path.read_bytes() + bytes(512))
    with pytest.raises(DataError, match=r"shard-0\.tar: it was changed or replaced since it was indexed"):
        stream_of(index, order, Storage()).take(0)
    path.unlink()
    with pytest.raises(NotFoundError, match=r"shard-0\.tar"):
        stream_of(index, order, Storage()).start()


def test_what_is_damaged_keeps_its_place(tmp_path: Path) -> None:
    tar = tar_of(texts(0, 40))
    index = on_disk(tmp_path, [tar], damage={0: lambda whole: whole[: 20 * 1024]})
    order = order_of(index, Layout(seed=0, global_batch=4, lanes=1, window=10, slots=(4,)))
    stream = stream_of(index, order, Storage())
    seen: list[Placed] = [placed for step in range(10) for placed in stream.take(step)]
    assert sorted(placed.sample.place for placed in seen) == list(range(40))
    assert [placed.sample.fault for placed in seen] == [
        None if placed.sample.place < 20 else "truncated" for placed in seen
    ]
