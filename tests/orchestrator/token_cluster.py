"""A Ray cluster of its own on this machine, as `ray start` makes one: on loopback, and with a token."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.orchestrator.command import TANDEM


class TokenCluster:
    """One node with `cpus`. A context manager; nothing of it is left behind."""

    def __init__(self, cpus: int) -> None:
        ports = free_ports(4)
        self.token = secrets.token_hex(16)
        self.url = f"http://127.0.0.1:{ports[1]}"
        self._gcs_port = ports[0]
        self._arguments = [
            "--head",
            "--block",
            f"--port={ports[0]}",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={ports[1]}",
            f"--dashboard-agent-listen-port={ports[2]}",
            f"--ray-client-server-port={ports[3]}",
            f"--num-cpus={cpus}",
            "--disable-usage-stats",
        ]

    @property
    def gcs_address(self) -> str:
        """As RAY_ADDRESS often names a cluster."""
        import ray

        return f"{ray.util.get_node_ip_address()}:{self._gcs_port}"

    def __enter__(self) -> TokenCluster:
        # Ray's sockets need a short path.
        self._folder = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "PATH": f"{TANDEM.parent}{os.pathsep}{os.environ['PATH']}",  # drivers call `python`
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
        }
        self._log = Path(self._folder.name) / "log"
        with self._log.open("w") as log:
            command = [str(Path(sys.executable).with_name("ray")), "start", *self._arguments]
            self._process = subprocess.Popen(
                [*command, f"--temp-dir={self._folder.name}/t"],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=self._folder.name,
                start_new_session=True,
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Kills what was started: all of it has the folder in its command line, or ends with a process that has."""
        started = [psutil.Process(self._process.pid)]
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if any(self._folder.name in part for part in process.cmdline()):
                    started.append(process)
        for process in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        psutil.wait_procs(started, timeout=30)
        self._folder.cleanup()

    def _wait(self) -> None:
        """Its dashboard answers long before it has a node."""
        deadline = time.monotonic() + 240
        while "Ray runtime started" not in self._log.read_text():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens at."""
    with contextlib.ExitStack() as closing:
        servers = [closing.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in servers]
