"""`tandem embed`: embeddings of tars as Parquet files, a Ray task a shard.

    <out>/<shard's name>-<hash of its URI>.parquet      see workers/embed/parquet_file.py
    <out>/_manifest.json                                what they are, written last

A shard whose file is there is not embedded again: a call that broke off is gone on with by calling again. A file that
another checkpoint wrote, or other settings, is never mixed with: the call is refused before it starts.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from jobspecs.cluster import Cluster
from jobspecs.errors import AlreadyExistsError, DataError, TandemError, UsageError
from jobspecs.job import JobSpec
from jobspecs.schedule import TaskResources
from orchestrator.evaluation_task import reserved
from orchestrator.find_checkpoint import FoundCheckpoint
from orchestrator.ray_tasks import answers
from workers.data.find_shards import REQUESTS_AT_A_TIME, Folders, find_shards, stem
from workers.data.keyed import hash64
from workers.embed.parquet_file import read_record, to_parquet
from workers.embed.settings import FORMAT, Record, Settings, fingerprint
from workers.run import RunDirectory
from workers.run_inputs import load_tokenizers
from workers.storage import ObjectInfo, Storage, basename, join

if TYPE_CHECKING:
    from workers.embed.shard import Embedder


@dataclass(frozen=True)
class Embedded:
    """What was embedded: the JSON of `_manifest.json`, and of `tandem embed -o json`."""

    format: str
    checkpoint: str
    """URI."""
    step: int
    settings: Settings
    rows: int
    skipped: dict[str, int]
    """Samples that could not be embedded, by cause."""
    shards: list[dict[str, Any]]
    """Of each its URI, its file, rows and skipped samples, in the order of the URLs."""


def settings_of(
    found: FoundCheckpoint, side: str | None, dtype: Literal["float32", "float16"], chosen: tuple[str, ...]
) -> Settings:
    """What a call asks for. `side` None: image where the model has one, else document.

    Raises UsageError: a side that the model lacks, a field twice or of the name of another column.
    """
    spec = found.spec
    sides = [*(["image"] if spec.data.image is not None else []), *spec.data.texts]
    side = side or next(one for one in ("image", "document", *sides) if one in sides)
    if side not in sides:
        raise UsageError(f"--side {side}: the model of {found.run.uri} encodes {' and '.join(sides)}. Choose one")
    taken = ["key", "shard", "row", "vector"]
    for name in chosen:
        if name in taken:
            raise UsageError(f"--field {name}: there is a column of that name already. Leave it out")
        taken.append(name)
    tokenizers = load_tokenizers(found.storage, found.run, spec.data)
    return Settings(fingerprint(found.manifest, tokenizers), side, spec.model.embedding_dim, dtype, chosen)


def reserving(found: FoundCheckpoint, cpus: int | None, gpus: int | None) -> FoundCheckpoint:
    """The checkpoint, with what a task that embeds by it reserves: None as the run's workers do, but one GPU at most.
    It changes no vector but by rounding."""
    wanted = {"cpus_per_worker": cpus, "gpus_per_worker": gpus}
    cluster = found.spec.cluster.model_copy(update={name: n for name, n in wanted.items() if n is not None})
    return replace(found, spec=found.spec.model_copy(update={"cluster": cluster}))


@dataclass(frozen=True)
class Work:
    """What there is to do, and what is done."""

    settings: Settings
    out: str
    """URI of the folder."""
    shards: list[ObjectInfo]
    """All of them, in the order of the URLs."""
    done: dict[str, Record]
    """What earlier calls wrote, by the shards' URIs."""


def find_work(storage: Storage, urls: list[str], out: str, settings: Settings) -> Work:
    """Looks at the shards that `urls` name, and at what is in the folder at the URI `out`.

    Raises DataError: shards that are missing; UsageError: files of other settings; StorageError.
    """
    return work_on(storage, find_shards(urls, Folders(storage)), out, settings)


def work_on(storage: Storage, shards: list[ObjectInfo], out: str, settings: Settings) -> Work:
    """As `find_work`, of shards that were found. Raises UsageError, StorageError."""
    return Work(settings, out, shards, _there(storage, shards, out, settings))


def embed_with_ray(
    found: FoundCheckpoint, work: Work, workers: int | None, check: Callable[[], None] = lambda: None
) -> Embedded:
    """Embeds the shards that are not done, up to `workers` at a time: None as many as the cluster has room for. check:
    called each second; what it raises ends the tasks.

    Raises DataError: none of the samples can be embedded; UsageError: another call writes other files there;
    CheckpointError, StorageError; JobFailedError: a task died again and again.
    """
    records = dict(work.done)
    missing = [shard for shard in work.shards if shard.uri not in records]
    for record in _embedded(found, missing, work, workers, check) if missing else ():
        records[record.shard] = record
    done = [records[shard.uri] for shard in work.shards]
    rows, skipped = sum(record.rows for record in done), Counter[str]()
    for record in done:
        skipped.update(record.skipped)
    if not rows:
        causes = ", ".join(f"{cause} {count}" for cause, count in sorted(skipped.items())) or "the tars hold none"
        raise DataError(f"not one sample of {len(done)} shards can be embedded as {work.settings.side}: {causes}.")
    embedded = Embedded(
        FORMAT,
        found.uri,
        found.manifest.step,
        work.settings,
        rows,
        dict(sorted(skipped.items())),
        [{"shard": one.shard, "file": file_name(one.shard), "rows": one.rows, "skipped": one.skipped} for one in done],
    )
    found.storage.write(join(work.out, "_manifest.json"), json.dumps(asdict(embedded), indent=2).encode())
    return embedded


def file_name(shard: str) -> str:
    """Of the embeddings of the shard at that URI. Shards of different folders have the same names."""
    return f"{basename(stem(shard))}-{hash64(shard) % 2**64:016x}.parquet"


def _there(storage: Storage, shards: list[ObjectInfo], out: str, settings: Settings) -> dict[str, Record]:
    """What earlier calls embedded, by the shards' URIs. Raises UsageError: it is not what this call would write."""
    files = {info.uri: info.size for info in storage.list(out, deep=False)}
    wanted = {join(out, file_name(shard.uri)): shard for shard in shards}
    there = [uri for uri in wanted if uri in files]
    with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as pool:
        records = list(pool.map(lambda uri: read_record(storage, uri, files[uri]), there))
    for uri, record in zip(there, records, strict=True):
        _check(uri, record, wanted[uri], settings)
    # Also those of shards that this call does not name: they would stand beside it in a vector store.
    others = [uri for uri in files if uri.endswith(".parquet") and uri not in wanted][:1]
    for uri in others:
        _check_settings(uri, read_record(storage, uri, files[uri]), settings)
    return {record.shard: record for record in records}


def _check(uri: str, record: Record, shard: ObjectInfo, settings: Settings) -> None:
    _check_settings(uri, record, settings)
    if (record.size, record.etag) != (shard.size, shard.etag):
        raise UsageError(
            f"{uri} was made of {shard.uri} as it was before it was written again. Delete the file to embed the "
            "shard as it is now"
        )


def _check_settings(uri: str, record: Record, settings: Settings) -> None:
    theirs = record.settings
    differ = [
        f"{field.name} {getattr(theirs, field.name)} -> {getattr(settings, field.name)}"
        for field in fields(Settings)
        if getattr(theirs, field.name) != getattr(settings, field.name)
    ]
    if differ:
        raise UsageError(
            f"{uri} holds embeddings of another model or other settings ({'; '.join(differ)}): they can't be compared "
            "with these. Name another --out, or delete what is there"
        )


def _embedded(
    found: FoundCheckpoint, shards: list[ObjectInfo], work: Work, workers: int | None, check: Callable[[], None]
) -> Iterator[Record]:
    """Embeds shards in Ray tasks; yields what each wrote, in any order."""
    from orchestrator.ray_cluster import start_ray

    cluster = found.spec.cluster
    start_ray(cluster)
    import ray

    needs = _reserved(cluster)
    task = ray.remote(num_cpus=needs.cpus, num_gpus=needs.gpus)(_embed)
    task = task.options(name=f"tandem:embed:{found.spec.name}")

    def start(shard: ObjectInfo) -> Any:
        return task.remote(found.spec, found.run, found.uri, found.storage, shard, work.out, work.settings)

    remedy = f"What is done is kept in {work.out}: call again to go on"
    for _, record in answers(
        start, shards, len(shards), "embedding", "shards", remedy, workers, check, needs, cluster.wait_seconds
    ):
        yield record


def _reserved(cluster: Cluster) -> TaskResources:
    """What a task reserves; of a Ray of this machine's own, to which nothing will come, no more than it has."""
    from orchestrator.ray_cluster import nodes

    needs = reserved(None, cluster)
    if os.environ.get("RAY_ADDRESS"):
        return needs
    cpus, gpus = (max((int(getattr(node, kind)) for node in nodes()), default=0) for kind in ("cpus", "gpus"))
    if needs.gpus > gpus:
        print("this machine has no GPU: embedding on its CPUs", file=sys.stderr, flush=True)
    return TaskResources(cpus=max(1, min(needs.cpus, cpus)), gpus=min(needs.gpus, gpus))


def _embed(
    spec: JobSpec,
    run: RunDirectory,
    checkpoint: str,
    storage: Storage,
    shard: ObjectInfo,
    out: str,
    settings: Settings,
) -> Record | TandemError:
    """Embeds a shard and writes its file. An answer, not an exception: Ray would wrap it in one of its own."""
    try:
        rows, record = _embedder(spec.model_dump_json(), run, checkpoint).embed(storage, shard, settings)
        uri = join(out, file_name(shard.uri))
        try:
            storage.write(uri, to_parquet(rows, record), if_absent=True)
        except AlreadyExistsError:  # by a task that Ray thought dead, or by another call
            _check(uri, read_record(storage, uri, storage.stat(uri).size), shard, settings)
    except TandemError as error:
        return error
    return record


@lru_cache(maxsize=1)
def _embedder(spec: str, run: RunDirectory, checkpoint: str) -> Embedder:
    """The model at `checkpoint`, loaded once in each process, which Ray uses again for the next shard."""
    from workers.embed.shard import Embedder  # torch, transformers

    return Embedder.of_checkpoint(JobSpec.model_validate_json(spec), run, checkpoint)
