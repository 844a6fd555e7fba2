"""A local S3 server over a folder, for benchmarks: rclone's, which is fast and knows ranges.

It answers a range with status 200 instead of 206. boto3 takes that; obstore, which litData reads with, does
not, and litData then reads whole objects, at the speed that it has from moto's server, which answers 206.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_START_SECONDS = 20


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """The URL of a server whose buckets are what is in the folder; the environment holds its credentials."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    access, secret = "benchmark", secrets.token_hex(16)
    os.environ |= {
        "AWS_ACCESS_KEY_ID": access,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "RCLONE_AUTH_KEY": f'"{access},{secret}"',
    }
    os.environ.pop("AWS_PROFILE", None)
    os.environ.pop("AWS_SESSION_TOKEN", None)
    rclone = Path(sys.executable).with_name("rclone")
    with subprocess.Popen(
        [rclone, "serve", "s3", "--addr", address, "--read-only", "--log-level", "ERROR", folder],
        stderr=subprocess.DEVNULL,  # it reports every client that leaves early
    ) as server:
        try:
            _wait_for(address, server)
            yield f"http://{address}"
        finally:
            server.terminate()


def _wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    host, port = address.split(":")
    for _ in range(_START_SECONDS * 10):
        with contextlib.suppress(OSError), socket.create_connection((host, int(port))):
            return
        assert server.poll() is None, "rclone did not start"
        time.sleep(0.1)
    raise AssertionError("rclone did not start")
