"""The index of a source, before anything is started: its shards, their sizes and their counts.

Counts come from img2dataset's sidecars where they exist. Shards without one are scanned by Ray tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from jobspecs.cluster import Cluster
from jobspecs.data import Source
from jobspecs.errors import DataError, TandemError
from workers.data.index import Index, expand, scan_count, sidecar_count, stat_shards
from workers.storage import Storage

_REQUESTS_AT_A_TIME = 16

Scan = Callable[[list[str]], list[int]]
"""Shards -> their sample counts."""


def build_index(source: Source, storage: Storage, scan: Scan) -> Index:
    """The index of `source`; `scan` counts the shards that have no sidecar.

    Raises DataError: shards that are missing, empty, damaged or named twice; StorageError.
    """
    infos = stat_shards(expand(source.urls, storage), storage)
    uris = [info.uri for info in infos]
    with ThreadPoolExecutor(_REQUESTS_AT_A_TIME) as pool:
        counts = list(pool.map(lambda uri: sidecar_count(uri, storage), uris))
    unknown = [uri for uri, count in zip(uris, counts, strict=True) if count is None]
    scanned = dict(zip(unknown, scan(unknown), strict=True)) if unknown else {}
    samples = tuple(scanned[uri] if count is None else count for uri, count in zip(uris, counts, strict=True))
    if not sum(samples):
        raise DataError(f"source {source.name!r} has no sample in {len(uris)} shards.")
    return Index(
        source=source.name,
        uris=tuple(uris),
        sizes=tuple(info.size for info in infos),
        etags=tuple(info.etag for info in infos),
        samples=samples,
    )


def scan_with_ray(storage: Storage, cluster: Cluster) -> Scan:
    """A `Scan` that counts every shard in a Ray task of its own."""

    def scan(uris: list[str]) -> list[int]:
        from orchestrator.ray_cluster import start_ray

        start_ray(cluster)
        import ray

        count = ray.remote(num_cpus=1)(_count)
        # An answer, not an exception: Ray would wrap it in one of its own.
        answers = ray.get([count.options(name=f"tandem:index:{uri}").remote(storage, uri) for uri in uris])
        errors = [answer for answer in answers if isinstance(answer, TandemError)]
        damaged = [str(error) for error in errors if isinstance(error, DataError)]
        if damaged:
            raise DataError("\n".join(damaged))
        if errors:
            raise errors[0]
        return list(answers)

    return scan


def _count(storage: Storage, uri: str) -> int | TandemError:
    try:
        return scan_count(uri, storage)
    except TandemError as error:
        return error
