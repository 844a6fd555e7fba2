"""The jobs of a Ray cluster, through its Jobs API: a REST API over HTTP or HTTPS, on the dashboard's port.

    jobs = connect(given_address(option))       UsageError: not there, not let in, too old, not trusted
    jobs.entries()                              Tandem's jobs on that cluster, newest first
    jobs.submit(…), jobs.log(id), jobs.stop(id)

Only `submit`, which also ships code, and addresses other than URLs need Ray here. A token is sent where the cluster
asks for one, and to no other.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import requests

from jobspecs.errors import JobFailedError, UsageError
from orchestrator.cluster_address import LOCAL, dashboard_url, not_there, only_address, token, wrong_token

OLDEST_RAY = (2, 60)
"""The driver runs with the cluster's own Ray, and needs what this version has."""
TIMEOUT_SECONDS = 30.0
"""For an answer of the dashboard."""
AGENT_SECONDS = 120.0
"""A cluster that has just been started takes jobs some time after it answers."""
TERMINAL = frozenset({"STOPPED", "SUCCEEDED", "FAILED"})
"""Ray's states of jobs that are over."""


class NoAnswerError(UsageError):
    """The cluster does not answer, or not as one that is well. A little later it may."""


@dataclass(frozen=True)
class Entry:
    """One of Tandem's jobs, as the cluster's list has it."""

    submission_id: str
    status: str
    """Ray's: PENDING, RUNNING, STOPPED, SUCCEEDED, FAILED."""
    name: str
    spec_hash: str
    objective: str
    run_directory: str
    progress: str
    """In words, as of some seconds ago."""
    s3_endpoint: str | None
    """Of the run directory, where it is not AWS."""
    started: float
    """Unix time of its submission."""
    message: str
    """Why it ended, in Ray's words."""
    exit_code: int | None

    @property
    def is_over(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.status in TERMINAL


class RayJobs:
    """The jobs of one cluster. All methods raise UsageError where the cluster does not answer as it should."""

    def __init__(self, url: str) -> None:
        """url: of the dashboard."""
        self.url = url.rstrip("/")
        self._headers: dict[str, str] = {}

    def version(self) -> str:
        """The cluster's Ray."""
        answer = self._ask("GET", "/api/version")
        return str(answer.get("ray_version", "") if isinstance(answer, dict) else "")

    def entries(self) -> list[Entry]:
        """Tandem's jobs, the newest first."""
        found = (_entry(job) for job in self._ask("GET", "/api/jobs/"))
        return sorted((entry for entry in found if entry), key=lambda entry: entry.started, reverse=True)

    def entry(self, submission_id: str) -> Entry:
        """One of them, as it is now."""
        entry = _entry(self._ask("GET", f"/api/jobs/{submission_id}"))
        if entry is None:
            raise UsageError(f"{submission_id} on {self.url} is no job of Tandem's. `tandem list` shows those.")
        return entry

    def log(self, submission_id: str) -> str:
        """All that its driver has written; nothing for one that has not begun."""
        return str(self._ask("GET", f"/api/jobs/{submission_id}/logs").get("logs") or "")

    def stop(self, submission_id: str) -> None:
        """Asks its driver to end: SIGTERM."""
        self._ask("POST", f"/api/jobs/{submission_id}/stop")

    def submit(
        self, submission_id: str, entrypoint: str, runtime_env: Mapping[str, Any], metadata: Mapping[str, str]
    ) -> None:
        """Ships what `runtime_env` names of this machine, and starts the job.

        Raises JobFailedError: the cluster did not take it.
        """
        from ray.job_submission import JobSubmissionClient

        for logger in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
            logging.getLogger(logger).setLevel(logging.WARNING)  # they tell of each package
        with only_address(self.url), _translated(self.url):
            client = JobSubmissionClient(self.url, headers=dict(self._headers))
            deadline = time.monotonic() + AGENT_SECONDS
            while True:
                try:
                    client.submit_job(
                        submission_id=submission_id,
                        entrypoint=entrypoint,
                        runtime_env=dict(runtime_env),
                        metadata=dict(metadata),
                    )
                    return
                except RuntimeError as error:
                    if "No available agent" not in str(error) or time.monotonic() > deadline:
                        reason = _last_line(error)
                        raise JobFailedError(f"{self.url} did not take the job {submission_id}: {reason}") from error
                time.sleep(1.0)

    def _ask(self, method: str, path: str) -> Any:
        with _translated(self.url):
            answer = self._request(method, path)
            if answer.status_code == 401 and not self._headers and (secret := token()):
                self._headers = {"Authorization": f"Bearer {secret}"}
                answer = self._request(method, path)
            _check(self.url, path, answer)
            return answer.json()

    def _request(self, method: str, path: str) -> requests.Response:
        return requests.request(method, self.url + path, headers=self._headers, timeout=TIMEOUT_SECONDS)


def connect(address: str | None) -> RayJobs:
    """The jobs of the cluster at `address`: the dashboard's URL, or whatever Ray takes for one; None: on this machine.

    Raises UsageError.
    """
    jobs = RayJobs(dashboard_url(address or LOCAL))
    version = jobs.version()
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < OLDEST_RAY:
        needed = ".".join(map(str, OLDEST_RAY))
        raise UsageError(
            f"the cluster at {jobs.url} runs Ray {version or 'of an unknown version'}, and Tandem needs {needed} or "
            "newer there. Start the cluster with a newer Ray, or choose another by --address."
        )
    return jobs


_NO_TOKEN = (
    "the cluster at {url} asks for a token. Set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file that holds it, or put "
    "it into ~/.ray/auth_token; whoever started the cluster has it (`ray get-auth-token`)."
)
_NOT_TRUSTED = (
    "{url} shows a certificate that is not trusted here. Set REQUESTS_CA_BUNDLE to the file of the authority that "
    "signed it."
)


def _check(url: str, path: str, answer: requests.Response) -> None:
    match answer.status_code:
        case 200:
            return
        case 401:
            raise UsageError(_NO_TOKEN.format(url=url))
        case 403:
            raise UsageError(wrong_token(url))
        case 404 if path != "/api/version":
            job = path.removeprefix("/api/jobs/").split("/")[0]
            raise UsageError(f"the cluster at {url} has no job {job}. `tandem list` shows those that it has.")
        case 404:
            raise UsageError(not_there(url))
        case status:
            raise (NoAnswerError if status >= 500 else UsageError)(
                f"the cluster at {url} answered {path} with HTTP {status}: {_last_line(answer.text)}. Its dashboard's "
                "log tells more."
            )


def _last_line(text: object) -> str:
    """Of a traceback, what was raised. Ray's own client puts a full stop behind it."""
    lines = [line.strip() for line in str(text).splitlines() if line.strip(" .")]
    return lines[-1].rstrip(".") if lines else "no reason is given"


@contextlib.contextmanager
def _translated(url: str) -> Iterator[None]:
    """What `requests` raises, in our words."""
    try:
        yield
    except requests.exceptions.SSLError as error:
        raise UsageError(_NOT_TRUSTED.format(url=url)) from error
    except requests.exceptions.Timeout as error:
        raise NoAnswerError(
            f"the cluster at {url} gave no answer within {TIMEOUT_SECONDS:.0f} s. Is the address the dashboard's, and "
            "does the dashboard run?"
        ) from error
    except requests.exceptions.HTTPError as error:
        raise UsageError(f"the cluster at {url} is not well: {error}. Its dashboard's log tells more.") from error
    except (requests.exceptions.RequestException, ConnectionError) as error:  # Ray's own is a ConnectionError
        raise NoAnswerError(not_there(url)) from error


def _entry(job: Mapping[str, Any]) -> Entry | None:
    """The entry of one of Tandem's jobs; None for any other."""
    about = job.get("metadata") or {}
    if not job.get("submission_id") or not about.keys() >= {"name", "run_directory", "spec_hash"}:
        return None
    return Entry(
        submission_id=job["submission_id"],
        status=job["status"],
        name=about["name"],
        spec_hash=about["spec_hash"],
        objective=about.get("objective", ""),
        run_directory=about["run_directory"],
        progress=about.get("progress", ""),
        s3_endpoint=about.get("s3_endpoint"),
        started=(job.get("start_time") or 0) / 1000,
        message=job.get("message") or "",
        exit_code=job.get("driver_exit_code"),
    )
