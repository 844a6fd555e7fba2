"""`tandem mine`: tars with hard negatives, by Ray tasks.

    <out>/<source>/00000.tar, 00000_stats.json     a copy of each shard of the spec's data, with its negatives
    <out>/_plan.json                               what is mined and how, written first
    <out>/_embeddings/<side>/                      vectors, as `tandem embed` writes them; gone in the end
    <out>/_manifest.json                           what was mined, written last

A shard that was mined is not mined again: a call that broke off is gone on with by calling again. What another model,
other settings or other data made is never mixed with: the call is refused before it starts.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from jobspecs.data import Source
from jobspecs.errors import AlreadyExistsError, DataError, NotFoundError, TandemError, UsageError
from jobspecs.job import JobSpec
from jobspecs.mining import BM25, SIDES, Mining
from jobspecs.storage import S3
from orchestrator.embedding import embed_with_ray, file_name, settings_of, work_on
from orchestrator.find_checkpoint import FoundCheckpoint, find_checkpoint
from orchestrator.prepare import absolute_uris
from orchestrator.ray_tasks import answers
from workers.data.find_shards import REQUESTS_AT_A_TIME, Folders, find_shards, stem
from workers.data.keyed import hash64
from workers.embed.settings import Settings
from workers.mining.pairs import Pairs, Texts, read_pairs
from workers.mining.pool import Pool
from workers.storage import ObjectInfo, Storage, basename, join

if TYPE_CHECKING:
    from workers.mining.write import Record

FORMAT = "tandem-mining/1"
QUERIES_AT_A_TIME = 16_384
"""Queries of a mining task, at most (but a shard at least): it reads all candidates once, and the search takes 5 KB a
query."""


@dataclass(frozen=True)
class Target:
    """A shard to be mined."""

    number: int
    """Of the shard in `MiningWork.shards`."""
    out: str
    """URI of the new tar."""


@dataclass(frozen=True)
class Model:
    """What embeds: not with BM25."""

    found: FoundCheckpoint
    """With the columns of the spec that is mined for, and its cluster and storage."""
    settings: dict[str, Settings]
    """By side."""


@dataclass(frozen=True)
class MiningWork:
    """What there is to do, and what is done."""

    spec: JobSpec
    mining: Mining
    model: Model | None
    """None for BM25."""
    storage: Storage
    out: str
    """URI of the folder."""
    shards: list[ObjectInfo]
    """The first `corpus` hold the candidates; then those of the data that are not among them."""
    corpus: int
    sources: list[Source | None]
    """Of each shard, None of one that is no part of the data."""
    targets: list[Target]
    """The shards of the data."""
    plan: dict[str, Any]
    """What is mined and how: the JSON of `_plan.json`."""
    done: list[str]
    """Tars that earlier calls wrote."""

    @property
    def sides(self) -> tuple[str, str]:
        """Of the query and of the document."""
        return SIDES[self.spec.objective.kind]

    @property
    def column(self) -> str:
        """That of the negatives."""
        negatives = self.spec.data.negatives
        return "negatives.json" if negatives is None else negatives.column

    def embeddings(self, side: str) -> str:
        """URI of the folder of the vectors of a side."""
        return join(self.out, "_embeddings", side)


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


def find_mining(spec: JobSpec, out: str) -> MiningWork:
    """Looks at the model, at the shards of data and corpus, and at what is in the folder at the URI `out`.

    Raises UsageError: a spec without `mining`, a model that does not fit, a folder of other settings; DataError: shards
    that are missing; CheckpointError, StorageError.
    """
    mining = spec.mining
    if mining is None:
        raise UsageError(
            f"the spec of {spec.name} has no section `mining`. Add it (`mining: {{}}` takes all defaults), or name a "
            "model with --model"
        )
    spec = absolute_uris(spec)
    mining = spec.mining or mining
    storage = Storage(spec.storage.s3, read_ahead=spec.data.loader.read_ahead)
    folders = Folders(storage)
    of_source = [(source, find_shards(source.urls, folders)) for source in spec.data.sources]
    source_of = {shard.uri: source for source, shards in of_source for shard in shards}
    data = [shard for _, shards in of_source for shard in shards]
    corpus = data if mining.corpus is None else find_shards(mining.corpus, folders)
    in_corpus = {shard.uri for shard in corpus}
    shards = [*corpus, *(shard for shard in data if shard.uri not in in_corpus)]
    numbers = {shard.uri: number for number, shard in enumerate(shards)}
    targets = [
        Target(numbers[uri], new)
        for source, found in of_source
        for uri, new in _names(join(out, source.name), [shard.uri for shard in found]).items()
    ]
    for target in targets:
        if target.out in source_of or target.out in in_corpus:
            raise UsageError(f"--out {out}: the new tars would replace those that they are made of. Name another one")
    model = None if mining.model == BM25 else _model(spec, mining, storage)
    work = MiningWork(
        spec=spec,
        mining=mining,
        model=model,
        storage=storage,
        out=out,
        shards=shards,
        corpus=len(corpus),
        sources=[source_of.get(shard.uri) for shard in shards],
        targets=targets,
        plan={},
        done=[],
    )
    work = replace(work, plan=_plan(work))
    _refuse_another_plan(work)
    there = {info.uri for info in storage.list(out)}
    # The count beside a tar is written last.
    return replace(work, done=[each.out for each in targets if f"{stem(each.out)}_stats.json" in there])


def _names(folder: str, uris: list[str]) -> dict[str, str]:
    """URIs of the new tars by those of the old; shards of different folders may have the same names."""
    names = Counter(basename(stem(uri)) for uri in uris)
    return {
        uri: join(folder, f"{name}.tar" if names[name] == 1 else f"{name}-{hash64(uri) % 2**64:016x}.tar")
        for uri in uris
        for name in [basename(stem(uri))]
    }


def _model(spec: JobSpec, mining: Mining, storage: Storage) -> Model:
    """Raises UsageError, CheckpointError, StorageError."""
    s3 = None if spec.storage.s3 == S3() else spec.storage.s3
    found = find_checkpoint(mining.model or join(spec.storage.root, spec.name), s3, spec.storage.root)
    theirs, ours = found.spec.data, spec.data
    sides = SIDES[spec.objective.kind]
    if any(getattr(theirs, side) is None for side in sides):
        encodes = " and ".join(side for side in ("image", *theirs.texts) if getattr(theirs, side) is not None)
        raise UsageError(
            f"mining.model {mining.model}: the model of {found.run.uri} encodes {encodes}, and mining for "
            f"{spec.objective.kind} needs {' and '.join(sides)}. Name another one"
        )
    settings = {side: settings_of(found, side, "float32", ()) for side in sides}
    # What it reads are our columns; how it reads them (size, prefix, context length) it has learned with its own.
    places = {
        side: getattr(theirs, side).model_copy(
            update={name: getattr(getattr(ours, side), name) for name in _PLACE if hasattr(getattr(ours, side), name)}
        )
        for side in sides
    }
    reading = found.spec.model_copy(update={"data": theirs.model_copy(update=places), "cluster": spec.cluster})
    return Model(replace(found, spec=reading, storage=storage), settings)


_PLACE = ("column", "field")
"""Where in a sample a side stands."""


def _plan(work: MiningWork) -> dict[str, Any]:
    """What is mined and how."""
    spec, model = work.spec, work.model
    query, document = work.sides
    section = work.mining.model_dump(mode="json", exclude={"model", "corpus"})
    hashed = hashlib.sha256()
    for number, shard in enumerate(work.shards):
        hashed.update(f"{number < work.corpus} {shard.uri} {shard.size} {shard.etag}\n".encode())
    filters = {source.name: [each.model_dump(mode="json") for each in source.filters] for source in spec.data.sources}
    columns = {side: getattr(spec.data, side).model_dump(mode="json", include={*_PLACE}) for side in (query, document)}
    return {
        "format": FORMAT,
        "model": BM25 if model is None else model.settings[query].model,
        "checkpoint": None if model is None else model.found.uri,
        "step": None if model is None else model.found.manifest.step,
        "query": query,
        "negatives": document,
        "columns": {**columns, "negatives": work.column},
        "settings": section,
        "filters": filters,
        "corpus_shards": work.corpus,
        "shards": [shard.uri for shard in work.shards],
        "shards_sha256": hashed.hexdigest(),
    }


def _refuse_another_plan(work: MiningWork) -> None:
    """Raises UsageError: what is in the folder was made by another plan."""
    uri = join(work.out, "_plan.json")
    try:
        there = json.loads(work.storage.read(uri))
    except NotFoundError:
        return
    except ValueError:
        there = None
    if not isinstance(there, dict) or there.get("format") != FORMAT:
        raise UsageError(f"{uri} is none of this version of Tandem. Name another --out, or delete the folder")
    # Where the checkpoint lies does not matter, and of shards the hash says more.
    differ = [
        name
        for name in work.plan
        if name not in ("checkpoint", "step", "shards") and there.get(name) != work.plan[name]
    ]
    if differ:
        told = "; ".join(f"{name} {json.dumps(there.get(name))} -> {json.dumps(work.plan[name])}" for name in differ)
        raise UsageError(
            f"{work.out} holds what was mined otherwise ({told}). Name another --out, or delete the folder"
        )


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
            _refuse_another_plan(work)
        _mine_all(work, left, workers)
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


def _mine_all(work: MiningWork, targets: list[Target], workers: int | None) -> None:
    from orchestrator.ray_cluster import start_ray

    start_ray(work.spec.cluster)
    import ray

    remedy = f"What is done is kept in {work.out}: call again to go on"
    pairs, texts = _read_all(work, workers, remedy)
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
            embed_with_ray(work.model.found, work_on(work.storage, shards, work.embeddings(side), settings), workers)
    shared = ray.put(Shared(work, pairs, pool))
    index = None if work.model is not None else ray.remote(_index).remote(shared, texts)
    cluster = work.spec.cluster
    task = ray.remote(num_cpus=cluster.cpus_per_worker)(_mine).options(name=f"tandem:mine:{work.spec.name}")
    groups = list(_groups(targets, pairs, workers or cluster.max_workers))

    def start(group: list[Target]) -> Any:
        return task.remote(shared, texts, index, group)

    for _ in answers(start, groups, len(groups), "mining", "groups of shards", remedy, workers):
        pass


def _read_all(work: MiningWork, workers: int | None, remedy: str) -> tuple[list[Pairs], list[Any]]:
    """The pairs of all shards, and references of their texts, which stay in Ray's memory."""
    import ray

    task = ray.remote(num_cpus=1, num_returns=2)(_read).options(name=f"tandem:mine:{work.spec.name}")
    texts: dict[int, Any] = {}

    def start(number: int) -> Any:
        reference, texts[number] = task.remote(work, number)
        return reference

    numbers = range(len(work.shards))
    found = dict(answers(start, numbers, len(numbers), "reading", "shards", remedy, workers))
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
    """Mines some shards and writes their tars."""
    from workers.mining.mine import Search, mine  # torch
    from workers.mining.write import write_tar

    work = shared.work
    numbers = [target.number for target in group]
    try:
        search: Search = _embedded_search(shared) if index is None else _lexical_search(shared, texts, index)
        mined = mine(numbers, shared.pairs, shared.pool, search, _documents(texts), work.mining)
        for target, found in zip(group, mined, strict=True):
            shard, pairs = work.shards[target.number], shared.pairs[target.number]
            write_tar(work.storage, shard, target.out, work.column, pairs, found, work.mining.count)
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
