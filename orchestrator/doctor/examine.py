"""The table of checks, and what a spec asks of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from jobspecs.cluster import Cluster
from jobspecs.job import JobSpec
from jobspecs.redaction import redacted
from jobspecs.storage import StorageSpec
from orchestrator.cluster_address import given_address
from orchestrator.doctor.cluster import cluster
from orchestrator.doctor.finding import Finding
from orchestrator.doctor.gpus import gpus
from orchestrator.doctor.machine import machine
from orchestrator.doctor.software import software
from orchestrator.doctor.storage import storage
from workers.storage import Storage, absolute


def examine(spec: JobSpec | None, address: str | None = None) -> Iterator[Finding]:
    """All checks, in order. spec: the job that shall run; None looks at what any job needs. address: of a cluster.

    What a job takes of workers is asked of this machine only where it would run here.
    """
    group = Cluster() if spec is None else spec.cluster
    keep = StorageSpec() if spec is None else spec.storage
    here = group.min_workers if spec is not None and given_address(address) is None else 0
    checks = (
        software(),
        gpus(here * group.gpus_per_worker),
        machine(here, group.cpus_per_worker),
        storage(Storage(keep.s3), absolute(keep.root)),
        cluster(address),
    )
    for check in checks:
        for finding in check:
            yield replace(finding, found=redacted(finding.found))
