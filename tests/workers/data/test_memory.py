"""What loader processes hold, by hand and against the things themselves. Whether they do is test_loader's."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobspecs.columns import BpeTokenizer, Text
from jobspecs.data import Data
from jobspecs.storage import S3
from workers.data.index import Index
from workers.data.loader_process import Task
from workers.data.memory import PROCESS_BYTES, LoaderMemory, loader_memory
from workers.data.order import Layout, lanes_of_rank
from workers.data.scan import Scan
from workers.data.tokenize import Tokenizer, byte_tokenizer
from workers.storage import ObjectInfo

MIB = 1 << 20


def data_of(**loader: Any) -> Data:
    """Images of 8², texts of 16 tokens."""
    return Data.model_validate(
        {
            "sources": [{"name": "web", "urls": ["*.tar"]}],
            "image": {"size": 8},
            "text": {"tokenizer": {"kind": "bytes"}, "context_length": 16},
            "loader": loader,
        }
    )


def index_of(*shards: tuple[str, int, int]) -> Index:
    """Of (URI, bytes, samples), all of them scanned."""
    infos = [ObjectInfo(uri, size, "e") for uri, size, _ in shards]
    return Index.of("web", "", infos, [Scan.of(samples, (0,)) for _, _, samples in shards])


LAYOUT = Layout(seed=0, global_batch=64, lanes=8, window=100, slots=(64,))
LOCAL = index_of(("file:///0.tar", 1_000_000, 1000), ("file:///1.tar", 9_000_000, 3000))
REMOTE = index_of(("s3://b/0.tar", 100 * MIB, 1000), ("s3://b/1.tar", 300 * MIB, 3000))


def test_by_hand() -> None:
    """3 ranks share 8 lanes out: the second one has 3, in 2 processes with 2 lanes at most."""
    memory = loader_memory(data_of(processes=2, prefetch=2, read_ahead=3), (REMOTE,), {}, LAYOUT, workers=3)
    # A row: id 8, valid 1, image 192 and its key 8, text 64; 16 rows in a slot, each array from a multiple of 64.
    slot = 128 + 64 + 16 * 192 + 128 + 16 * 64
    batch = 192 + 64 + 24 * 192 + 192 + 24 * 64
    # 2 shards: size, stored, samples; URIs, ETags, offsets, kept, beside with their ends; two rings.
    index = 2 * 3 * 8 + (2 * 12 + 2 * 1 + 2 * 4 + 0) + 5 * 2 * 8 + 2 * 2 * 2 * 8
    assert memory == LoaderMemory(
        windows=int(3 * 100 * 100 * MIB / 1000),
        negatives=0,
        read_ahead=3 * (3 + 1) * 8 * MIB,
        queues=2 * 3 * slot + 2 * batch,
        processes=2 * (PROCESS_BYTES + index),
    )
    assert memory.total == memory.windows + memory.read_ahead + memory.queues + memory.processes


@pytest.mark.parametrize(
    ("shards", "read_ahead", "expected"),
    [
        ([("file:///0.tar", 99 * MIB, 9)], 2, 0),
        ([("s3://b/0.tar", 99 * MIB, 9)], 2, 8 * 3 * 8 * MIB),
        ([("s3://b/0.tar", 99 * MIB, 9)], 0, 8 * 8 * MIB),
        ([("s3://b/0.tar", 1 * MIB, 9)], 2, 8 * 1 * MIB),  # no more than the shard
        ([("s3://b/0.tar", 1 * MIB, 9), ("s3://b/1.tar", 9 * MIB, 9)], 2, 8 * 9 * MIB),
        ([("file:///0.tar", 99 * MIB, 9), ("s3://b/1.tar", 99 * MIB, 9)], 2, 8 * 3 * 8 * MIB),
    ],
)
def test_ranges_of_object_storage(shards: list[tuple[str, int, int]], read_ahead: int, expected: int) -> None:
    memory = loader_memory(data_of(read_ahead=read_ahead), (index_of(*shards),), {}, LAYOUT, workers=1)
    assert memory.read_ahead == expected


def test_ranges_of_one_source_among_others() -> None:
    layout = replace(LAYOUT, slots=(30, 34))
    memory = loader_memory(data_of(read_ahead=0), (LOCAL, REMOTE), {}, layout, workers=8)
    assert memory.read_ahead == (1 + 1) * 8 * MIB  # the lane in the middle reads of both


def test_no_more_samples_are_held_than_there_are() -> None:
    few = index_of(("file:///0.tar", 70 * 512, 70))
    memory = loader_memory(data_of(), (few,), {}, replace(LAYOUT, window=10_000), workers=1)
    assert memory.windows == 70 * 512


def test_samples_are_as_large_as_those_of_the_shard_with_the_largest() -> None:
    index = index_of(("file:///0.tar", 1_000_000, 1000), ("file:///1.tar", 512, 0), ("file:///2.tar", 9_000, 3))
    other = index_of(("file:///3.tar", 1_000_000, 1000))
    layout = replace(LAYOUT, slots=(32, 32))
    assert loader_memory(data_of(), (index, other), {}, layout, workers=8).windows == 100 * 3000


def test_mined_negatives_are_held_with_the_windows_and_by_shard() -> None:
    """2 lanes a rank: 100 samples each in their windows, and those of the largest shard, which each of them reads."""
    plain, mines = (loader_memory(data_of(), (LOCAL,), {}, LAYOUT, 4, mined) for mined in (0, 5))
    assert mines.negatives == (2 * 100 + 2 * 3000) * 5 * 3000
    assert mines == replace(plain, negatives=mines.negatives)
    assert mines.total == plain.total + mines.negatives


layouts = st.builds(
    lambda lanes, b, window, cut: Layout(0, lanes * b, lanes, window, (min(cut, lanes * b), max(0, lanes * b - cut))),
    st.integers(1, 40),
    st.integers(1, 8),
    st.integers(1, 200),
    st.integers(0, 100),
)


@given(layouts, st.integers(1, 50), st.integers(1, 6), st.integers(1, 4))
@settings(deadline=None, max_examples=100)
def test_it_is_that_of_the_rank_with_most(layout: Layout, workers: int, processes: int, prefetch: int) -> None:
    """Against what each rank's loader makes."""
    data = data_of(processes=processes, prefetch=prefetch, read_ahead=0)
    indexes = (REMOTE, REMOTE)
    memory = loader_memory(data, indexes, {}, layout, workers)
    for rank in range(workers):
        lanes = lanes_of_rank(rank, workers, layout.lanes)
        shares = [tuple(lanes[i::processes]) for i in range(processes) if lanes[i::processes]]
        tasks = [Task(indexes, layout, data, {}, S3(), share, 0, 1) for share in shares]
        assert sum(task.memory_bytes for task in tasks) <= memory.queues
        assert len(tasks) * PROCESS_BYTES <= memory.processes
        streams = sum(bool(layout.slots_of(source, lane)) for source in (0, 1) for lane in lanes)
        assert streams * 8 * MIB <= memory.read_ahead
    assert loader_memory(data, indexes, {}, layout, workers + 1).total <= memory.total


def test_an_index_takes_what_is_sent_of_it() -> None:
    shards = [(f"s3://bucket/{number:05d}.tar", 1, 9) for number in range(5_000)]
    index = index_of(*shards)
    one, two = (loader_memory(data_of(), indexes, {}, LAYOUT, 8).processes for indexes in ((index,), (index, index)))
    rings = 5_000 * 2 * 2 * 8
    assert abs(two - one - rings - len(pickle.dumps(index))) < 5_000


def test_tokenizers_are_held_by_each_process() -> None:
    """What there is counts by its JSON, what is still to be trained by its vocabulary; bytes take nothing."""
    bpe = Text(tokenizer=BpeTokenizer(kind="bpe", vocabulary=1000))
    plain = data_of(processes=2)
    trained = plain.model_copy(update={"text": bpe})
    fast = replace(byte_tokenizer(), fast="x" * 700)

    def processes(data: Data, tokenizers: dict[str, Tokenizer]) -> int:
        return loader_memory(data, (LOCAL,), tokenizers, LAYOUT, workers=1).processes

    without = processes(plain, {"text": byte_tokenizer()})
    assert processes(plain, {"text": fast}) == without + 2 * 700 * 56
    assert processes(trained, {}) == without + 2 * 1000 * 40 * 56
