"""Mining between attempts, without Ray: attempts and mining are played, the run directory is real."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from ray.exceptions import NodeDiedError, ObjectLostError, RayError, WorkerCrashedError

from jobspecs.errors import JobFailedError, UnreachableError
from orchestrator import job_mining
from orchestrator.failure import Kind
from orchestrator.lease import TakenOverError
from orchestrator.prepare import Prepared, prepare
from orchestrator.ray_tasks import TasksLostError
from tests.orchestrator import test_attempts
from tests.orchestrator.test_attempts import NO_DELAYS, RANGE, Play, Stage, StageOf, ends, fails
from tests.workers.mining_job import FOUND, spec_of, write_pairs, write_table
from workers.data.negatives import NegativesTable, read_table
from workers.mining.table import Found
from workers.mining.versions import Era
from workers.storage import Storage
from workers.train.checkpoint import CheckpointError, File, Manifest, verify
from workers.train.task import Outcome

stage_of = test_attempts.stage_of
"""The fixture."""
Mine = Callable[[Prepared, Era, "str | None", Callable[[], None]], tuple[NegativesTable, Found]]


@pytest.fixture
def job(tmp_path: Path) -> Prepared:
    write_pairs(tmp_path / "data")
    return prepare(spec_of(tmp_path / "data", f"storage.root={tmp_path}/runs", *NO_DELAYS))


@pytest.fixture
def mined(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str | None]]:
    """What is mined, in a moment: versions, and the checkpoints that mine them."""
    told: list[tuple[int, str | None]] = []

    def mine(
        job: Prepared, era: Era, checkpoint: str | None, check: Callable[[], None]
    ) -> tuple[NegativesTable, Found]:
        told.append((era.version, checkpoint and checkpoint[-8:]))
        check()
        return write_table(job.run, era.version), FOUND

    monkeypatch.setattr(job_mining, "mine_version", mine)
    return told


def test_each_version_is_mined_once_and_costs_no_retry(
    job: Prepared,
    stage_of: StageOf,
    mined: list[tuple[int, str | None]],
) -> None:
    """By what is named before the first step, then by the commit at the step where it begins; an attempt that failed
    behind that step goes on with the version that is there."""
    plays: list[Play] = [ends(3), fails(Kind.WORKER_LOST, committed=4), ends(6), ends(7)]
    stage = stage_of(job, plays)
    assert stage.train()
    assert mined == [(1, None), (2, "00000003"), (3, "00000006")]
    assert [resumed for *_, resumed in stage.played] == [None, "00000003", "00000004", "00000006"]
    assert len(stage.events("retry", "attempt_failed")) == 2, "those of the attempt that failed"
    kinds = [event["event"] for event in stage.events("mining_started", "negatives_mined", "attempt_started")]
    mining = ["mining_started", "negatives_mined", "attempt_started"]
    assert kinds == [*mining, *mining, "attempt_started", *mining]
    shown = stage.output.getvalue()
    assert "mining negatives v1 before training, by bm25\n" in shown
    assert "mining negatives v2 from step 3, by the checkpoint at step 3\n" in shown
    assert re.search(r"negatives v2: 134 for 45 of 45 samples, 1 of them fewer than wanted, in \d+ s\n", shown)
    (event,) = [event for event in stage.events("negatives_mined") if event["version"] == 2]
    assert (event["step"], event["negatives"], len(event["digest"])) == (3, 134, 64)


def test_a_job_that_is_interrupted_while_it_mines_goes_on_there(
    job: Prepared,
    stage_of: StageOf,
    mined: list[tuple[int, str | None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine = job_mining.mine_version

    def interrupted(job: Prepared, era: Era, *arguments: object) -> object:
        if era.version == 2:
            stage.interrupt.request()
        return mine(job, era, *arguments)

    monkeypatch.setattr(job_mining, "mine_version", interrupted)
    stage = stage_of(job, [ends(3)])
    assert not stage.train()
    assert mined[-1] == (2, "00000003")
    assert [event["version"] for event in stage.events("negatives_mined")] == [1]
    monkeypatch.setattr(job_mining, "mine_version", mine)
    again = stage_of(job, [ends(6), ends(7)])
    assert again.train()
    assert mined == [(1, None), (2, "00000003"), (2, "00000003"), (3, "00000006")]


def test_a_storage_that_is_away_while_it_mines_is_waited_for(
    job: Prepared,
    stage_of: StageOf,
    mined: list[tuple[int, str | None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine, away = job_mining.mine_version, [True]

    def flaky(*arguments: object) -> object:
        if away.pop() if away else False:
            raise UnreachableError("no answer")
        return mine(*arguments)

    monkeypatch.setattr(job_mining, "mine_version", flaky)
    stage = stage_of(job, [ends(3), ends(6), ends(7)])
    assert stage.train()
    (failed,) = stage.events("resume_failed")
    assert failed["message"] == "the next attempt can't be prepared (storage): UnreachableError: no answer"


def test_what_comes_behind_the_manifest_is_made_good_and_costs_no_retry(
    job: Prepared,
    stage_of: StageOf,
    mined: list[tuple[int, str | None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The driver before died there, or the storage does not delete just now."""
    table = write_table(job.run, 1)
    vectors = f"{table.uri}/_embeddings/0/query/a.parquet"
    job.storage.write(vectors, b"")
    delete, away = Storage.delete, [True, True]

    def flaky(storage: Storage, uri: str) -> None:
        if uri == vectors and away:
            away.pop()
            raise UnreachableError("no answer")
        delete(storage, uri)

    monkeypatch.setattr(Storage, "delete", flaky)
    plays: list[Play] = [fails(Kind.WORKER_LOST), fails(Kind.WORKER_LOST), ends(3), ends(6), ends(7)]
    stage = stage_of(job, plays)
    assert stage.train()
    assert not stage.events("resume_failed")
    told = [event for event in stage.events("negatives_mined") if event["version"] == 1]
    assert [(event["message"], event["digest"], event["seconds"]) for event in told] == [
        ("negatives v1: 134 for 45 of 45 samples, 1 of them fewer than wanted", table.digest, None)
    ]
    assert f"vectors and records of mining are left in {table.uri} (no answer)\n" in stage.output.getvalue()
    assert not job.storage.exists(vectors)
    assert read_table(job.storage, table.uri) == table
    assert [version for version, _ in mined] == [2, 3]


def test_nodes_that_die_while_it_mines_cost_retries_of_their_own(
    job: Prepared,
    tmp_path: Path,
    stage_of: StageOf,
    mined: list[tuple[int, str | None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And say nothing of how many workers an attempt may have."""
    mine = job_mining.mine_version
    job = prepare(spec_of(tmp_path / "data", f"storage.root={tmp_path}/runs", *NO_DELAYS, *RANGE))
    lost: list[RayError] = [NodeDiedError("gone"), WorkerCrashedError(), ObjectLostError("a" * 56, None, "")]

    def flaky(*arguments: object) -> object:
        if lost:
            raise TasksLostError("mining failed: it died. Again") from lost.pop()
        return mine(*arguments)

    monkeypatch.setattr(job_mining, "mine_version", flaky)
    stage = stage_of(job, [ends(3), ends(6), ends(7)])
    assert stage.train()
    failed = stage.events("resume_failed")
    assert [event["kind"] for event in failed] == ["worker_lost", "worker_lost", "node_lost"]
    message = "the next attempt can't be prepared (node_lost): mining failed: it died. Again"
    assert failed[-1]["message"] == message
    assert {workers for _, workers, _ in stage.played} == {8}, "as many as there are lanes"

    lost += [NodeDiedError("gone")] * (1 + job.spec.retry.node_lost.retries)
    job.storage.delete(f"{job.run.negatives(3)}/manifest.json")
    job.storage.delete(f"{job.run.checkpoint(7)}/manifest.json")
    with pytest.raises(JobFailedError, match=r"(?s)it died\. Again.*of kind node_lost .*retry\.node_lost\.retries"):
        stage_of(job, []).train()


@pytest.fixture
def loads_what_mines(mined: list[tuple[int, str | None]], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is mined, only by checkpoints whose content is what they were committed with."""
    mine = job_mining.mine_version

    def checked(job: Prepared, era: Era, checkpoint: str | None, check: Callable[[], None]) -> object:
        if checkpoint is not None:
            verify(job.storage, checkpoint, content=True)
        return mine(job, era, checkpoint, check)

    monkeypatch.setattr(job_mining, "mine_version", checked)


def commits_damaged(step: int) -> Play:
    """An attempt whose commit is of the right size, and of which a byte is wrong."""

    def play(stage: Stage) -> Outcome:
        file = File("model-a00001-r00000-000.safetensors", 4, hashlib.sha256(b"good").hexdigest())
        fixed, uri = stage.job.fixed, stage.job.run.checkpoint(step)
        manifest = Manifest(step, fixed.spec_hash, fixed.index_fingerprint, 0, 1, 1, {}, (file,))
        stage.job.storage.write(f"{uri}/{file.name}", b"food")
        stage.job.storage.write(f"{uri}/manifest.json", manifest.to_json())
        return Outcome(step)

    return play


@pytest.mark.parametrize("before", [2, None])
def test_a_damaged_checkpoint_does_not_mine_and_the_one_before_takes_its_place(
    job: Prepared,
    stage_of: StageOf,
    mined: list[tuple[int, str | None]],
    loads_what_mines: None,
    before: int | None,
) -> None:
    """It costs no retry, and the next go does not meet it."""
    plays = [commits_damaged(3), ends(3), ends(6), ends(7)]
    stage = stage_of(job, [fails(Kind.WORKER_LOST, committed=before), *plays] if before else plays)
    assert stage.train()
    earlier = before and f"{before:08d}"
    assert [resumed for *_, resumed in stage.played][-4:] == [earlier, earlier, "00000003", "00000006"]
    assert mined == [(1, None), (2, "00000003"), (3, "00000006")]
    (event,) = stage.events("checkpoint_rejected")
    assert "step-00000003 is not used: " in event["message"]
    assert not stage.events("resume_failed")


def test_a_checkpoint_that_only_a_task_finds_damaged_stays_what_it_is(
    job: Prepared,
    stage_of: StageOf,
    mined: list[tuple[int, str | None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine, blind = job_mining.mine_version, [True]

    def misread(job: Prepared, era: Era, checkpoint: str | None, check: Callable[[], None]) -> object:
        if checkpoint is not None and blind:
            blind.pop()
            raise CheckpointError("model.safetensors is missing")
        return mine(job, era, checkpoint, check)

    monkeypatch.setattr(job_mining, "mine_version", misread)
    stage = stage_of(job, [ends(3), ends(6), ends(7)])
    assert stage.train()
    assert not stage.events("checkpoint_rejected")
    (failed,) = stage.events("resume_failed")
    assert failed["message"] == (
        "the next attempt can't be prepared (storage): StorageError: model.safetensors is missing; the driver finds it "
        "whole. All nodes must see the same storage.root"
    )


def test_a_damaged_checkpoint_of_another_run_ends_the_job(
    job: Prepared, stage_of: StageOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that `mining.model` names: none takes its place."""

    def damaged(*arguments: object) -> object:
        raise CheckpointError("model.safetensors is damaged")

    monkeypatch.setattr(job_mining, "mine_version", damaged)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        stage_of(job, []).train()


def test_a_driver_that_lost_the_run_mines_no_further(
    job: Prepared,
    stage_of: StageOf,
    mined: list[tuple[int, str | None]],
) -> None:
    stage = stage_of(job, [])
    stage.lease.take(stage.journal.line)
    job.storage.write(job.run.driver(stage.lease.number + 1), b"{}")
    with pytest.raises(TakenOverError):
        stage.lease.check()
    with pytest.raises(TakenOverError):
        stage.train()
    assert not stage.played


def test_negatives_that_are_gone_are_not_mined_by_another_checkpoint(
    job: Prepared,
    stage_of: StageOf,
    mined: list[tuple[int, str | None]],
) -> None:
    stage = stage_of(job, [])
    stage.commit(4)
    with pytest.raises(JobFailedError, match=r"mines: step 4 was trained with negatives v2, and .*v00002 is gone\. Br"):
        stage.train()
    assert not mined
