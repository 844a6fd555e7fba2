"""Everything that is checked before anything is started: spec, data, run directory, plan."""

from __future__ import annotations

from dataclasses import dataclass

from jobspecs.data import Source
from jobspecs.diff import differences
from jobspecs.errors import DataError, UsageError
from jobspecs.evaluation import data_of
from jobspecs.identity import Effect
from jobspecs.job import JobSpec
from orchestrator import plan as planning
from orchestrator import tokenizers
from orchestrator.absolute_uris import absolute_uris
from orchestrator.indexing import build_index, kept_index, known_index, read_index
from orchestrator.ledger import Ledger
from orchestrator.scanning import Scanner, scan_with_ray
from workers.data.filters import canonical
from workers.data.find_shards import Folders, find_shards, some
from workers.data.index import Index, fingerprint
from workers.data.tokenize import Tokenizer
from workers.models.sure import sure_to_fit
from workers.run import RunDirectory, RunPlan
from workers.run_inputs import load_spec, load_tokenizers
from workers.storage import Storage, basename, join


@dataclass(frozen=True)
class Prepared:
    """A job that is ready to run: it was found whole, and it fits the run that is there already."""

    spec: JobSpec
    """With absolute URIs: it means the same on every machine of the cluster."""
    storage: Storage
    run: RunDirectory
    indexes: tuple[Index, ...]
    """Of each source."""
    tokenizers: dict[str, Tokenizer]
    """By text column; those that are still to be trained are not in it."""
    fixed: RunPlan
    plan: planning.Plan
    rewritten: tuple[str, ...]
    """Shards that were written again since the run began, with equal size and count: a copy, or changed
    content that nothing else would tell."""


class AnotherExperimentError(UsageError):
    """The run of that name is another experiment."""


def prepare(spec: JobSpec, *, only_plan: bool = False, scanner: Scanner | None = None) -> Prepared:
    """Checks and plans `spec`. Writes nothing, but for an index of tars that had to be read: the next time
    they are not. With `only_plan`, a run of that name that is another experiment is no error: the plan is
    that of a new run. scanner: reads the tars, in place of Ray tasks.

    Raises UsageError: more workers than lanes, another experiment than the run of that name, or towers that can't be;
    DataError: shards that are missing or damaged, a batch larger than the data, data that are not the
    run's any more; StorageError: an endpoint that does not answer, no credentials.
    """
    spec = absolute_uris(spec)
    storage = Storage(spec.storage.s3, read_ahead=spec.data.loader.read_ahead)
    run = RunDirectory(join(spec.storage.root, spec.name))
    fixed = Ledger(storage, run).plan()
    if fixed is not None and fixed.spec_hash != spec.experiment_hash():
        if not only_plan:
            _refuse_another_experiment(spec, storage, run)
        fixed = None
    indexes = _indexes(spec, storage, None if fixed is None else run, scanner or scan_with_ray(storage, spec.cluster))
    if fixed is None:
        found = tokenizers.find(spec.data)
        fixed = planning.fix(spec, indexes)
        rewritten = []
    else:
        found = load_tokenizers(storage, run, spec.data)
        if fingerprint(indexes) != fixed.index_fingerprint:
            _refuse_changed_data(storage, run, indexes)
        rewritten = [
            uri for index in indexes for uri in _rewritten(known_index(storage, run.index(index.source)), index)
        ]
    plan = planning.make(spec, indexes, fixed, run.uri, found)
    # Where a tokenizer is still to be trained, workers look.
    if found.keys() >= spec.data.texts.keys() and not sure_to_fit(spec.model, spec.data):
        from workers.models.build import tower_sizes  # torch, transformers

        tower_sizes(spec.model, spec.data, found)
    prepared = Prepared(spec, storage, run, indexes, found, fixed, plan, tuple(rewritten))
    if spec.job_mining is not None:
        from orchestrator.job_mining import check_mining  # torch

        check_mining(prepared)
    return prepared


def _indexes(spec: JobSpec, storage: Storage, run: RunDirectory | None, scanner: Scanner) -> tuple[Index, ...]:
    """The index of each source, and a look at the evaluations' shards. Raises all faults in one DataError."""
    folders = Folders(storage)
    indexes: list[Index] = []
    faults: list[str] = []
    for source in spec.data.sources:
        try:
            indexes.append(_index(source, spec.storage.root, run, folders, scanner))
        except DataError as error:
            faults.append(str(error))
    faults += _shared(indexes) if len(indexes) > 1 else []
    for evaluation in spec.evaluations:
        for scored in data_of(evaluation).values():
            try:
                find_shards(scored.urls, folders)
            except DataError as error:
                faults.append(f"evaluation {evaluation.name!r}: {error}")
    if faults:
        raise DataError("\n".join(faults))
    return tuple(indexes)


def _index(source: Source, root: str, run: RunDirectory | None, folders: Folders, scanner: Scanner) -> Index:
    """The index of a source; what earlier ones say of its shards is taken from them. Raises DataError."""
    kept = kept_index(source, root)
    # A run that goes on keeps to its own counts.
    earlier = [known_index(folders.storage, run.index(source.name))] if run else []
    if source.index is not None:
        earlier.append(_given_index(source, source.index, folders.storage))
    earlier.append(known_index(folders.storage, kept))
    there = [index for index in earlier if index is not None]
    return build_index(source, folders, scanner, there, keep_at=kept)


def _given_index(source: Source, uri: str, storage: Storage) -> Index:
    """The index that a source names. Raises DataError: it says nothing of the source."""
    given = read_index(storage, uri)
    if given is None:
        raise DataError(
            f"source {source.name!r}: there is no index {uri}. Make it with `tandem index … --out`, or leave it out."
        )
    if given.filters != canonical(source):
        raise DataError(
            f"source {source.name!r}: the index {uri} was made with other filters or none. Leave `index` out: what "
            "the filters keep is found out once, and kept below storage.root."
        )
    return given


def _shared(indexes: list[Index]) -> list[str]:
    """What is wrong with shards that two sources name."""
    owner: dict[str, str] = {}
    twice = []
    for index in indexes:
        for uri in index.uris:
            if owner.setdefault(uri, index.source) != index.source:
                twice.append(f"{uri} ({owner[uri]}, {index.source})")
    if not twice:
        return []
    return [
        f"{len(twice)} shards are in two sources: {some(twice)}. A sample could meet itself in a batch; name each once."
    ]


def _refuse_another_experiment(spec: JobSpec, storage: Storage, run: RunDirectory) -> None:
    before = load_spec(storage, run)
    lines = [
        f"{each} ({each.meaning.why})" for each in differences(before, spec) if each.meaning.effect is Effect.EXPERIMENT
    ]
    lines = lines or ["the fields are equal: the version that wrote it had others"]
    changes = "\n".join(f"    {line}" for line in lines)
    raise AnotherExperimentError(
        f"{run.uri} holds another experiment of this name:\n{changes}\n"
        "Give the job another name, or set these back to go on with that run."
    )


def _refuse_changed_data(storage: Storage, run: RunDirectory, indexes: tuple[Index, ...]) -> None:
    differ: list[str] = []
    for index in indexes:
        before = known_index(storage, run.index(index.source))
        old, new = [] if before is None else _contents(before), _contents(index)
        there, wanted = set(new), set(old)
        differ += [name for name, *_ in sorted({*there - wanted, *wanted - there})]
    names = list(dict.fromkeys(differ))  # one that changed is in both
    what = f"{some(names)} differ" if names else "the order of the shards is another one"
    raise DataError(
        f"the data are not those that the run {run.name!r} was started with: {what}. Bring the old shards and urls "
        "back to go on with it, or give the job another name."
    )


def _contents(index: Index) -> list[tuple[str, int, int, int, bytes]]:
    """What the fingerprint is made of: a shard's file name, size, counts and kept samples, wherever it lies."""
    numbers = zip(index.sizes.tolist(), index.stored.tolist(), index.samples.tolist(), strict=True)
    names = (basename(uri) for uri in index.uris)
    return [(name, *row, index.kept[i].tobytes()) for i, (name, row) in enumerate(zip(names, numbers, strict=True))]


def _rewritten(before: Index | None, index: Index) -> list[str]:
    """Shards with another ETag than when the run was last started."""
    etags = {} if before is None else dict(zip(before.uris, before.etags, strict=True))
    return [uri for uri, etag in zip(index.uris, index.etags, strict=True) if etags.get(uri, etag) != etag]
