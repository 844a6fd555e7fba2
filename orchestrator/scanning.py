"""Shards -> what they hold, many at a time: by Ray tasks where many tars are read, by threads where a small file
beside each tells its count.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from jobspecs.cluster import Cluster
from jobspecs.data import Source
from jobspecs.errors import TandemError
from workers.data.find_shards import REQUESTS_AT_A_TIME, Folders, stem
from workers.data.scan import Scan, check_end, scan_shard, sidecar_count
from workers.storage import ObjectInfo, Storage

_TASK_BYTES = 256 << 20
_TASK_SHARDS = 64
"""A scanning task takes shards up to one of these: a Ray task costs about a millisecond. What one task would take is
read in this process: Ray's start alone takes longer."""

_SHOWN_SECONDS, _TOLD_SECONDS = 3.0, 60.0
"""When the progress bar appears, and how often a log without a terminal is told."""
_TASKS_AT_A_TIME = 1000
"""Ray looks at all tasks that it waits for."""

Found = tuple[ObjectInfo, Scan | TandemError]
"""A shard, and what it holds or what is wrong with it."""
Scanner = Callable[[Source, list[ObjectInfo]], Iterator[Found]]
"""Reads shards of a source; they come in any order."""


def scan_with_ray(storage: Storage, cluster: Cluster) -> Scanner:
    """A `Scanner` that reads shards in Ray tasks, a few hundred megabytes in each; fewer in all are read here."""

    def scan(source: Source, shards: list[ObjectInfo]) -> Iterator[Found]:
        if len(shards) <= _TASK_SHARDS and sum(shard.size for shard in shards) <= _TASK_BYTES:
            with (
                progress(f"reading {len(shards):,} shards of {source.name}", len(shards)) as advance,
                ThreadPoolExecutor(REQUESTS_AT_A_TIME) as pool,
            ):
                for found in pool.map(lambda shard: _scan(storage, source, [shard]), shards):
                    advance(1)
                    yield from found
            return
        from orchestrator.ray_cluster import start_ray

        start_ray(cluster)
        import ray

        task = ray.remote(num_cpus=1)(_scan).options(name=f"tandem:index:{source.name}")
        parts = _parts(shards)
        waiting: list[Any] = []
        with progress(f"reading {len(shards):,} shards of {source.name}", len(shards)) as advance:
            while True:
                room = _TASKS_AT_A_TIME - len(waiting)
                waiting += [task.remote(storage, source, part) for part in islice(parts, room)]
                if not waiting:
                    return
                done, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=1.0)
                for found in ray.get(done):
                    advance(len(found))
                    yield from found

    return scan


def _scan(storage: Storage, source: Source, shards: list[ObjectInfo]) -> list[Found]:
    """Errors are answers here, not exceptions: Ray would wrap them in its own, and all faults are told at once."""
    found: list[Found] = []
    for shard in shards:
        try:
            found.append((shard, scan_shard(shard, source, storage)))
        except TandemError as error:
            found.append((shard, error))
    return found


def counted(shards: list[ObjectInfo], folders: Folders) -> Iterator[Found]:
    """The shards whose counts stand beside them. Each is looked at, that it was not cut."""

    def count(shard: ObjectInfo) -> Scan | TandemError | None:
        beside = (f"{stem(shard.uri)}_stats.json", f"{stem(shard.uri)}.parquet")
        if all(folders.has(uri) is False for uri in beside):
            return None
        try:
            stored = sidecar_count(shard.uri, folders.storage)
            if stored is None:
                return None
            check_end(shard, folders.storage)
        except TandemError as error:
            return error
        return Scan.of(stored)

    with (
        ThreadPoolExecutor(REQUESTS_AT_A_TIME) as pool,
        progress(f"counting the samples of {len(shards):,} shards", len(shards)) as advance,
    ):
        for shard, answer in zip(shards, pool.map(count, shards), strict=True):
            advance(1)
            if answer is not None:
                yield shard, answer


def _parts(shards: list[ObjectInfo]) -> Iterator[list[ObjectInfo]]:
    part: list[ObjectInfo] = []
    for shard in shards:
        part.append(shard)
        if len(part) == _TASK_SHARDS or sum(each.size for each in part) >= _TASK_BYTES:
            yield part
            part = []
    if part:
        yield part


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on the terminal, or a line now and then where there is none (a job's log); nothing for a few seconds,
    after which most are done."""
    from rich.console import Console
    from rich.file_proxy import FileProxy
    from rich.progress import Progress

    # A live view that has the terminal puts lines above itself; two bars would draw over each other.
    has_terminal = sys.stderr.isatty() and not isinstance(sys.stderr, FileProxy)
    began = told = time.monotonic()
    finished = 0
    with Progress(console=Console(stderr=True), transient=True, disable=not has_terminal) as progress:
        task = progress.add_task(what, total=total, visible=False)

        def advance(done: int) -> None:
            nonlocal told, finished
            finished += done
            now = time.monotonic()
            progress.update(task, advance=done, visible=now - began >= _SHOWN_SECONDS)
            if not has_terminal and now - told >= _TOLD_SECONDS:
                told = now
                print(f"{what}: {finished:,} done", file=sys.stderr, flush=True)

        yield advance
