"""A version of a job's negatives, mined by Ray tasks into its run directory: between two attempts, as `mining_stage.py`
says.

What a task has written is not done again, so that a driver that dies while it mines is gone on with. The names of the
files tell what is mined and how: those of a checkpoint that was withdrawn meanwhile, and made again, are never mixed
with the new one's.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from jobspecs.errors import AlreadyExistsError
from orchestrator.find_checkpoint import FoundCheckpoint
from orchestrator.mining import mine_shards
from orchestrator.mining_model import Model, model_of, named_model
from orchestrator.mining_work import MiningWork, Shards, Target, plan_hash, work_of
from orchestrator.prepare import Prepared
from workers.data.find_shards import REQUESTS_AT_A_TIME, Folders, find_shards
from workers.data.negatives import NegativesTable, TableFile, read_table
from workers.mining.table import Found, Table, read_record, record_of, total
from workers.mining.versions import Era, eras
from workers.storage import ObjectInfo, join
from workers.train.checkpoint import read_manifest

if TYPE_CHECKING:
    from workers.data.index import Index


def check_mining(job: Prepared) -> None:
    """Looks for what the job is still to mine by and from, before anything is started. Raises as `find_version`."""
    mining = job.spec.job_mining
    assert mining is not None, "asked of a job that mines"
    versions = [era for era in eras(mining, job.fixed.total_steps) if era.version]

    def is_mined(era: Era) -> bool:
        return read_table(job.storage, job.run.negatives(era.version)) is not None

    if mining.before_training and not is_mined(versions[0]):
        find_version(job, versions[0], None)
    elif mining.corpus is not None and not all(map(is_mined, reversed(versions))):  # the last is the likeliest to lack
        find_shards(mining.corpus, Folders(job.storage))


def find_version(job: Prepared, era: Era, checkpoint: str | None) -> MiningWork:
    """What there is to do for the version that the era trains with. checkpoint: URI of the job's own at the step where
    it begins; None before the first step, where `mining.model` mines.

    Raises UsageError: `mining.model` does not fit; DataError: the corpus is missing; CheckpointError, StorageError.
    """
    spec, mining = job.spec, job.spec.job_mining
    assert mining is not None, "asked of a job that mines"
    data = [(source, _shards(index)) for source, index in zip(spec.data.sources, job.indexes, strict=True)]
    corpus = None if mining.corpus is None else find_shards(mining.corpus, Folders(job.storage))
    shards = Shards.of(data, corpus)
    uri, numbers = job.run.negatives(era.version), shards.numbers
    model = named_model(spec, mining, job.storage) if checkpoint is None else _own_model(job, checkpoint)
    work = work_of(spec, mining, model, job.storage, uri, shards, [], Table())
    made = plan_hash(work)
    targets = [
        Target(numbers[shard.uri], join(uri, source.name, f"{number:05d}-{made}.parquet"))
        for source, of_source in data
        for number, shard in enumerate(of_source)
    ]
    there = {info.uri for info in job.storage.list(uri)}
    done = [target.out for target in targets if record_of(target.out) in there]
    return replace(work, targets=targets, done=done)


def mine_version(
    job: Prepared, era: Era, checkpoint: str | None, check: Callable[[], None]
) -> tuple[NegativesTable, Found]:
    """Mines it, with as many tasks at a time as the cluster has room for, and writes its manifest, last of all: `tidy`
    deletes what is left beside it. check: called each second; what it raises ends the tasks.

    Raises as `find_version`; DataError: damaged tars, or not one sample to mine for; TasksLostError: one died again and
    again; JobFailedError: one raised another error.
    """
    work = find_version(job, era, checkpoint)
    left = [target for target in work.targets if target.out not in set(work.done)]
    if left:
        mine_shards(work, left, None, check)
    with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as pool:
        records = list(pool.map(lambda target: read_record(work.storage, target.out), work.targets))
    named = [
        TableFile(target.out.removeprefix(f"{work.out}/"), record.sha256)
        for target, record in zip(work.targets, records, strict=True)
    ]
    table, found = NegativesTable(work.out, era.version, _by_source(job, named)), total(records)
    check()
    plan = {name: value for name, value in work.plan.items() if name != "shards"}
    try:
        content = table.to_json(plan=plan, **asdict(found))
        work.storage.write(join(work.out, "manifest.json"), content, if_absent=True)
    except AlreadyExistsError:  # another driver's, or our own write, whose answer got lost
        table = read_table(work.storage, work.out) or table
    return table, found


def tidy(job: Prepared, table: NegativesTable) -> None:
    """Deletes what is in a version's folder and no part of it: vectors, records, and whatever a checkpoint left that
    was withdrawn. Raises StorageError."""
    kept = {join(table.uri, file.name) for files in table.files.values() for file in files}
    kept.add(join(table.uri, "manifest.json"))
    with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as pool:
        list(pool.map(job.storage.delete, [info.uri for info in job.storage.list(table.uri) if info.uri not in kept]))


def model_name(job: Prepared, era: Era) -> str:
    """What mines a version, in words."""
    mining = job.spec.job_mining
    assert mining is not None, "asked of a job that mines"
    return f"by {mining.model}" if not era.start else f"by the checkpoint at step {era.start}"


def _own_model(job: Prepared, checkpoint: str) -> Model:
    manifest = read_manifest(job.storage, checkpoint)
    return model_of(FoundCheckpoint(job.spec, job.run, checkpoint, manifest, job.storage), job.spec, job.storage)


def _shards(index: Index) -> list[ObjectInfo]:
    rows = zip(index.uris, index.sizes.tolist(), index.etags, strict=True)
    return [ObjectInfo(uri, size, etag) for uri, size, etag in rows]


def _by_source(job: Prepared, files: list[TableFile]) -> dict[str, tuple[TableFile, ...]]:
    """Of all sources in their order -> of each."""
    left = iter(files)
    return {index.source: tuple(next(left) for _ in range(len(index))) for index in job.indexes}
