"""Loaders with real processes: the same global batches for any split, and ends of every kind."""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from jobspecs.errors import DataError, NotFoundError, UsageError
from jobspecs.storage import S3
from tests.workers.data.mixture import (
    BAD,
    COUNTS,
    CUT,
    ENDLESS,
    IMAGE,
    LAYOUT,
    STEPS,
    TOKENIZERS,
    assert_equal,
    data_spec,
    digests,
    global_batches,
    loader,
    slots,
    write_mixture,
)
from tests.workers.data.tars import caption, noise_jpeg
from workers.data.decode import decode_views
from workers.data.index import Index
from workers.data.keyed import hash64
from workers.data.loader import Loader, LoaderDiedError, RankBatch
from workers.data.loader_process import Filled, Task, serve
from workers.data.ragged import Strings
from workers.data.rows import BadSample


def pids(of: Loader) -> list[int]:
    return [process._process.pid for process in of._processes]


def open_files() -> set[tuple[str, str]]:
    """Descriptors of this process, and what they stand for."""
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add((descriptor, os.readlink(f"/proc/self/fd/{descriptor}")))
    return found


# --- what the batches hold ----------------------------------------------------------------------------


def key_of(source: str, shard: int, place: int) -> str:
    is_behind_the_cut = (source, shard) == CUT[:2] and place > CUT[2]
    return "" if is_behind_the_cut else f"{shard}-{place}"


def test_batches_hold_what_the_order_says(mixture: tuple[Index, ...], expected: list[RankBatch]) -> None:
    uris = {index.source: index.uris for index in mixture}
    assert [batch.step for batch in expected] == list(range(STEPS))
    causes = Counter()
    for batch in expected:
        rows, bad = batch.rows, []
        for row, (source, shard, place, pass_) in enumerate(slots(mixture, batch.step)):
            key, cause = key_of(source, shard, place), BAD.get((source, shard, place))
            assert rows.ids[row] == hash64(source, shard, place, key)
            if cause is None:
                image = np.empty((1, 8, 8, 3), np.uint8)
                draw = (LAYOUT.seed, "crop", pass_, source, shard, place)
                decode_views(noise_jpeg(shard, place), IMAGE, draw, image)
                tokens = TOKENIZERS["text"].encode(caption(shard, place), 32)
                assert (rows.columns["image"][row] == image).all()
                assert (rows.columns["text"][row] == tokens).all()
            else:
                assert not rows.columns["image"][row].any()
                assert not rows.columns["text"][row].any()
                bad.append(BadSample(uris[source][shard], place, key, cause))
            assert rows.valid[row] == (cause is None)
        assert batch.bad == bad
        causes.update(sample.cause for sample in bad)
    assert set(causes) == set(BAD.values())


def test_shares_are_exact_and_nothing_comes_twice_in_a_batch_or_a_pass(
    mixture: tuple[Index, ...], expected: list[RankBatch]
) -> None:
    sample_of = {
        hash64(source, shard, place, key_of(source, shard, place)): (source, shard, place)
        for source, counts in COUNTS.items()
        for shard, count in enumerate(counts)
        for place in range(count)
    }
    batches = [[sample_of[identity] for identity in batch.rows.ids.tolist()] for batch in expected]
    for name, share in zip(COUNTS, LAYOUT.slots, strict=True):
        own = [[sample for sample in batch if sample[0] == name] for batch in batches]
        assert {len(batch) for batch in own} == {share}
        steps = sum(COUNTS[name]) // share
        passes = [list(itertools.chain(*own[start : start + steps])) for start in range(0, STEPS, steps)]
        assert all(len(set(samples)) == len(samples) for samples in passes)
        assert len(passes[0]) > sum(COUNTS[name]) - share, "only a rest smaller than a batch waits for another pass"
        assert passes[0] != passes[1]
    assert len(set(digests(expected))) == STEPS


@pytest.mark.parametrize(
    ("world_size", "processes", "first_step"),
    [(1, 3, 0), (2, 2, 1), (3, 1, 4), (5, 2, 7), (9, 1, 11), (1, 1, 12)],
)
def test_any_split_from_any_step_gives_the_same_batches(
    mixture: tuple[Index, ...], expected: list[RankBatch], world_size: int, processes: int, first_step: int
) -> None:
    """Nine ranks are more than there are lanes."""
    assert_equal(global_batches(mixture, processes, world_size, first_step), expected[first_step:])


def test_a_cluster_that_shrinks_gives_the_same_batches(mixture: tuple[Index, ...], expected: list[RankBatch]) -> None:
    batches = []
    for world_size in (8, 6, 4, 1):
        batches += global_batches(mixture, 1, world_size, len(batches), len(batches) + 3)
    assert_equal(batches, expected)


def test_a_batch_stays_as_it_is_while_the_next_ones_are_made(
    mixture: tuple[Index, ...], expected: list[RankBatch]
) -> None:
    with loader(mixture, processes=2) as batches:
        kept = [(batch, copy.deepcopy(batch)) for batch in batches]
    # The memory that it was copied from is gone by now.
    assert_equal([batch for batch, _ in kept], [then for _, then in kept])
    assert_equal([batch for batch, _ in kept], expected)


def test_ahead_there_are_two_batches_that_take_turns(mixture: tuple[Index, ...], expected: list[RankBatch]) -> None:
    pieces: list[bytearray] = []

    def memory(nbytes: int) -> memoryview:
        pieces.append(bytearray(nbytes))
        return memoryview(pieces[-1])

    with loader(mixture, processes=2, ahead=memory) as batches:
        found = [(copy.deepcopy(batch), batch.rows.ids.__array_interface__["data"][0]) for batch in batches]
    assert_equal([batch for batch, _ in found], expected)
    places = [place for _, place in found]
    assert (len(pieces), len(set(places))) == (2, 2)
    assert places == [places[number % 2] for number in range(STEPS)]


def test_ahead_errors_come_through(mixture: tuple[Index, ...]) -> None:
    with loader(mixture, last_step=ENDLESS, ahead=_memory) as batches:
        iterator = iter(batches)
        next(iterator)
        os.kill(pids(batches)[0], signal.SIGKILL)
        with pytest.raises(LoaderDiedError, match=r"killed by signal 9"):
            for _ in iterator:
                pass


def test_leaving_early_ends_the_thread_that_is_ahead(mixture: tuple[Index, ...]) -> None:
    with loader(mixture, last_step=ENDLESS, ahead=_memory) as batches:
        for _ in batches:
            break
    for thread in threading.enumerate():
        if thread.name == "loader-ahead":
            thread.join(60)
            assert not thread.is_alive()


def _memory(nbytes: int) -> memoryview:
    return memoryview(bytearray(nbytes))


class Rank:
    """A rank's end of the pipe that frees a slot only when the process waits for one."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.asked = 0
        self.filled: list[Filled] = []

    def send(self, filled: Filled) -> None:
        self.filled.append(filled)

    def recv(self) -> Any:
        self.asked += 1
        if self.asked == 1:
            return self.task
        freed = self.asked - 2
        held = [filled.slot for filled in self.filled[freed:]]
        assert len(held) == len(set(held)) == self.task.data.loader.prefetch + 1
        return held[0]


@pytest.mark.parametrize("prefetch", [1, 3])
def test_no_more_batches_than_asked_for_are_made_ahead(mixture: tuple[Index, ...], prefetch: int) -> None:
    lanes = tuple(range(LAYOUT.lanes))
    task = Task(mixture, LAYOUT, data_spec(prefetch=prefetch), TOKENIZERS, S3(), lanes, 0, STEPS)
    rank = Rank(task)
    memory = os.memfd_create("slots")
    try:
        os.ftruncate(memory, task.shared_bytes)
        serve(cast("Any", rank), memory)
    finally:
        os.close(memory)
    assert [filled.step for filled in rank.filled] == list(range(STEPS))
    assert rank.asked == 1 + STEPS - (prefetch + 1)


# --- how it ends --------------------------------------------------------------------------------------


def assert_gone(pid: int) -> None:
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("taken", [0, 1])
def test_leaving_early_ends_the_processes_and_gives_back_what_they_took(mixture: tuple[Index, ...], taken: int) -> None:
    before = open_files()
    with loader(mixture, processes=2, last_step=ENDLESS) as batches:
        running = pids(batches)
        assert len(set(running)) == 2
        assert open_files() - before
        for _, batch in zip(range(taken), batches, strict=False):
            assert batch.step == 0
    # `batches` is still there.
    assert open_files() <= before
    assert "tandem-loader" not in Path("/proc/self/maps").read_text()
    for pid in running:
        assert_gone(pid)


def test_leaving_by_an_error_ends_the_processes(mixture: tuple[Index, ...]) -> None:
    failed = -1
    with contextlib.suppress(KeyError), loader(mixture, last_step=ENDLESS) as batches:
        (failed,) = pids(batches)
        raise KeyError
    assert_gone(failed)


def test_a_process_that_does_not_start_ends_those_before_it(
    mixture: tuple[Index, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def start_one(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        if started:
            raise OSError(11, "Resource temporarily unavailable")
        started.append(start(*arguments, **options))
        return started[0]

    before = open_files()
    monkeypatch.setattr(subprocess, "Popen", start_one)
    with pytest.raises(OSError, match="Resource temporarily unavailable"):
        loader(mixture, processes=2)
    assert_gone(started[0].pid)
    assert open_files() <= before


def test_a_killed_process_is_reported_with_its_signal(mixture: tuple[Index, ...]) -> None:
    with loader(mixture, processes=2, last_step=ENDLESS) as batches:
        iterator = iter(batches)
        next(iterator)
        os.kill(pids(batches)[1], signal.SIGKILL)
        with pytest.raises(LoaderDiedError, match=r"a loader process died \(killed by signal 9\)"):
            for _ in iterator:
                pass


def test_a_process_that_fails_is_reported_with_its_exit_code(
    mixture: tuple[Index, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    broken = tuple(replace(index, samples=np.zeros_like(index.samples)) for index in mixture)
    with (
        loader(broken) as batches,
        pytest.raises(LoaderDiedError, match=r"a loader process died \(exit code 1\); see the worker's log"),
    ):
        next(iter(batches))
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_ctrl_c_leaves_them_to_the_rank(mixture: tuple[Index, ...], expected: list[RankBatch]) -> None:
    """A terminal sends it to all processes; the rank needs batches until it has saved a checkpoint."""
    with loader(mixture) as batches:
        iterator = iter(batches)
        first = next(iterator)
        os.kill(pids(batches)[0], signal.SIGINT)
        assert_equal([first, *iterator], expected)


@pytest.mark.parametrize(
    ("spoil", "error", "told"),
    [
        (lambda path: path.write_bytes(path.read_bytes() + bytes(512)), DataError, "changed or replaced since"),
        (Path.unlink, NotFoundError, "there is no such file"),
    ],
    ids=["changed", "gone"],
)
def test_a_shard_that_is_not_the_one_that_was_indexed_is_an_error_that_names_it(
    tmp_path: Path, spoil: Callable[[Path], object], error: type[Exception], told: str
) -> None:
    indexes = write_mixture(tmp_path)
    spoil(tmp_path / "scans" / "shard-2.tar")
    with loader(indexes, processes=2) as batches, pytest.raises(error, match=rf"scans/shard-2\.tar: .*{told}"):
        for _ in batches:
            pass


def test_other_errors_for_users_come_through_too(mixture: tuple[Index, ...]) -> None:
    elsewhere = tuple(replace(index, uris=Strings.of(["gs://bucket/x.tar"] * len(index))) for index in mixture)
    with loader(elsewhere) as batches, pytest.raises(UsageError, match=r"gs://bucket/x\.tar"):
        next(iter(batches))


def test_a_killed_rank_leaves_no_process(mixture: tuple[Index, ...]) -> None:
    program = """
import pickle, sys, time
from workers.data.loader import Loader
loader = Loader(*pickle.load(sys.stdin.buffer), rank=0, world_size=1, first_step=0, last_step=10**6)
next(iter(loader))
print("ready", flush=True)
time.sleep(600)
"""
    rank = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert rank.stdin is not None
    assert rank.stdout is not None
    with rank:
        pickle.dump((mixture, LAYOUT, data_spec(2), TOKENIZERS, S3()), rank.stdin)
        rank.stdin.flush()
        assert rank.stdout.readline() == b"ready\n"
        rank.kill()
        # The loader processes hold the other end of stdout too: it ends when the last of them is gone.
        assert rank.communicate(timeout=300)[0] == b""
