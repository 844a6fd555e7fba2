"""The driver of a disturbed job: `tandem run …`, typed, or submitted to the cluster as a job of Ray."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import time
from collections.abc import Sequence
from typing import Any, Protocol

import psutil

from tests.orchestrator.command import TANDEM, kill_tree, start_tandem


class Driver(Protocol):
    """A command that was started."""

    def has_ended(self) -> bool:
        """Whether it has."""

    def ended(self, timeout_seconds: float) -> tuple[int | None, str]:
        """Waits for the end. Returns the exit code, None for a job that was killed, and the output."""

    def interrupt(self) -> None:
        """Asks it to stop: SIGTERM."""

    def kill(self) -> None:
        """SIGKILL for it and what it has started; `ended` comes next."""


class Typed:
    """A process of this machine's shell."""

    def __init__(self, address: str, arguments: Sequence[str]) -> None:
        os.environ["RAY_ADDRESS"] = address
        self._process = start_tandem(*arguments)
        del os.environ["RAY_ADDRESS"]

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def ended(self, timeout_seconds: float) -> tuple[int | None, str]:
        output, _ = self._process.communicate(timeout=timeout_seconds)
        return self._process.returncode, output

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            kill_tree(self._process.pid)


class Submitted:
    """A job of Ray: its supervisor, an actor on the head, runs the command."""

    POLL_SECONDS = 0.5
    """Each look at the job is a request to Ray's dashboard."""

    def __init__(self, head: Any, arguments: Sequence[str]) -> None:
        """head: the head node of a `ray.cluster_utils.Cluster`."""
        from ray.job_submission import JobSubmissionClient

        self._raylets = [info.process.pid for info in head.all_processes["raylet"]]
        self._client = JobSubmissionClient(f"http://{head.webui_url}")
        self._id = self._client.submit_job(entrypoint=shlex.join([str(TANDEM), *arguments]))
        self._over, self._looked = False, 0.0

    def has_ended(self) -> bool:
        if not self._over and time.monotonic() - self._looked > self.POLL_SECONDS:
            self._looked = time.monotonic()
            self._over = self._client.get_job_status(self._id).is_terminal()
        return self._over

    def ended(self, timeout_seconds: float) -> tuple[int | None, str]:
        deadline = time.monotonic() + timeout_seconds
        while not self.has_ended():
            assert time.monotonic() < deadline, f"waited {timeout_seconds:g} s for the end of job {self._id}"
            time.sleep(self.POLL_SECONDS)
        return self._client.get_job_info(self._id).driver_exit_code, self._client.get_job_logs(self._id)

    def interrupt(self) -> None:
        """Ray kills what is still there 3 s later."""
        self._client.stop_job(self._id)

    def kill(self) -> None:
        for supervisor in self._supervisors():
            with contextlib.suppress(psutil.NoSuchProcess):
                kill_tree(supervisor.pid)

    def _supervisors(self) -> list[psutil.Process]:
        """One: the stage runs a job at a time."""
        return [
            process
            for raylet in self._raylets
            for process in psutil.Process(raylet).children()
            if "JobSupervisor" in " ".join(process.cmdline())
        ]
