"""A save is beside training, and is tried again by all ranks until it is committed, or too old."""

from __future__ import annotations

import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
import torch.distributed as dist

import workers.train.saver
from jobspecs.errors import StorageError
from jobspecs.storage import S3
from tests.ranks import run_ranks
from tests.workers.train.saving import manifest_of, saver_of, tensors
from tests.workers.train.test_record import line
from tests.workers.train.tiny import engine, on_engine, whole_state
from workers.run import RunDirectory, committed_steps, read_parts
from workers.storage import ObjectInfo, Storage
from workers.train.engine import Engine
from workers.train.fence import claim_attempt
from workers.train.pulse import pulse
from workers.train.record import Recorder
from workers.train.saver import Saver

STEP, ATTEMPT = 4, 2


class Faulty(Storage):
    """Does `before` each write and `after` it."""

    before: Callable[[str], None] = staticmethod(lambda uri: None)
    after: Callable[[str], None] = staticmethod(lambda uri: None)

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []
        self.trained_on = threading.Event()

    def write(self, uri: str, data: Any, *, if_absent: bool = False) -> ObjectInfo:
        self.before(uri)
        info = super().write(uri, data, if_absent=if_absent)
        self.written.append(uri.rpartition("/")[2])
        self.after(uri)
        return info


def refusing(times: int, part: str, error: Exception) -> Callable[[str], None]:
    """Raises `error` the first `times` that something with `part` in its name is written."""
    left = [times]

    def before(uri: str) -> None:
        if part in uri and left[0] > 0:
            left[0] -= 1
            raise error

    return before


FULL = StorageError("cannot write there: No space left on device. Free some space")


@dataclass
class Seen:
    """What a rank saw of a case."""

    error: tuple[str, str] | None = None
    """Type and text of what `wait` raised."""
    busy: bool = False
    """Whether the save was in flight when training had gone on for two steps."""
    committed: list[int] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    """Names of what this rank wrote, in order."""
    equal: bool | None = None
    """Whether the committed state is that at the time of the save."""


def _one(saver: Saver, one: Engine, storage: Storage, run: RunDirectory) -> Seen:
    """Saves, trains on, waits."""
    seen, state = Seen(), whole_state(one)
    with saver:
        saver.save(manifest_of(one, STEP, ATTEMPT))
        on_engine(one, range(STEP, STEP + 2))
        dist.barrier()  # no rank's save is let go on before each has looked
        seen.busy = saver.busy
        dist.barrier()
        if isinstance(storage, Faulty):
            storage.trained_on.set()
        try:
            saver.wait()
        except Exception as error:
            seen.error = (type(error).__name__, str(error))
            assert saver.failed
        assert not saver.busy
    dist.barrier()
    seen.committed = committed_steps(storage, run)
    if seen.committed and seen.error is None and run.uri.startswith("file"):
        path = Path(run.checkpoint(STEP).removeprefix("file://"))
        saved = tensors(path, "model") | tensors(path, "optimizer")
        seen.equal = all(torch.equal(value, state[name]) for name, value in saved.items())
    seen.written = getattr(storage, "written", [])
    dist.barrier()
    return seen


CASES = ("plain", "full", "forever", "lost", "fenced", "bug", "closed", "metrics", "stuck")


def _all(root: str, endpoint: str, bucket: str) -> dict[str, Seen]:
    workers.train.saver.FIRST_PAUSE_SECONDS = 0.01
    rank, one, found = dist.get_rank(), engine(1), {}
    for case in CASES:
        storage, run, age = Faulty(), RunDirectory(f"{root}/{case}"), 60.0
        if case == "full" and rank == 1:
            refuse = refusing(3, "optimizer", FULL)

            def slow(uri: str, storage: Faulty = storage, refuse: Callable[[str], None] = refuse) -> None:
                storage.trained_on.wait()
                refuse(uri)

            storage.before = slow
        if case == "forever":
            age = 0.2
            storage.before = refusing(10**9, f"r{1:05d}", FULL)
        if case == "lost" and rank == 1:
            left = [1]

            def lose(uri: str, storage: Faulty = storage, left: list[int] = left) -> None:
                if "model" in uri and left.pop():
                    left.append(0)
                    storage.delete(uri)

            storage.after = lose
        if case == "fenced":
            claim_attempt(Storage(), run, ATTEMPT, "ours") if rank == 0 else None
            claim_attempt(Storage(), run, ATTEMPT + 1, "theirs") if rank == 1 else None
            dist.barrier()
        if case == "bug" and rank == 1:
            storage.before = refusing(1, "model", ZeroDivisionError("division"))
        if case == "closed":
            found[case] = _closed(storage, run, one)
            continue
        if case == "stuck":
            found[case] = _stuck(storage, run, one)
            continue
        if case == "metrics":
            found[case] = _with_metrics(storage, run, one)
            continue
        found[case] = _one(saver_of(storage, run, one, ATTEMPT, age), one, storage, run)
    s3, run = Storage(S3(endpoint=endpoint)), RunDirectory(f"s3://{bucket}/plain")
    return found | {"s3 plain": _one(saver_of(s3, run, one, ATTEMPT), one, s3, run)}


def _closed(storage: Faulty, run: RunDirectory, one: Engine) -> Seen:
    """An attempt that fails on rank 1 alone while its save is refused."""
    storage.before = refusing(10**9, "model", FULL)
    seen = Seen()
    with saver_of(storage, run, one, ATTEMPT, 3600.0) as saver:
        saver.save(manifest_of(one, STEP, ATTEMPT))
        if dist.get_rank() == 0:
            with pytest.raises(StorageError) as failed:
                saver.wait()
            seen.error = ("StorageError", str(failed.value))
    seen.busy, seen.committed = saver.busy, committed_steps(storage, run)
    return seen


def _stuck(storage: Faulty, run: RunDirectory, one: Engine) -> Seen:
    """Rank 1's storage gives no answer, not even that it has none."""
    answers = threading.Event()
    if dist.get_rank() == 1:
        storage.before = lambda uri: answers.wait() and None
    seen, grace = Seen(), workers.train.saver.GRACE_SECONDS
    with saver_of(storage, run, one, ATTEMPT, 0.2) as saver:
        saver.save(manifest_of(one, STEP, ATTEMPT))
        awaited = workers.train.saver.OTHERS if dist.get_rank() == 0 else "model-a"
        while awaited not in saver._waits_for:
            time.sleep(0.01)
        assert not saver.failed
        dist.barrier()
        workers.train.saver.GRACE_SECONDS = 0.0
        while not saver.failed:
            time.sleep(0.01)
        with pytest.raises(StorageError) as failed:
            saver.wait()
        seen.error, seen.busy = ("StorageError", str(failed.value)), saver.busy
    dist.barrier()
    answers.set()
    saver._thread.join()
    workers.train.saver.GRACE_SECONDS = grace
    return seen


def _with_metrics(storage: Faulty, run: RunDirectory, one: Engine) -> Seen:
    """Metrics that nobody has flushed are there before the manifest."""
    recorder = Recorder(storage, run, ATTEMPT, dist.get_rank())
    recorder.step(line(STEP), [])

    def look(uri: str) -> None:
        if uri.endswith("manifest.json"):
            assert [record["step"] for record in read_parts(Storage(), run.metrics)] == [STEP]

    storage.before = look
    return _one(Saver(storage, run, ATTEMPT, one, recorder, 60.0), one, storage, run)


@pytest.fixture(scope="module")
def seen(s3_server: str) -> Iterator[dict[str, list[Seen]]]:
    """By case, of both ranks."""
    bucket = f"bucket-{uuid4().hex}"
    Storage(S3(endpoint=s3_server))._s3.client.create_bucket(Bucket=bucket)
    with tempfile.TemporaryDirectory() as root:
        results = run_ranks(_all, 2, f"file://{root}", s3_server, bucket)
        yield {case: [result[case] for result in results] for case in results[0]}


@pytest.mark.parametrize("case", ["plain", "full", "lost", "metrics", "s3 plain"])
def test_is_committed_late_or_at_once_as_it_was(seen: dict[str, list[Seen]], case: str) -> None:
    for of_rank in seen[case]:
        assert of_rank.error is None
        assert of_rank.committed == [STEP]
        assert of_rank.equal is (None if case.startswith("s3") else True)


def test_training_goes_on_beside_a_save(seen: dict[str, list[Seen]]) -> None:
    assert [of_rank.busy for of_rank in seen["full"]] == [True, True]


def test_what_is_written_is_written_once(seen: dict[str, list[Seen]]) -> None:
    for rank, of_rank in enumerate(seen["full"]):
        files = [f"{kind}-a00002-r{rank:05d}-000.safetensors" for kind in ("model", "optimizer")]
        assert of_rank.written == [*files, *(["manifest.json"] if rank == 0 else [])]


def test_what_is_gone_is_written_again(seen: dict[str, list[Seen]]) -> None:
    assert seen["lost"][1].written == [
        f"{kind}-a00002-r00001-000.safetensors" for kind in ("model", "optimizer", "model")
    ]


def test_what_is_refused_too_long_fails_on_all_ranks_with_the_cause(seen: dict[str, list[Seen]]) -> None:
    for of_rank in seen["forever"]:
        assert of_rank.error is not None
        assert of_rank.error[0] == "StorageError"
        assert re.fullmatch(
            r"no checkpoint could be committed for \d\.\d minutes, since step 4, and training does not go on without "
            rf"beyond checkpoint\.max_age_minutes: {FULL}",
            of_rank.error[1],
        )
        assert of_rank.error == seen["forever"][0].error
        assert of_rank.committed == []


def test_an_attempt_that_was_replaced_cannot_commit_on_any_rank(seen: dict[str, list[Seen]]) -> None:
    for of_rank in seen["fenced"]:
        assert of_rank.error is not None
        assert of_rank.error[0] == "FencedError"
        assert "was replaced by attempt 3 and must not commit" in of_rank.error[1]
        assert of_rank.committed == []


def test_a_fault_of_our_own_is_not_tried_again(seen: dict[str, list[Seen]]) -> None:
    other, faulty = seen["bug"]
    assert faulty.error == ("ZeroDivisionError", "division")
    assert other.error == ("RuntimeError", "the save of step 4 on rank 1: ZeroDivisionError: division")


def test_an_attempt_that_has_failed_does_not_wait_for_a_store_that_is_away(seen: dict[str, list[Seen]]) -> None:
    for of_rank in seen["closed"]:
        assert (of_rank.busy, of_rank.committed) == (False, [])
    assert seen["closed"][0].error == (
        "StorageError",
        f"the checkpoint of step 4 is not committed, and is not tried again since the attempt ends: {FULL}",
    )


def test_a_rank_whose_write_never_ends_ends_the_attempt_on_all_ranks(seen: dict[str, list[Seen]]) -> None:
    waits_for = [r"the other ranks' files", r"model-a\S+ to be written to \S+"]
    for rank, of_rank in enumerate(seen["stuck"]):
        assert of_rank.error is not None
        assert of_rank.busy
        assert re.fullmatch(
            r"no checkpoint could be committed for \d\.\d minutes, since step 4, and training does not go on without "
            rf"beyond checkpoint\.max_age_minutes: rank {rank} still waits for {waits_for[rank]}\. Look after the "
            r"storage \(storage\.root\): does it answer on all nodes\?",
            of_rank.error[1],
        )


def _moves(root: str) -> dict[str, int]:
    """Signs of progress in each phase while a save is refused twice, and then written."""
    workers.train.saver.FIRST_PAUSE_SECONDS = 0.01
    one, moves = engine(1), {}
    for phase in ("save", "backward", "end"):
        storage, run = Faulty(), RunDirectory(f"{root}/{phase}")
        storage.before = refusing(2, "model", FULL)
        with saver_of(storage, run, one, ATTEMPT) as saver:
            pulse.phase(phase)
            before = pulse.read().moves
            saver.save(manifest_of(one, STEP, ATTEMPT))
            saver.wait()
            moves[phase] = pulse.read().moves - before
    return moves


def test_a_save_that_goes_on_hides_no_rank_that_is_stuck_elsewhere(tmp_path: Path) -> None:
    (moves,) = run_ranks(_moves, 1, f"file://{tmp_path}")
    assert moves == {"save": 5, "backward": 0, "end": 5}, "three tries, two files"
