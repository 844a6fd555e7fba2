"""The command `tandem` as a user's shell runs it, and what it left in a run directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from jobspecs.storage import S3
from orchestrator.ledger import Ledger
from workers.run import RunDirectory
from workers.storage import Storage, absolute

TANDEM = Path(sys.executable).with_name("tandem")


def tandem(
    *arguments: str, env: dict[str, str] | None = None, timeout: float = 900
) -> subprocess.CompletedProcess[str]:
    """Runs `tandem ARGUMENTS` to its end."""
    return subprocess.run(
        [str(TANDEM), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **(env or {})},
        check=False,
    )


def start_tandem(*arguments: str) -> subprocess.Popen[str]:
    """Starts `tandem ARGUMENTS`."""
    return subprocess.Popen(
        [str(TANDEM), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def set_flags(overrides: tuple[str, ...]) -> list[str]:
    """`--set` flags of overrides."""
    return [part for override in overrides for part in ("--set", override)]


def kill_tree(pid: int) -> None:
    """SIGKILL for a process and all that descends from it, the root first so that it can't react."""
    root = psutil.Process(pid)
    for process in [root, *root.children(recursive=True)]:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def ledger_of(root: Path | str, name: str, s3: S3 | None = None) -> Ledger:
    """The record of a run."""
    return Ledger(Storage(s3 or S3()), RunDirectory(absolute(f"{root}/{name}")))


def metrics_of(root: Path | str, name: str, s3: S3 | None = None) -> list[dict[str, Any]]:
    """The metrics of a run, a record a step."""
    return list(ledger_of(root, name, s3).metrics())


def assert_same_experiment(one: list[dict[str, Any]], other: list[dict[str, Any]], tolerance: float) -> None:
    """The same steps, the same global batches, the same losses."""
    assert [record["step"] for record in one] == [record["step"] for record in other]
    assert [record["batch_digest"] for record in one] == [record["batch_digest"] for record in other]
    for a, b in zip(one, other, strict=True):
        assert abs(a["loss"] - b["loss"]) <= tolerance, json.dumps([a, b])
