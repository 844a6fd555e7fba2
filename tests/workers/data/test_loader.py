"""Loaders with real processes: the same global batches for any split, and ends of every kind."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobspecs.data import Data, Image, Source, Text
from jobspecs.data import Loader as LoaderSpec
from jobspecs.errors import NotFoundError, UsageError
from jobspecs.storage import S3
from workers.data.decode import image_array
from workers.data.index import Index
from workers.data.keyed import hash64
from workers.data.loader import Loader, LoaderDiedError, RankBatch
from workers.data.order import Layout, Segment, SourceOrder, lanes_of_rank, rows_per_rank
from workers.data.rows import BadSample, Rows, batch_digest
from workers.data.tokenize import byte_tokens

IMAGE = Image(size=8, crop_scale=[0.3, 1.0], flip=0.5)
LAYOUT = Layout(seed=11, global_batch=12, lanes=4, window=5)
COUNTS = [7, 11, 1, 13, 9]
STEPS = 8
"""Three steps a pass (36 of 41 samples): three passes, the last one begun."""
ENDLESS = 1_000_000


def data_spec(processes: int = 1) -> Data:
    return Data(
        sources=[Source(name="noise", urls=["*"])],
        image=IMAGE,
        text=Text(context_length=32),
        loader=LoaderSpec(processes=processes, prefetch=2),
    )


def loader(
    index: Index, processes: int, rank: int, world_size: int, first_step: int = 0, last_step: int = STEPS
) -> Loader:
    return Loader(
        index,
        LAYOUT,
        data_spec(processes),
        S3(),
        rank=rank,
        world_size=world_size,
        first_step=first_step,
        last_step=last_step,
    )


def pids(of: Loader) -> list[int]:
    return [process._process.pid for process in of._processes]


def joined(shares: Sequence[RankBatch], world_size: int) -> RankBatch:
    """The global batch out of the ranks' batches, without their padding."""
    parts: list[Rows] = []
    for rank, share in enumerate(shares):
        rows = share.rows
        filled = len(lanes_of_rank(rank, world_size, LAYOUT.lanes)) * LAYOUT.lane_batch
        assert len(rows.valid) == rows_per_rank(world_size, LAYOUT)
        for array in (rows.valid, rows.ids, rows.images, rows.tokens):
            assert not array[filled:].any(), "padding is masked and empty"
        parts.append(Rows(rows.images[:filled], rows.tokens[:filled], rows.ids[:filled], rows.valid[:filled]))
    whole = Rows(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.tokens for part in parts]),
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.valid for part in parts]),
    )
    (step,) = {share.step for share in shares}
    return RankBatch(step, whole, [bad for share in shares for bad in share.bad])


def global_batches(index: Index, processes: int, world_size: int, first_step: int = 0) -> list[RankBatch]:
    with contextlib.ExitStack() as stack:
        ranks = [
            stack.enter_context(loader(index, processes, rank, world_size, first_step)) for rank in range(world_size)
        ]
        return [joined(shares, world_size) for shares in zip(*ranks, strict=True)]


def assert_equal(one: Sequence[RankBatch], other: Sequence[RankBatch]) -> None:
    for a, b in zip(one, other, strict=True):
        assert a.step == b.step
        assert (a.rows.ids == b.rows.ids).all()
        assert (a.rows.valid == b.rows.valid).all()
        assert (a.rows.images == b.rows.images).all()
        assert (a.rows.tokens == b.rows.tokens).all()
        assert sorted(a.bad, key=repr) == sorted(b.bad, key=repr)


DAMAGED = 3
"""The shard whose tar ends within its sample `CUT`."""
CUT = 8


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, write_source: Callable[[Path, Sequence[int]], Index]) -> Index:
    """Shards of which one is cut in the text of a sample: from there on it gives nothing."""
    index = write_source(tmp_path_factory.mktemp("source"), COUNTS)
    path = Path(index.uris[DAMAGED].removeprefix("file://"))
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(f"sample {CUT} of".encode()) + 3])
    return index


@pytest.fixture(scope="module")
def expected(source: Index) -> list[RankBatch]:
    """The batches of one rank with one loader process."""
    return global_batches(source, processes=1, world_size=1)


def test_batches_hold_what_the_order_says(
    source: Index, expected: list[RankBatch], noise_jpeg: Callable[..., bytes]
) -> None:
    order = SourceOrder("noise", source.counts, LAYOUT)
    assert [batch.step for batch in expected] == list(range(STEPS))
    for batch in expected:
        pass_ = order.pass_of(batch.step)
        places = [
            (segment.shard, place)
            for lane in range(LAYOUT.lanes)
            for number, start, stop in order.windows_of_step(batch.step, lane)
            for segment, place in slots(order, pass_, lane, number)[start:stop]
        ]
        bad = []
        for row, (shard, place) in enumerate(places):
            whole = shard != DAMAGED or place < CUT
            key = f"{shard}-{place}" if whole else ""
            assert batch.rows.ids[row] == hash64("noise", shard, place, key)
            assert batch.rows.valid[row] == whole
            if whole:
                caption = f"sample {place} of shard {shard}"
                assert (batch.rows.tokens[row] == byte_tokens(caption, 32)).all()
                draw = (LAYOUT.seed, "crop", pass_, "noise", shard, place)
                assert (batch.rows.images[row] == image_array(noise_jpeg(shard, place), IMAGE, draw)).all()
            else:
                assert not batch.rows.tokens[row].any()
                assert not batch.rows.images[row].any()
                bad.append(BadSample(source.uris[shard], place, "", "truncated"))
        assert batch.bad == bad
    assert any(batch.bad for batch in expected)


def slots(order: SourceOrder, pass_: int, lane: int, number: int) -> list[tuple[Segment, int]]:
    """The samples of a window in batch order, each with its segment."""
    window = order.window(pass_, lane, number)
    read = [(segment, place) for segment in window.segments for place in range(segment.start, segment.stop)]
    return [read[i] for i in window.order]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_any_split_gives_the_same_batches(
    source: Index, expected: list[RankBatch], world_size: int, processes: int
) -> None:
    batches = global_batches(source, processes, world_size)
    assert_equal(batches, expected)
    digests = [batch_digest(batch.rows.ids, batch.rows.valid) for batch in batches]
    assert digests == [batch_digest(batch.rows.ids, batch.rows.valid) for batch in expected]
    assert len(set(digests)) == STEPS


def test_more_ranks_than_lanes(source: Index, expected: list[RankBatch]) -> None:
    assert_equal(global_batches(source, processes=1, world_size=5), expected)


@pytest.mark.parametrize(("step", "world_size", "processes"), [(1, 1, 2), (3, 2, 1), (7, 3, 1), (8, 1, 1)])
def test_resuming_equals_going_on(
    source: Index, expected: list[RankBatch], step: int, world_size: int, processes: int
) -> None:
    assert_equal(global_batches(source, processes, world_size, first_step=step), expected[step:])


def assert_gone(pid: int) -> None:
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_leaving_early_ends_the_processes(source: Index) -> None:
    with loader(source, processes=2, rank=0, world_size=1, last_step=ENDLESS) as batches:
        running = pids(batches)
        assert len(set(running)) == 2
        assert next(iter(batches)).step == 0
        for pid in running:
            os.kill(pid, 0)
    for pid in running:
        assert_gone(pid)


def test_leaving_before_the_first_batch_or_by_an_error_ends_the_processes(source: Index) -> None:
    with loader(source, processes=1, rank=0, world_size=1, last_step=ENDLESS) as batches:
        (unused,) = pids(batches)
    failed = -1
    with contextlib.suppress(KeyError), loader(source, 1, 0, 1, last_step=ENDLESS) as batches:
        (failed,) = pids(batches)
        raise KeyError
    assert_gone(unused)
    assert_gone(failed)


def test_a_killed_process_is_reported_with_its_signal(source: Index) -> None:
    with loader(source, processes=2, rank=0, world_size=1, last_step=ENDLESS) as batches:
        iterator = iter(batches)
        next(iterator)
        os.kill(pids(batches)[1], signal.SIGKILL)
        with pytest.raises(LoaderDiedError, match=r"a loader process died \(killed by signal 9\)"):
            for _ in iterator:
                pass


def test_a_process_that_fails_is_reported_with_its_exit_code(source: Index, capfd: pytest.CaptureFixture[str]) -> None:
    broken = replace(source, sizes=(0,), etags=("",), uris=source.uris[:1], samples=(0,))
    with (
        loader(broken, processes=1, rank=0, world_size=1) as batches,
        pytest.raises(LoaderDiedError, match=r"a loader process died \(exit code 1\); see the worker's log"),
    ):
        next(iter(batches))
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_shard_that_is_gone_is_an_error_of_the_step_that_needs_it(source: Index) -> None:
    order = SourceOrder("noise", source.counts, LAYOUT)
    needed = {
        step: {
            segment.shard
            for lane in range(LAYOUT.lanes)
            for number, _, _ in order.windows_of_step(step, lane)
            for segment in order.window(0, lane, number).segments
        }
        for step in range(order.steps_per_pass)
    }
    late = max(range(len(COUNTS)), key=lambda shard: min(step for step in needed if shard in needed[step]))
    first = min(step for step in needed if late in needed[step])
    assert first > 0
    gone = source.uris[late].replace(".tar", "-gone.tar")
    index = replace(source, uris=tuple(gone if i == late else uri for i, uri in enumerate(source.uris)))
    with loader(index, processes=2, rank=0, world_size=1) as batches:
        iterator = iter(batches)
        assert [next(iterator).step for _ in range(first)] == list(range(first))
        with pytest.raises(NotFoundError, match=gone):
            next(iterator)


def test_other_errors_for_users_come_through_too(source: Index) -> None:
    index = replace(source, uris=("gs://bucket/x.tar",) * len(COUNTS))
    with (
        loader(index, processes=1, rank=0, world_size=1) as batches,
        pytest.raises(UsageError, match=r"gs://bucket/x\.tar"),
    ):
        next(iter(batches))


def test_a_killed_rank_leaves_no_process(source: Index) -> None:
    program = """
import pickle, sys, time
from workers.data.loader import Loader
from jobspecs.storage import S3
index, layout, data = pickle.load(sys.stdin.buffer)
loader = Loader(index, layout, data, S3(), rank=0, world_size=1, first_step=0, last_step=10**6)
next(iter(loader))
print("ready", flush=True)
time.sleep(600)
"""
    rank = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert rank.stdin is not None
    assert rank.stdout is not None
    with rank:
        pickle.dump((source, LAYOUT, data_spec(2)), rank.stdin)
        rank.stdin.flush()
        assert rank.stdout.readline() == b"ready\n"
        rank.kill()
        # The loader processes hold the other end of stdout too: it ends when the last of them is gone.
        assert rank.communicate(timeout=30)[0] == b""
