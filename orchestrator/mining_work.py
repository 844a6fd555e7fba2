"""What is to be mined: the shards, the model, where the negatives go; of `tandem mine` also what earlier calls did.

What another model, other settings or other data made is never mixed with: the call is refused before it starts.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from jobspecs.data import Source
from jobspecs.errors import NotFoundError, UsageError
from jobspecs.job import JobSpec
from jobspecs.mining import BM25, SIDES, Mining
from orchestrator.absolute_uris import absolute_uris
from orchestrator.mining_model import PLACE, Model, named_model
from workers.data.find_shards import Folders, find_shards, stem
from workers.data.keyed import hash64
from workers.mining.mine import Sink
from workers.mining.write import Tars
from workers.storage import ObjectInfo, Storage, basename, join

FORMAT = "tandem-mining/1"


@dataclass(frozen=True)
class Target:
    """A shard to be mined."""

    number: int
    """Of the shard in `MiningWork.shards`."""
    out: str
    """URI of the new tar, or of whatever the sink writes."""


@dataclass(frozen=True)
class Shards:
    """What is mined for, and what negatives come from."""

    there: list[ObjectInfo]
    """The first `corpus` hold the candidates; then those of the data that are not among them."""
    corpus: int
    sources: list[Source | None]
    """Of each shard, None of one that is no part of the data."""

    @classmethod
    def of(cls, data: list[tuple[Source, list[ObjectInfo]]], corpus: list[ObjectInfo] | None) -> Shards:
        """data: the shards of each source. corpus: None takes those."""
        source_of = {shard.uri: source for source, shards in data for shard in shards}
        of_data = [shard for _, shards in data for shard in shards]
        first = of_data if corpus is None else corpus
        in_corpus = {shard.uri for shard in first}
        there = [*first, *(shard for shard in of_data if shard.uri not in in_corpus)]
        return cls(there, len(first), [source_of.get(shard.uri) for shard in there])

    @property
    def numbers(self) -> dict[str, int]:
        """By URI."""
        return {shard.uri: number for number, shard in enumerate(self.there)}


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
    sink: Sink
    """What writes a target's negatives."""
    plan: dict[str, Any]
    """What is mined and how: the JSON of `_plan.json`."""
    done: list[str]
    """Of the targets, what earlier calls wrote."""

    @property
    def sides(self) -> tuple[str, str]:
        """Of the query and of the document."""
        return SIDES[self.spec.objective.kind]

    def embeddings(self, side: str) -> str:
        """URI of the folder of the vectors of a side: what a go by another model left there is in none's way."""
        return join(self.out, "_embeddings", plan_hash(self), side)


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
    shards = Shards.of(of_source, None if mining.corpus is None else find_shards(mining.corpus, folders))
    numbers = shards.numbers
    targets = [
        Target(numbers[uri], new)
        for source, found in of_source
        for uri, new in _names(join(out, source.name), [shard.uri for shard in found]).items()
    ]
    for target in targets:
        if target.out in numbers:
            raise UsageError(f"--out {out}: the new tars would replace those that they are made of. Name another one")
    sink = Tars(_column(spec))
    work = work_of(spec, mining, named_model(spec, mining, storage), storage, out, shards, targets, sink)
    refuse_another_plan(work)
    there = {info.uri for info in storage.list(out)}
    # The count beside a tar is written last.
    return replace(work, done=[each.out for each in targets if f"{stem(each.out)}_stats.json" in there])


def work_of(
    spec: JobSpec,
    mining: Mining,
    model: Model | None,
    storage: Storage,
    out: str,
    shards: Shards,
    targets: list[Target],
    sink: Sink,
) -> MiningWork:
    """With its plan, and nothing done."""
    work = MiningWork(
        spec=spec,
        mining=mining,
        model=model,
        storage=storage,
        out=out,
        shards=shards.there,
        corpus=shards.corpus,
        sources=shards.sources,
        targets=targets,
        sink=sink,
        plan={},
        done=[],
    )
    return replace(work, plan=_plan(work))


def _names(folder: str, uris: list[str]) -> dict[str, str]:
    """URIs of the new tars by those of the old; shards of different folders may have the same names."""
    names = Counter(basename(stem(uri)) for uri in uris)
    return {
        uri: join(folder, f"{name}.tar" if names[name] == 1 else f"{name}-{hash64(uri) % 2**64:016x}.tar")
        for uri in uris
        for name in [basename(stem(uri))]
    }


def _column(spec: JobSpec) -> str:
    """That of the negatives."""
    negatives = spec.data.negatives
    return "negatives.json" if negatives is None else negatives.column


def _plan(work: MiningWork) -> dict[str, Any]:
    """What is mined and how."""
    spec, model = work.spec, work.model
    query, document = work.sides
    section = work.mining.model_dump(mode="json", exclude={"model", "corpus", "before_training", "every_steps"})
    hashed = hashlib.sha256()
    for number, shard in enumerate(work.shards):
        hashed.update(f"{number < work.corpus} {shard.uri} {shard.size} {shard.etag}\n".encode())
    filters = {source.name: [each.model_dump(mode="json") for each in source.filters] for source in spec.data.sources}
    columns = {side: getattr(spec.data, side).model_dump(mode="json", include={*PLACE}) for side in (query, document)}
    return {
        "format": FORMAT,
        "model": BM25 if model is None else model.settings[query].model,
        "checkpoint": None if model is None else model.found.uri,
        "step": None if model is None else model.found.manifest.step,
        "query": query,
        "negatives": document,
        "columns": {**columns, "negatives": _column(spec)},
        "settings": section,
        "filters": filters,
        "corpus_shards": work.corpus,
        "shards": [shard.uri for shard in work.shards],
        "shards_sha256": hashed.hexdigest(),
    }


_NOT_THE_PLAN = ("checkpoint", "step", "shards")
"""Where the checkpoint lies does not matter, and of shards the hash says more."""


def plan_hash(work: MiningWork) -> str:
    """12 hex digits that tell what is mined and how."""
    plan = {name: value for name, value in work.plan.items() if name not in _NOT_THE_PLAN}
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:12]


def refuse_another_plan(work: MiningWork) -> None:
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
    differ = [name for name in work.plan if name not in _NOT_THE_PLAN and there.get(name) != work.plan[name]]
    if differ:
        told = "; ".join(f"{name} {json.dumps(there.get(name))} -> {json.dumps(work.plan[name])}" for name in differ)
        raise UsageError(
            f"{work.out} holds what was mined otherwise ({told}). Name another --out, or delete the folder"
        )
