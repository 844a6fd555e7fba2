"""Who has the room that a job waits for: the other jobs of the cluster that have reserved some."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

ANSWER_SECONDS = 20
KINDS = ("CPU", "GPU")


@dataclass(frozen=True)
class Holder:
    """A job that has reserved room for workers."""

    job: str
    """Its submission id, or Ray's id of one that was not submitted."""
    reserved: Mapping[str, float]
    """CPUs and GPUs."""

    def __str__(self) -> str:
        what = ", ".join(f"{self.reserved[kind]:g} {kind}" for kind in KINDS if self.reserved.get(kind))
        return f"{self.job} ({what})"


def holders() -> list[Holder]:
    """Those of the cluster that this process is connected to; none where it is nobody else's, or does not tell."""
    import ray
    from ray.exceptions import RayError
    from ray.util.state import list_jobs, list_placement_groups
    from ray.util.state.exception import RayStateApiException

    if not os.environ.get("RAY_ADDRESS"):
        return []
    # Looking on is not worth a job.
    with contextlib.suppress(RayStateApiException, RayError, OSError, RuntimeError):
        groups = list_placement_groups(
            filters=[("state", "=", "CREATED")], detail=True, timeout=ANSWER_SECONDS, raise_on_missing_output=False
        )
        jobs = list_jobs(timeout=ANSWER_SECONDS, raise_on_missing_output=False)
        names = {job.job_id: job.submission_id or f"job {job.job_id}" for job in jobs}
        reserved = ((group.creator_job_id, bundle["unit_resources"]) for group in groups for bundle in group.bundles)
        return summed(reserved, names, without=ray.get_runtime_context().get_job_id())
    return []


def summed(
    bundles: Iterable[tuple[str, Mapping[str, float]]], names: Mapping[str, str], *, without: str
) -> list[Holder]:
    """What each job has, most first. bundles: Ray's id of a job, and what it has reserved. without: our own."""
    totals: dict[str, Counter[str]] = {}
    for job, resources in bundles:
        if job != without:
            totals.setdefault(job, Counter()).update({kind: resources.get(kind, 0.0) for kind in KINDS})
    found = [Holder(names.get(job, f"job {job}"), total) for job, total in totals.items() if any(total.values())]
    return sorted(found, key=lambda holder: (-holder.reserved["GPU"], -holder.reserved["CPU"], holder.job))
