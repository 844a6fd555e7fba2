"""Everything that is checked before anything is started: spec, data, run directory, plan."""

from __future__ import annotations

from dataclasses import dataclass

from jobspecs.data import EvaluationData
from jobspecs.errors import DataError, UsageError
from jobspecs.job import JobSpec, changed_fields
from jobspecs.load import loads
from orchestrator import plan as planning
from orchestrator.indexing import build_index, scan_with_ray
from orchestrator.ledger import Ledger
from workers.data.index import Index, expand, stat_shards
from workers.run import RunDirectory, RunPlan
from workers.storage import Storage, absolute, join


@dataclass(frozen=True)
class Prepared:
    """A job that is ready to run: it was found whole, and it fits the run that is there already."""

    spec: JobSpec
    """With absolute URIs: it means the same on every machine of the cluster."""
    storage: Storage
    run: RunDirectory
    index: Index
    fixed: RunPlan
    plan: planning.Plan
    rewritten: tuple[str, ...]
    """Shards that were written again since the run began, with equal size and count: a copy, or changed
    content that nothing else would tell."""


def prepare(spec: JobSpec, *, only_plan: bool = False) -> Prepared:
    """Checks and plans `spec`. Writes nothing. With `only_plan`, a run of that name that is another
    experiment is no error: the plan is that of a new run.

    Raises UsageError: more workers than lanes, or another experiment than the run of that name;
    DataError: shards that are missing or damaged, a batch larger than the data, data that are not the
    run's any more; StorageError: an endpoint that does not answer, no credentials.
    """
    spec = absolute_uris(spec)
    storage = Storage(spec.storage.s3)
    run = RunDirectory(join(spec.storage.root, spec.name))
    fixed = Ledger(storage, run).plan()
    if fixed is not None and fixed.spec_hash != spec.experiment_hash():
        if not only_plan:
            _refuse_another_experiment(spec, storage, run)
        fixed = None
    index = build_index(spec.data.sources[0], storage, scan_with_ray(storage, spec.cluster))
    for evaluation in spec.evaluations:
        stat_shards(expand(evaluation.data.urls, storage), storage)
    if fixed is None:
        fixed = planning.fix(spec, index)
        before = index
    else:
        before = Index.from_json(storage.read(run.index(index.source)))
        if index.fingerprint() != fixed.index_fingerprint:
            _refuse_changed_data(run, before, index)
    etags = dict(zip(before.uris, before.etags, strict=True))
    rewritten = tuple(uri for uri, etag in zip(index.uris, index.etags, strict=True) if etags.get(uri, etag) != etag)
    plan = planning.make(spec, index, fixed, run.uri)
    return Prepared(spec, storage, run, index, fixed, plan, rewritten)


def absolute_uris(spec: JobSpec) -> JobSpec:
    """`spec` with every path below the current folder written as a `file://` URI."""
    sources = [source.model_copy(update={"urls": list(map(absolute, source.urls))}) for source in spec.data.sources]
    evaluations = [
        evaluation.model_copy(update={"data": EvaluationData(urls=list(map(absolute, evaluation.data.urls)))})
        for evaluation in spec.evaluations
    ]
    return spec.model_copy(
        update={
            "data": spec.data.model_copy(update={"sources": sources}),
            "evaluations": evaluations,
            "storage": spec.storage.model_copy(update={"root": absolute(spec.storage.root)}),
        }
    )


def _refuse_another_experiment(spec: JobSpec, storage: Storage, run: RunDirectory) -> None:
    before = loads(storage.read(run.spec).decode(), run.spec)
    lines = changed_fields(before, spec) or ["the fields are equal: the version that wrote it had others"]
    changes = "\n".join(f"    {line}" for line in lines)
    raise UsageError(
        f"{run.uri} holds another experiment of this name:\n{changes}\n"
        "Give the job another name, or set these back to go on with that run."
    )


def _refuse_changed_data(run: RunDirectory, before: Index, index: Index) -> None:
    old = dict(zip(before.uris, zip(before.sizes, before.samples, strict=True), strict=True))
    new = dict(zip(index.uris, zip(index.sizes, index.samples, strict=True), strict=True))
    changed = sorted(uri for uri in old.keys() | new.keys() if old.get(uri) != new.get(uri))
    some = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
    raise DataError(
        f"the data of source {index.source!r} are not those that the run {run.name!r} was started with: "
        f"{some} differ. Bring the old shards back to go on with it, or give the job another name."
    )
