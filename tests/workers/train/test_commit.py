"""Rank 0 commits only what is there and its own, and says what else shall happen. No ranks: their tries are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from jobspecs.errors import StorageError
from jobspecs.storage import S3
from workers.run import RunDirectory, committed_steps
from workers.storage import ObjectInfo, Storage, join
from workers.train.checkpoint import File, Manifest, read_manifest
from workers.train.commit import Committer, Tried, Verdict
from workers.train.fence import FencedError, claim_attempt

ATTEMPT, MAX_AGE_SECONDS = 2, 60.0
MANIFEST = Manifest(4, "spec", "index", 0, ATTEMPT, 2, {})
FULL = StorageError("cannot write there: No space left on device. Free some space")


class Disturbed(Storage):
    """Does `before` and `after` each write of a manifest."""

    before: Callable[[], object] = staticmethod(lambda: None)
    after: Callable[[], object] = staticmethod(lambda: None)

    def write(self, uri: str, data: Any, *, if_absent: bool = False) -> ObjectInfo:
        watched = uri.endswith("/manifest.json")
        if watched:
            self.before()
        info = super().write(uri, data, if_absent=if_absent)
        if watched:
            self.after()
        return info


class Save:
    """A save of step 4 by attempt 2 on two ranks, whose files are written."""

    def __init__(self, uri: str, s3: S3 | None = None) -> None:
        self.storage, self.plain = Disturbed(s3 or S3()), Storage(s3 or S3())
        self.run = RunDirectory(uri)
        self.uri = self.run.checkpoint(MANIFEST.step)
        self.tries = []
        for rank in range(2):
            file = File(f"model-a00002-r{rank:05d}-000.safetensors", 3, "sha")
            self.plain.write(join(self.uri, file.name), b"abc")
            self.tries.append(Tried((file,)))

    @property
    def whole(self) -> Manifest:
        return replace(MANIFEST, files=tuple(file for tried in self.tries for file in tried.files))

    def judge(self, age_seconds: float = 0.0, *, rank_1: Tried | None = None) -> Verdict:
        tries = [self.tries[0], rank_1 or self.tries[1]]
        return Committer(self.storage, self.run, ATTEMPT, MAX_AGE_SECONDS).judge(MANIFEST, tries, age_seconds)

    def overtake(self) -> None:
        claim_attempt(self.plain, self.run, ATTEMPT + 1, "theirs")

    def leave(self, manifest: Manifest) -> None:
        """What an earlier attempt left in the place of the manifest."""
        self.plain.write(join(self.uri, "manifest.json"), manifest.to_json())

    @property
    def committed(self) -> bool:
        return committed_steps(self.plain, self.run) == [MANIFEST.step]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    return Save(f"file://{tmp_path}/run")


def refuse_once() -> None:
    raise StorageError("no answer")


def test_what_is_there_is_committed_with_the_files_of_all_ranks(save: Save) -> None:
    claim_attempt(save.plain, save.run, ATTEMPT, "ours")
    assert save.judge() == Verdict(committed=True)
    assert read_manifest(save.plain, save.uri) == save.whole


def test_what_is_refused_is_tried_again_until_it_is_too_old(save: Save) -> None:
    refused = Tried(refused=FULL)
    assert save.judge(59.9, rank_1=refused) == Verdict()
    failure = save.judge(60.0, rank_1=refused).failure
    assert isinstance(failure, StorageError)
    assert str(failure) == (
        "no checkpoint could be committed for 1.0 minutes, since step 4, and training does not go on without beyond "
        f"checkpoint.max_age_minutes: {FULL}"
    )
    assert not save.committed


def test_a_manifest_that_is_refused_is_tried_again(save: Save) -> None:
    save.storage.before = refuse_once
    assert save.judge() == Verdict()
    assert not save.committed


def test_nothing_is_tried_again_once_the_attempt_has_failed_on_a_rank(save: Save) -> None:
    failure = save.judge(rank_1=Tried(refused=FULL, closing=True)).failure
    assert isinstance(failure, StorageError)
    assert str(failure) == (
        f"the checkpoint of step 4 is not committed, and is not tried again since the attempt ends: {FULL}"
    )
    assert save.judge(rank_1=replace(save.tries[1], closing=True)) == Verdict(committed=True)


def test_a_fault_of_a_rank_is_final_and_named(save: Save) -> None:
    failure = save.judge(rank_1=Tried(fault="ZeroDivisionError: division")).failure
    assert isinstance(failure, RuntimeError)
    assert str(failure) == "the save of step 4 on rank 1: ZeroDivisionError: division"
    assert not save.committed


def test_a_fault_of_rank_0_is_told_and_not_raised(save: Save) -> None:
    save.storage.before = lambda: {}["key"]
    failure = save.judge().failure
    assert isinstance(failure, RuntimeError)
    assert str(failure) == "the save of step 4: KeyError: 'key'"


@pytest.mark.parametrize("left", [None, b"ab"])
def test_files_that_do_not_stay_as_they_were_written_are_written_again_and_named(
    save: Save, left: bytes | None
) -> None:
    name = "model-a00002-r00001-000.safetensors"
    save.plain.delete(join(save.uri, name))
    if left is not None:
        save.plain.write(join(save.uri, name), left)
    assert save.judge() == Verdict(lost=frozenset({name}))
    assert str(save.judge(60.0).failure).endswith(
        f"max_age_minutes: {name} was written to {save.uri} and is not there as it was written. All nodes must see the "
        "same storage.root"
    )
    assert not save.committed


# --- a manifest that is there already ---------------------------------------------------------------------


def test_a_commit_whose_answer_got_lost_is_known_again(save: Save) -> None:
    save.storage.after = refuse_once
    assert save.judge() == Verdict()
    assert save.committed
    save.storage.after = lambda: None
    assert save.judge() == Verdict(committed=True)


def test_the_commit_of_an_earlier_attempt_stays(save: Save) -> None:
    earlier = replace(save.whole, attempt=1)
    save.leave(earlier)
    assert save.judge() == Verdict(committed=True)
    assert read_manifest(save.plain, save.uri) == earlier


@pytest.mark.parametrize(
    "fault", [{"files": (File("model-a00001-r00000-000", 1, ""),)}, {"spec_hash": "another"}, {"step": 5}]
)
def test_one_that_is_no_good_is_withdrawn(save: Save, fault: dict[str, Any]) -> None:
    bad = replace(save.whole, attempt=1, **fault)
    save.leave(bad)
    assert save.judge() == Verdict(committed=True)
    assert read_manifest(save.plain, save.uri) == save.whole
    assert save.plain.read(join(save.uri, "manifest.rejected.json")) == bad.to_json()


# --- an attempt that was replaced -------------------------------------------------------------------------


def save_on_s3(endpoint: str) -> Save:
    s3, bucket = S3(endpoint=endpoint), f"bucket-{uuid4().hex}"
    Storage(s3)._s3.client.create_bucket(Bucket=bucket)
    return Save(f"s3://{bucket}/run", s3)


BEFORE, MEANWHILE, OVER_A_BAD_ONE = "before", "meanwhile", "meanwhile, over a bad one"


@pytest.mark.parametrize(
    ("kind", "when"), [("file", BEFORE), ("file", MEANWHILE), ("file", OVER_A_BAD_ONE), ("s3", OVER_A_BAD_ONE)]
)
def test_an_attempt_that_was_replaced_is_told_so(save: Save, s3_server: str, kind: str, when: str) -> None:
    """What is there by then, good or bad, is left to the later one."""
    if kind == "s3":
        save = save_on_s3(s3_server)
    if when is BEFORE:
        save.overtake()
    else:
        save.storage.before = save.overtake
    if when is OVER_A_BAD_ONE:
        save.leave(replace(save.whole, step=5))
    failure = save.judge().failure
    assert isinstance(failure, FencedError)
    assert "was replaced by attempt 3 and must not commit" in str(failure)
    assert save.committed is (when is not BEFORE)
    assert not save.plain.exists(join(save.uri, "manifest.rejected.json"))
