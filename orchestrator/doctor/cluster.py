"""Whether the Ray cluster that the environment names lets a job in."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from jobspecs.errors import UsageError
from orchestrator.cluster import connect
from orchestrator.cluster_address import given_address
from orchestrator.doctor.finding import Finding, Level
from orchestrator.doctor.software import version_of

Ask = Callable[[str], tuple[str, str]]
"""Address -> the dashboard's URL and the cluster's version of Ray. Raises UsageError, which says what to do."""


def cluster(address: str | None, ask: Ask | None = None, ours: str | None = None) -> Iterator[Finding]:
    """Of the cluster at `address`, by default what the environment names. ours: the version of Ray here."""
    named, ours = given_address(address), ours or version_of("ray")
    if named is None:
        yield Finding("ray cluster", Level.OK, "none is named: jobs run on this machine")
        return
    try:
        url, theirs = (ask or _asked)(named)
    except UsageError as error:
        yield Finding("ray cluster", Level.FAIL, str(error), "Or unset RAY_ADDRESS to run on this machine.")
        return
    if theirs != ours:
        remedy = "`tandem submit` works; `tandem run` on it needs the same version on both sides."
        yield Finding("ray cluster", Level.WARN, f"Ray {theirs} at {url}, and {ours} here", remedy)
    else:
        yield Finding("ray cluster", Level.OK, f"Ray {theirs} at {url}")


def _asked(address: str) -> tuple[str, str]:
    jobs = connect(address)
    jobs.entries()  # the version is told without a token, jobs are not
    return jobs.url, jobs.version()
