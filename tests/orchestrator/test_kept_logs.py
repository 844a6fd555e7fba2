"""Ranks' logs outlive the ranks: what is kept, how much of it, and how it is read."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobspecs.errors import UnreachableError, UsageError
from jobspecs.storage import S3
from orchestrator import following
from orchestrator.cluster import connect
from orchestrator.following import LogLine, lines_of
from orchestrator.jobs import find
from orchestrator.keep_log import (
    FIRST_PARTS,
    NEWEST_PARTS,
    PART_BYTES,
    PENDING_BYTES,
    LogParts,
    _Task,
    follow,
    output_files,
)
from orchestrator.kept_logs import KeptLogs, Line
from tests.orchestrator.fake_dashboard import FakeDashboard
from tests.orchestrator.test_jobs import about, say
from workers.run import RunDirectory
from workers.storage import ObjectInfo, Storage

STORAGE = Storage()


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(f"file://{tmp_path}/job")


def parts_of(run: RunDirectory, attempt: int = 1, rank: int = 0, storage: Storage = STORAGE) -> LogParts:
    return LogParts(storage, lambda number: run.log_part(attempt, rank, number))


def keep(run: RunDirectory, text: str, attempt: int = 1, rank: int = 0) -> None:
    parts = parts_of(run, attempt, rank)
    parts.append(text.encode())
    parts.flush()


RANK = """
import os, sys
from jobspecs.storage import S3
from orchestrator.keep_log import KeepLog
from workers.run import RunDirectory
print("before", flush=True)
with KeepLog(S3(), RunDirectory(sys.argv[1]), attempt=2, rank=3):
    print("to stdout", os.environ["HF_TOKEN"], flush=True)
    print("last words", file=sys.stderr, flush=True)
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("end", ["killed", "ended"])
def test_the_last_words_of_a_rank_are_kept(end: str, run: RunDirectory, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        command, env = [sys.executable, "-c", RANK, run.uri, end], os.environ | {"HF_TOKEN": "planted-token"}
        rank = subprocess.run(command, stdout=out, stderr=err, env=env, check=False)
    assert rank.returncode == (-9 if end == "killed" else 0)
    logs, found, deadline = KeptLogs(STORAGE, run), list[Line](), time.monotonic() + 60
    while len(found) < 3:
        assert time.monotonic() < deadline
        found += logs.new()
        time.sleep(0.05)
    assert found[0].text.startswith("rank 3 of attempt 2: process ")
    assert sorted(line.text for line in found[1:]) == ["last words", "to stdout ***"]
    assert {(line.attempt, line.rank) for line in found} == {(2, 3)}


def test_a_private_key_is_held_back_until_its_end(tmp_path: Path, run: RunDirectory) -> None:
    """It comes in pieces, and looks like one only at its beginning."""
    output = tmp_path / "out"
    more = iter([b"one\n-----BEGIN PRIVATE KEY-----\nMIIE\n", b"pa55\n", b"-----END PRIVATE KEY-----\ntwo\n"])
    shown: list[list[str]] = []

    def ended() -> bool:
        shown.append([line.text for line in KeptLogs(STORAGE, run).new()])
        with output.open("ab") as file:
            file.write(next(more, b""))
        return len(shown) == 4

    follow(_Task(S3().model_dump_json(), run.uri, 1, 0, {str(output): 0}, "who"), ended)
    assert shown == [[], ["who", "one"], ["who", "one"], ["who", "one", "***", "two"]]


def test_output_to_a_pipe_is_not_kept() -> None:
    command = "from orchestrator.keep_log import output_files; print(output_files())"
    answer = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert answer.stdout == "{}\n"
    assert isinstance(output_files(), dict)


def test_a_rank_whose_output_lost_its_name_goes_on(run: RunDirectory, tmp_path: Path) -> None:
    program = f"import os\nos.unlink({str(tmp_path / 'out')!r})\n{RANK}"
    with (tmp_path / "out").open("wb") as out:
        command, env = [sys.executable, "-c", program, run.uri, "ended"], os.environ | {"HF_TOKEN": ""}
        rank = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, env=env, check=False)
    assert (rank.returncode, rank.stderr) == (0, b"last words\n")


def test_of_a_burst_the_end_is_kept_and_the_rest_counted(tmp_path: Path, run: RunDirectory) -> None:
    output = tmp_path / "out"
    line = "y" * 63
    burst = (PENDING_BYTES // 64) * f"{line}\n".encode()
    more = iter([b"one\nhalf a line", burst + b"the end\n", b""])

    def ended() -> bool:
        with output.open("ab") as file:
            file.write(next(more))
        return output.stat().st_size > PENDING_BYTES

    follow(_Task(S3().model_dump_json(), run.uri, 1, 0, {str(output): 0}, "who"), ended)
    who, one, left, *tail, end = [kept.text for kept in KeptLogs(STORAGE, run).new() if kept.text]
    assert (who, one, end) == ("who", "one", "the end")
    assert set(tail) == {line}, "no half of a line, which could be half of a secret"
    assert left == f"[… {len('half a line') + len(burst) - 64 * len(tail):,} bytes left out …]"


def test_of_a_long_log_the_beginning_and_the_newest_are_kept(run: RunDirectory) -> None:
    parts, line = parts_of(run), "x" * 1023
    for number in range(40 * PART_BYTES // 1024):
        parts.append(f"{number:06d}{line[6:]}\n".encode())
        if number % 100 == 0:
            parts.flush()
    parts.append(b"the end\n")
    parts.flush()
    kept = STORAGE.list(run.logs)
    assert len(kept) == FIRST_PARTS + NEWEST_PARTS
    assert sum(info.size for info in kept) <= 4 << 20
    lines = [line.text for line in KeptLogs(STORAGE, run).new()]
    assert lines[0].startswith("000000")
    assert lines[-1] == "the end"
    assert [line for line in lines if "left out" in line] == [f"[… {25 * PART_BYTES:,} bytes left out …]"]


def test_a_storage_that_is_away_costs_no_line(run: RunDirectory) -> None:
    class Away(Storage):
        away = True

        def write(self, uri: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:  # type: ignore[override]
            if self.away:
                raise UnreachableError("no answer")
            return super().write(uri, data, if_absent=if_absent)

    storage = Away()
    parts = parts_of(run, storage=storage)
    for text in (b"one\n", b"two\n"):
        parts.append(text)
        with pytest.raises(UnreachableError):
            parts.flush()
    storage.away = False
    parts.flush()
    assert [line.text for line in KeptLogs(STORAGE, run).new()] == ["one", "two"]


def test_a_log_that_is_not_written_takes_little_memory(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> ObjectInfo:
        raise UnreachableError("no answer")

    parts = parts_of(run)
    with monkeypatch.context() as outage:
        outage.setattr(Storage, "write", away)
        for number in range(5):
            parts.append(b"%d" % number + (PENDING_BYTES // 2) * b"y" + b"\n")
            with pytest.raises(UnreachableError):
                parts.flush()
    parts.flush()
    _, left, *lines = [line.text for line in KeptLogs(STORAGE, run).new()]
    assert lines[-1].endswith("yyy")
    written = sum(len(line) + 1 for line in lines)
    assert written == PENDING_BYTES
    total = 5 * (PENDING_BYTES // 2 + 2)
    assert left == f"[… {total - written:,} bytes left out …]", "all of them, whenever they were"


def test_a_log_is_read_as_it_grows(run: RunDirectory) -> None:
    parts, logs = parts_of(run), KeptLogs(STORAGE, run)
    assert list(logs.new()) == []
    parts.append("one\ntwo, an é".encode()[:-1])  # in the middle of a letter
    parts.flush()
    assert [line.text for line in logs.new()] == ["one"]
    parts.append("é".encode()[1:] + b"\n" + PART_BYTES * b"z" + b"\nlast")
    parts.flush()
    assert [line.text[:10] for line in logs.new()] == ["two, an é", 10 * "z"]
    assert list(logs.new()) == []
    assert [line.text for line in logs.rest()] == ["last"]


# --- `tandem logs` ---


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(following, "POLL_SECONDS", 0.01)
    return


def printed(run: RunDirectory, *, rank: int | None = None, attempt: int | None = None, follow: bool = False) -> str:
    job = find(run.uri, "runs", None, lambda: None)
    return "\n".join(line.text for line in lines_of(job, rank=rank, attempt=attempt, follow=follow))


def test_ranks_and_attempts_are_chosen(run: RunDirectory) -> None:
    for attempt in (1, 2):
        for rank in (0, 1):
            keep(run, f"hello from {attempt}/{rank}\n", attempt, rank)
    assert printed(run, rank=1) == "[a2 r1] hello from 2/1"
    assert printed(run, rank=1, attempt=1) == "[a1 r1] hello from 1/1"
    assert printed(run, attempt=1) == "[a1 r0] hello from 1/0\n[a1 r1] hello from 1/1"
    with pytest.raises(UsageError, match=r"keeps no such log. Attempts that it has logs of: 1, 2; ranks: 0, 1"):
        printed(run, rank=7)
    with pytest.raises(UsageError, match=r"Attempts that it has logs of: none"):
        printed(RunDirectory(f"{run.uri}-other"), rank=0)


def test_a_rank_is_followed_through_attempts_to_the_end_of_the_run(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(run, "one\n", attempt=1)
    keep(run, "elsewhere\n", attempt=1, rank=1)
    left = iter([lambda: keep(run, "two\nthe end", attempt=2), lambda: say(run, "run_succeeded")])
    monkeypatch.setattr("orchestrator.following.time.sleep", lambda seconds: next(left, lambda: None)())
    monkeypatch.setattr("orchestrator.ledger.live_driver", lambda storage, run: object())
    assert printed(run, rank=0, follow=True) == "[a1 r0] one\n[a2 r0] two\n[a2 r0] the end"


def test_the_story_of_a_run_is_its_events(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"holds no run"):
        printed(run)
    monkeypatch.setattr("orchestrator.ledger.Ledger.status", lambda ledger: None)
    monkeypatch.setattr("orchestrator.ledger.live_driver", lambda storage, run: object())
    say(run, "run_started")
    left = iter([lambda: say(run, "checkpoint_committed"), lambda: say(run, "run_failed")])
    monkeypatch.setattr("orchestrator.following.time.sleep", lambda seconds: next(left)())
    lines = [line[10:] for line in printed(run, follow=True).splitlines()]
    assert lines == ["run_started", "checkpoint_committed", "run_failed"]


def test_the_log_of_a_cluster_s_driver_is_followed(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeDashboard() as dashboard:
        dashboard.add("job-1", "RUNNING", about(run.uri))
        dashboard.logs["job-1"] = "one\ntw"

        def go_on(seconds: float) -> None:
            dashboard.logs["job-1"] = "one\ntwo\nthe end"
            dashboard.jobs["job-1"]["status"] = "SUCCEEDED"

        monkeypatch.setattr("orchestrator.following.time.sleep", go_on)
        job = find("job", "runs", None, lambda: connect(dashboard.url))
        lines = lines_of(job, rank=None, attempt=None, follow=True)
        assert list(lines) == [LogLine("one"), LogLine("two"), LogLine("the end")]
