"""Whether this machine has the cores, the memory and the room that a job takes."""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from orchestrator.doctor.finding import GIB, Finding, Level, gib

WORKER_BYTES = 2 * GIB
"""A rank with its libraries, its loader and a small model takes about as much."""
STORE_SHARE = 0.3
"""Of the memory, what Ray takes of /dev/shm for its objects."""
NCCL_BYTES = GIB
"""Less than that in /dev/shm, such as Docker's 64 MiB, breaks NCCL and Ray's object store."""
FULL_SHARE = 0.05
"""With so little left on its disk, Ray makes no more objects."""
FEW_FILES = 4096
"""Ray, loaders and S3 connections open some thousands."""
CGROUP_MEMORY = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Machine:
    """What there is. Sizes in bytes."""

    cores: int
    memory: float
    memory_free: float
    shm: float | None
    """Room in /dev/shm; None where there is none, as on macOS."""
    disk: float
    """Of the temporary folder, in which Ray keeps logs and spills objects."""
    disk_free: float
    open_files: int
    """The limit of this process."""


def machine(workers: int, cores_each: int) -> Iterator[Finding]:
    """Of this one. workers: as many a job runs here, with so many cores each; 0: none."""
    yield from judge(_measured(), workers, cores_each)


def judge(there: Machine, workers: int, cores_each: int) -> Iterator[Finding]:
    """What is enough."""
    yield _cores(there, workers, cores_each)
    yield _memory(there, workers)
    if there.shm is not None:
        yield _shm(there.shm, there.memory)
    folder = tempfile.gettempdir()
    told = f"{gib(there.disk_free)} free of {gib(there.disk)} in {folder}"
    if there.disk_free < FULL_SHARE * there.disk:
        remedy = f"Free some, or set RAY_TMPDIR to a folder with room: Ray stops at {FULL_SHARE:.0%}."
        yield Finding("disk", Level.FAIL, told, remedy)
    else:
        yield Finding("disk", Level.OK, told)
    if there.open_files < FEW_FILES:
        remedy = f"ulimit -n {FEW_FILES * 4} before the start, or in a service's LimitNOFILE."
        yield Finding("open files", Level.WARN, f"{there.open_files} at most", remedy)
    else:
        yield Finding("open files", Level.OK, f"{there.open_files} at most")


def _cores(there: Machine, workers: int, cores_each: int) -> Finding:
    told = f"{there.cores} core{'s' if there.cores != 1 else ''}"
    if workers * cores_each > there.cores:
        told += f" for {workers} workers with {cores_each} each"
        return Finding("cpu", Level.WARN, told, "The job runs, and they take turns. Lower cluster.workers for speed.")
    return Finding("cpu", Level.OK, told)


def _memory(there: Machine, workers: int) -> Finding:
    told = f"{gib(there.memory_free)} free of {gib(there.memory)}"
    need = WORKER_BYTES * (max(workers, 1) + 1)  # and an evaluation
    if there.memory_free < need:
        remedy = f"Some {gib(need)} are needed: end other programs, or lower cluster.workers."
        return Finding("memory", Level.WARN, told, remedy)
    return Finding("memory", Level.OK, told)


def _shm(room: float, memory: float) -> Finding:
    told = f"{gib(room)} free"
    remedy = (
        f"Docker: --shm-size={max(int(STORE_SHARE * memory / GIB), 1)}g; Kubernetes: an emptyDir with medium: Memory "
        "at /dev/shm."
    )
    if room < NCCL_BYTES:
        return Finding("/dev/shm", Level.FAIL, told, remedy)
    if room < STORE_SHARE * memory:
        return Finding("/dev/shm", Level.WARN, f"{told}: Ray keeps its objects on disk instead", remedy)
    return Finding("/dev/shm", Level.OK, told)


def _measured() -> Machine:
    memory, disk = psutil.virtual_memory(), psutil.disk_usage(tempfile.gettempdir())
    shm = Path("/dev/shm")
    limit = _limit_of_container(memory.total)
    return Machine(
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=limit,
        memory_free=min(memory.available, limit),
        shm=psutil.disk_usage(str(shm)).free if shm.is_dir() else None,
        disk=disk.total,
        disk_free=disk.free,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    )


def _limit_of_container(total: float) -> float:
    """The memory that this process may have: a container's limit does not show in the machine's."""
    try:
        return min(total, float(CGROUP_MEMORY.read_text()))
    except (OSError, ValueError):  # there is none, or it says "max"
        return total
