"""Commands that messages tell of reach the run's server."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from jobspecs.storage import S3
from orchestrator import driver
from orchestrator.driver import Driver
from orchestrator.run_argument import run_argument

SERVER = S3(endpoint="http://minio:9000")


@pytest.mark.parametrize(
    ("uri", "s3", "expected"),
    [
        ("s3://b/runs/x", SERVER, "s3://b/runs/x --endpoint http://minio:9000"),
        ("s3://b/runs/x", S3(), "s3://b/runs/x"),
        ("file:///runs/x", SERVER, "file:///runs/x"),
    ],
)
def test_the_server_is_told_where_there_is_one(uri: str, s3: S3, expected: str) -> None:
    assert run_argument(uri, s3) == expected


def test_a_driver_that_leaves_no_report_says_by_which_command_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "leave_report", lambda _: "its metrics have 99 MiB")
    told: list[str] = []
    of = SimpleNamespace(
        _ledger=SimpleNamespace(run=SimpleNamespace(uri="s3://b/runs/x")),
        _job=SimpleNamespace(spec=SimpleNamespace(storage=SimpleNamespace(s3=SERVER))),
        _journal=SimpleNamespace(line=told.append),
    )
    Driver._leave_report(of)  # type: ignore[arg-type]
    command = "`tandem report s3://b/runs/x --endpoint http://minio:9000`"
    assert told == [f"no report: its metrics have 99 MiB. {command} writes it"]
