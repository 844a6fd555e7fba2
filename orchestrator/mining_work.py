"""What `tandem mine` has to do: the shards, the model, the new tars, and what earlier calls did of it.

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
from jobspecs.storage import S3
from orchestrator.embedding import settings_of
from orchestrator.find_checkpoint import FoundCheckpoint, find_checkpoint
from orchestrator.prepare import absolute_uris
from workers.data.find_shards import Folders, find_shards, stem
from workers.data.keyed import hash64
from workers.embed.settings import Settings
from workers.storage import ObjectInfo, Storage, basename, join

FORMAT = "tandem-mining/1"


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
    refuse_another_plan(work)
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
