"""What all tests share: two S3 servers on this machine, of two makers; and property tests without a time limit."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# A busy machine is no fault of an example. The same examples each time: what turns red was turned red by a change.
# Others are looked for by `pytest --hypothesis-profile searching`.
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("searching", deadline=None, derandomize=False)
settings.load_profile("same")


@pytest.fixture(scope="session")
def s3_credentials() -> Iterator[None]:
    """The environment holds credentials and a region for the servers below."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", "testing")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        environment.delenv("AWS_PROFILE", raising=False)
        environment.delenv("AWS_SESSION_TOKEN", raising=False)
        yield


@pytest.fixture(scope="session")
def s3_server(s3_credentials: None) -> Iterator[str]:
    """The URL of an empty S3 server, moto's."""
    from moto.s3.responses import S3Response
    from moto.server import ThreadedMotoServer

    writing, put_object = threading.Lock(), S3Response.put_object

    def one_at_a_time(self: S3Response) -> Any:
        with writing:
            return put_object(self)

    with pytest.MonkeyPatch.context() as patch:
        # Its conditional writes look first and write then, with nothing to keep other threads out.
        patch.setattr(S3Response, "put_object", one_at_a_time)
        server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
        server.stop()


@pytest.fixture(scope="session")
def rclone_server(s3_credentials: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an empty S3 server, `rclone serve s3`: it ignores If-Match and If-None-Match."""
    folder = tmp_path_factory.mktemp("rclone")
    (folder / "served").mkdir()
    command = [Path(sys.executable).with_name("rclone"), "serve", "s3", "--addr", "127.0.0.1:0"]
    command += ["--auth-key", "testing,testing-secret", "--config", "/dev/null", "--cache-dir", folder / "cache"]
    with (folder / "log").open("w") as log, subprocess.Popen([*command, folder / "served"], stderr=log) as server:
        try:
            deadline = time.monotonic() + 300
            while (url := re.search(r"http://127\.0\.0\.1:\d+", (folder / "log").read_text())) is None:
                assert server.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, "rclone did not start within five minutes"
                time.sleep(0.02)
            yield url[0]
        finally:
            server.terminate()
