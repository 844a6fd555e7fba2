"""The cluster of `deploy/local/cluster.py`, for the time of a test or a benchmark: three Ray nodes with a token, an S3
server and, where it is installed, Prometheus, all on loopback."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3

from orchestrator.environment import variables
from tests.ports import free_ports

ROOT = Path(__file__).parents[1]
BUCKET = "tandem"
PORTS = 7


@dataclass(frozen=True)
class LocalCluster:
    """One that is up."""

    environment: dict[str, str]
    """What `source build/local/env` sets."""

    @property
    def url(self) -> str:
        """Of the dashboard."""
        return self.environment["DASHBOARD"]

    @property
    def gcs_address(self) -> str:
        """As RAY_ADDRESS names it."""
        return self.environment["RAY_ADDRESS"]

    @property
    def s3_endpoint(self) -> str:
        """Of the S3 server."""
        return self.environment["S3_ENDPOINT"]

    @property
    def prometheus(self) -> str:
        """The URL of Prometheus."""
        return self.environment["PROMETHEUS"]

    @property
    def token(self) -> str:
        """That which it asks for."""
        return Path(self.environment["RAY_AUTH_TOKEN_PATH"]).read_text()

    def upload(self, folder: Path, prefix: str) -> str:
        """Copies a folder's files into the bucket. Returns their URI."""
        client = boto3.client("s3", endpoint_url=self.s3_endpoint)
        for file in folder.rglob("*"):
            if file.is_file():
                client.upload_file(str(file), BUCKET, f"{prefix}/{file.relative_to(folder)}")
        return f"s3://{BUCKET}/{prefix}"


@contextlib.contextmanager
def local_cluster(folder: Path) -> Iterator[LocalCluster]:
    """Starts one with its files in `folder`. Inside, this process's environment is that of its users, with the
    dashboard's URL in RAY_ADDRESS."""
    with local_environment() as environment:
        try:
            _run("up", folder, environment)
            lines = (folder / "build" / "local" / "env").read_text().splitlines()
            pairs = (line.removeprefix("export ").split("=", 1) for line in lines)
            cluster = LocalCluster({name: value.strip("'") for name, value in pairs})
            # The mode is left out: a Ray of this process is another one.
            with variables({**cluster.environment, "RAY_ADDRESS": cluster.url, "RAY_AUTH_MODE": None}):
                yield cluster
        finally:
            _run("down", folder, environment)


@contextlib.contextmanager
def local_environment() -> Iterator[dict[str, str]]:
    """The environment to start one in, with ports that are free. What Ray has written is deleted at the end."""
    first = free_ports(PORTS)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TANDEM_LOCAL_PORT": str(first),
        "OMP_NUM_THREADS": "1",  # nodes have more cores together than the machine: threads would wait for each other
        "RAY_metrics_report_interval_ms": "1000",  # a job of some seconds is seen too
    }
    try:
        yield environment
    finally:
        shutil.rmtree(f"/tmp/tandem-{first}", ignore_errors=True)


def _run(what: str, folder: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, str(ROOT / "deploy" / "local" / "cluster.py"), what]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
