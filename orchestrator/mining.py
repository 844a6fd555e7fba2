"""`tandem mine`: tars with hard negatives, by Ray tasks.

    <out>/<source>/00000.tar, 00000_stats.json     a copy of each shard of the spec's data, with its negatives
    <out>/_plan.json                               what is mined and how, written first
    <out>/_embeddings/<hash of the plan>/<side>/   vectors, as `tandem embed` writes them; gone in the end
    <out>/_manifest.json                           what was mined, written last

A shard that was mined is not mined again: a call that broke off is gone on with by calling again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from jobspecs.errors import AlreadyExistsError, DataError, TandemError
from orchestrator.embedding import embed_with_ray, file_name, work_on
from orchestrator.mining_work import FORMAT, MiningWork, Target, refuse_another_plan
from orchestrator.ray_tasks import answers
from workers.data.find_shards import REQUESTS_AT_A_TIME
from workers.mining.pairs import Pairs, Texts, read_pairs
from workers.mining.pool import Pool
from workers.storage import join

if TYPE_CHECKING:
    from workers.mining.write import Record

QUERIES_AT_A_TIME = 16_384
"""Queries of a mining task, at most (but a shard at least): it reads all candidates once, and the search takes 5 KB a
query."""


@dataclass(frozen=True)
class MinedSet:
    """What was mined: the JSON of `_manifest.json`, and of `tandem mine -o json`."""

    format: str
    plan: dict[str, Any]
    samples: int
    """In the new tars."""
    mined: int
    """Samples whose negatives were looked for: those with a query and a document that the model can embed."""
    fewer: int
    """Of those, how many got fewer than were asked for,"""
    none: int
    """and how many none."""
    negatives: int
    """In all."""
    left_out: int
    """Samples that the new tars lack: filters don't keep them, or they are two in one."""
    tars: list[dict[str, Any]]
    """Of each new tar its name below the folder, and the same numbers, in the order of the spec's shards."""


def mine_with_ray(work: MiningWork, workers: int | None) -> MinedSet:
    """Mines the shards that are not done, in up to `workers` tasks at a time: None as many as the cluster has room for.

    Raises DataError: damaged tars, or not one sample to mine for; UsageError, CheckpointError, StorageError;
    JobFailedError: a task died again and again.
    """
    storage = work.storage
    left = [target for target in work.targets if target.out not in set(work.done)]
    if left:
        plan = join(work.out, "_plan.json")
        try:
            storage.write(plan, json.dumps(work.plan, indent=2).encode(), if_absent=True)
        except AlreadyExistsError:  # another call's: by now, perhaps
            refuse_another_plan(work)
        mine_shards(work, left, workers)
    from workers.mining.write import read_tar_record

    with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as pool:
        records = list(pool.map(lambda target: read_tar_record(storage, target.out), work.targets))
        mined = _summary(work, records)
        storage.write(join(work.out, "_manifest.json"), json.dumps(asdict(mined), indent=2).encode())
        vectors = storage.list(join(work.out, "_embeddings"))
        list(pool.map(lambda info: storage.delete(info.uri), vectors))
    return mined


def _summary(work: MiningWork, records: list[Record]) -> MinedSet:
    names = ("samples", "mined", "fewer", "none", "negatives", "left_out")
    return MinedSet(
        FORMAT,
        work.plan,
        **{name: sum(getattr(record, name) for record in records) for name in names},
        tars=[
            {"tar": target.out.removeprefix(f"{work.out}/"), **asdict(record)}
            for target, record in zip(work.targets, records, strict=True)
        ],
    )


# --- on the cluster -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shared:
    """What all mining tasks have in common; in Ray's memory, once a node."""

    work: MiningWork
    pairs: list[Pairs]
    pool: Pool


def mine_shards(
    work: MiningWork, targets: list[Target], workers: int | None, check: Callable[[], None] = lambda: None
) -> None:
    """Mines some of the targets, as `mine_with_ray`, and gives what it finds to the work's sink. check: called each
    second; what it raises ends the tasks."""
    from orchestrator.ray_cluster import start_ray

    start_ray(work.spec.cluster)
    import ray

    remedy = f"What is done is kept in {work.out}: call again to go on"
    pairs, texts = _read_all(work, workers, remedy, check)
    pool = Pool.of(pairs, work.corpus)
    asking = sum(int(pairs[target.number].asks.sum()) for target in work.targets)
    query, document = work.sides
    if not asking or not pool.is_candidate.any():
        lacking = f"has both a {query} and a {document}" if not asking else f"of the corpus has a {document}"
        raise DataError(f"not one sample {lacking}: there is nothing to mine. Check the columns in `data:`")
    if work.model is not None:
        undone = [work.shards[target.number] for target in targets]
        for side, shards in ((query, undone), (document, work.shards)):
            settings = work.model.settings[side]
            vectors = work_on(work.storage, shards, work.embeddings(side), settings)
            embed_with_ray(work.model.found, vectors, workers, check)
    shared = ray.put(Shared(work, pairs, pool))
    index = None if work.model is not None else ray.remote(_index).remote(shared, texts)
    cluster = work.spec.cluster
    task = ray.remote(num_cpus=cluster.cpus_per_worker)(_mine).options(name=f"tandem:mine:{work.spec.name}")
    groups = list(_groups(targets, pairs, workers or cluster.max_workers))

    def start(group: list[Target]) -> Any:
        return task.remote(shared, texts, index, group)

    for _ in answers(start, groups, len(groups), "mining", "groups of shards", remedy, workers, check):
        pass


def _read_all(
    work: MiningWork, workers: int | None, remedy: str, check: Callable[[], None]
) -> tuple[list[Pairs], list[Any]]:
    """The pairs of all shards, and references of their texts, which stay in Ray's memory."""
    import ray

    task = ray.remote(num_cpus=1, num_returns=2)(_read).options(name=f"tandem:mine:{work.spec.name}")
    texts: dict[int, Any] = {}

    def start(number: int) -> Any:
        reference, texts[number] = task.remote(work, number)
        return reference

    numbers = range(len(work.shards))
    found = dict(answers(start, numbers, len(numbers), "reading", "shards", remedy, workers, check))
    return [found[number] for number in numbers], [texts[number] for number in numbers]


def _groups(targets: list[Target], pairs: list[Pairs], tasks: int) -> Iterator[list[Target]]:
    """Shards that are mined together: as many as keep all tasks busy, of no more queries than fit."""
    counts = [int(pairs[target.number].asks.sum()) for target in targets]
    most = min(QUERIES_AT_A_TIME, -(-sum(counts) // tasks))
    group: list[Target] = []
    queries = 0
    for target, count in zip(targets, counts, strict=True):
        if group and queries + count > most:
            yield group
            group, queries = [], 0
        group.append(target)
        queries += count
    if group:
        yield group


def _read(work: MiningWork, number: int) -> tuple[Pairs | TandemError, Texts | None]:
    """A shard's pairs and texts."""
    shard, source = work.shards[number], work.sources[number]
    try:
        return read_pairs(work.storage, shard, work.spec.data, work.sides, source, query_texts=work.model is None)
    except TandemError as error:
        return error, None


def _documents(texts: list[Any]) -> Callable[[int], Sequence[str]]:
    """A shard's number -> its documents, fetched out of Ray's memory."""
    import ray

    def fetch(shard: int) -> Sequence[str]:
        found: Texts = ray.get(texts[shard])
        return found.documents

    return fetch


def _index(shared: Shared, texts: list[Any]) -> Any:
    """BM25's index of all documents."""
    from workers.mining.lexical import index_of

    return index_of(shared.pool, _documents(texts))


def _mine(shared: Shared, texts: list[Any], index: Any, group: list[Target]) -> TandemError | None:
    """Mines some shards and writes what it finds."""
    from workers.mining.mine import Search, mine  # torch

    work = shared.work
    numbers = [target.number for target in group]
    try:
        search: Search = _embedded_search(shared) if index is None else _lexical_search(shared, texts, index)
        mined = mine(numbers, shared.pairs, shared.pool, search, _documents(texts), work.mining)
        for target, found in zip(group, mined, strict=True):
            shard, pairs = work.shards[target.number], shared.pairs[target.number]
            work.sink.write(work.storage, shard, target.out, pairs, found, work.mining.count)
    except TandemError as error:
        return error
    return None


def _embedded_search(shared: Shared) -> Any:
    from workers.embed.parquet_file import read_vectors
    from workers.mining.embedded import EmbeddedSearch, Vectors

    work = shared.work

    def vectors(side: str) -> Vectors:
        folder = work.embeddings(side)
        return lambda number: read_vectors(work.storage, join(folder, file_name(work.shards[number].uri)))

    query, document = work.sides
    return EmbeddedSearch(shared.pairs, shared.pool, work.corpus, vectors(query), vectors(document))


def _lexical_search(shared: Shared, texts: list[Any], index: Any) -> Any:
    import ray

    from workers.mining.lexical import LexicalSearch

    return LexicalSearch(shared.pairs, shared.pool, index, lambda shard: ray.get(texts[shard]).queries)
