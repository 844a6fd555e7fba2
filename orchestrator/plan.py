"""What would run: pure arithmetic on a spec and an index, printable before anything is started."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from jobspecs.errors import DataError, UsageError
from jobspecs.job import JobSpec
from orchestrator import elastic
from workers.data.index import Index, fingerprint
from workers.data.memory import LoaderMemory, loader_memory
from workers.data.order import Layout, SourceOrder, auto_lanes, rows_per_rank, share_out
from workers.data.tokenize import Tokenizer
from workers.mining.versions import eras
from workers.objectives import Contrast, contrast_of
from workers.run import RunPlan
from workers.wire import Wire


@dataclass(frozen=True)
class SourcePlan:
    """What the plan says of one source."""

    name: str
    shards: int
    samples: int
    slots: int
    """Samples of it in every global batch."""
    steps_per_pass: int
    passes: float


@dataclass(frozen=True)
class MiningPlan:
    """When a job mines negatives for itself."""

    before_training: str | None
    """What mines before the first step; None where nothing does."""
    every_steps: int | None
    """After how many steps the newest checkpoint mines, again and again; None: never."""
    versions: int
    """Of negatives, in all."""
    steps: tuple[int, ...]
    """Steps that are done where they begin: of the first ones and of the last."""
    mined: int
    """Negatives a sample, at most,"""
    in_batch: int
    """and how many of them go with it in a pass."""


@dataclass(frozen=True)
class Plan:
    """The plan of a run on a cluster. The first part is fixed for the run, the second follows from the
    number of workers. Its JSON is that of `tandem plan -o json`."""

    name: str
    run_directory: str
    spec_hash: str
    index_fingerprint: str
    shards: int
    shard_bytes: int
    samples: int
    """In all sources, those that their filters keep."""
    samples_per_pass: int
    """Rows of the whole global batches that make up a pass."""
    filtered: int
    """Samples that the filters leave out."""
    sources: tuple[SourcePlan, ...]
    global_batch: int
    lanes: int
    window: int
    """Samples of a lane that are shuffled among each other."""
    steps_per_pass: int
    """Of the source whose pass takes longest; `passes` counts that one's."""
    total_steps: int
    passes: float

    workers: int
    """Of an elastic job, the most that it runs on; the next fields are those of so many."""
    rows_per_rank: int
    """Rows that each rank computes a step, masked padding included."""
    padding_rows: int
    """Of the rows of all ranks, those that only pad."""
    even_workers: tuple[int, ...]
    """Numbers of workers that need no padding."""
    useful_workers: tuple[int, ...]
    """Numbers of workers of which one less makes a step slower."""
    possible_workers: tuple[int, ...]
    """Numbers of workers that the job may run on, as the spec has it."""
    loader_memory: LoaderMemory
    """Of the loader processes of each rank, at most: on the fewest workers."""
    gathered_bytes_per_step: int
    """Bytes that each rank receives a step for the loss: identities, features and their gradients, sums."""
    checkpoint_steps: tuple[int, ...]
    """Steps after which the job commits: the first ones and the last."""
    checkpoints: int
    """Commits in all."""
    evaluations: tuple[str, ...]
    mining: MiningPlan | None
    """None for a job that mines nothing itself."""


def fix(spec: JobSpec, indexes: tuple[Index, ...]) -> RunPlan:
    """What a new run of `spec` fixes. Raises DataError when a source has less than its share of one batch, or
    its share is less than one sample."""
    training = spec.training
    slots = share_out(training.global_batch, _weights(spec, indexes))
    lanes = auto_lanes(training.global_batch) if spec.data.lanes == "auto" else spec.data.lanes
    layout = Layout(
        seed=spec.seed,
        global_batch=training.global_batch,
        lanes=lanes,
        window=max(1, _shuffle_window(spec) // lanes),
        slots=slots,
    )
    for index, share in zip(indexes, slots, strict=True):
        _check_share(index, share, layout)
    if training.steps is not None:
        total = training.steps
    elif training.passes is not None:
        total = training.passes * max(order.steps_per_pass for order in _orders(indexes, layout))
    else:
        assert training.samples is not None
        total = math.ceil(training.samples / training.global_batch)
    return RunPlan(
        layout=layout,
        total_steps=total,
        spec_hash=spec.experiment_hash(),
        index_fingerprint=fingerprint(indexes),
    )


def _shuffle_window(spec: JobSpec) -> int:
    window = spec.data.shuffle_window
    return max(16_384, 8 * spec.training.global_batch) if window == "auto" else window


def _weights(spec: JobSpec, indexes: tuple[Index, ...]) -> list[float]:
    weights = [source.weight for source in spec.data.sources]
    return [
        float(index.samples.sum()) if weight is None else weight for weight, index in zip(weights, indexes, strict=True)
    ]


def _check_share(index: Index, slots: int, layout: Layout) -> None:
    samples = int(index.samples.sum())
    if slots == 0:
        raise DataError(
            f"source {index.source!r} has too small a share: less than one of the {layout.global_batch} samples of a "
            "global batch. Give it a larger weight, or leave it out."
        )
    if samples < slots:
        share = "" if slots == layout.global_batch else f", of which it has {slots} samples,"
        raise DataError(
            f"training.global_batch {layout.global_batch}{share} is larger than the data: source {index.source!r} "
            f"has {samples} samples in {len(index)} shards. Lower the batch to {samples * layout.global_batch // slots}"
            " or less, or add shards."
        )


def _orders(indexes: tuple[Index, ...], layout: Layout) -> list[SourceOrder]:
    return [SourceOrder(index.source, index.samples, layout, number) for number, index in enumerate(indexes)]


def make(
    spec: JobSpec,
    indexes: tuple[Index, ...],
    fixed: RunPlan,
    run_directory: str,
    tokenizers: Mapping[str, Tokenizer] = MappingProxyType({}),
) -> Plan:
    """The whole plan; `tokenizers` are those that there are already.

    Raises UsageError: more workers than lanes, or mining that never comes.
    """
    layout, fewest = fixed.layout, spec.cluster.min_workers
    if fewest > layout.lanes:
        or_more = "" if spec.cluster.max_workers == fewest else " or more"
        raise UsageError(
            f"cluster.workers is {fewest}{or_more}, but the run has {layout.lanes} lanes to share out: a rank "
            f"without a lane has nothing to do. Use at most {layout.lanes} workers, or (for a new run) set "
            f"data.lanes to a larger divisor of training.global_batch {layout.global_batch}."
        )
    sizes = elastic.sizes(layout.lanes, spec.cluster)
    workers = sizes[-1]
    rows = rows_per_rank(workers, layout)
    every, total = spec.checkpoint.every_steps, fixed.total_steps
    mined_at = {era.end for era in eras(spec.job_mining, total)}
    commits = sorted({*(() if every is None else range(every, total, every)), *mined_at, total})
    orders = _orders(indexes, layout)
    steps_per_pass = max(order.steps_per_pass for order in orders)
    mined = 0 if spec.job_mining is None else spec.job_mining.count
    return Plan(
        name=spec.name,
        run_directory=run_directory,
        spec_hash=fixed.spec_hash,
        index_fingerprint=fixed.index_fingerprint,
        shards=sum(map(len, indexes)),
        shard_bytes=sum(int(index.sizes.sum()) for index in indexes),
        samples=sum(order.samples for order in orders),
        samples_per_pass=steps_per_pass * layout.global_batch,
        filtered=sum(int(index.stored.sum() - index.samples.sum()) for index in indexes),
        sources=tuple(
            SourcePlan(
                name=order.name,
                shards=len(index),
                samples=order.samples,
                slots=slots,
                steps_per_pass=order.steps_per_pass,
                passes=total / order.steps_per_pass,
            )
            for index, order, slots in zip(indexes, orders, layout.slots, strict=True)
        ),
        global_batch=layout.global_batch,
        lanes=layout.lanes,
        window=layout.window,
        steps_per_pass=steps_per_pass,
        total_steps=total,
        passes=total / steps_per_pass,
        workers=workers,
        rows_per_rank=rows,
        padding_rows=rows * workers - layout.global_batch,
        even_workers=tuple(n for n in range(1, layout.lanes + 1) if layout.lanes % n == 0),
        useful_workers=elastic.useful_sizes(layout.lanes),
        possible_workers=sizes,
        loader_memory=loader_memory(spec.data, indexes, tokenizers, layout, sizes[0], mined),
        gathered_bytes_per_step=Wire(contrast_in(spec), workers, rows, spec.model.embedding_dim).total,
        checkpoint_steps=_some(commits),
        checkpoints=len(commits),
        evaluations=tuple(evaluation.name for evaluation in spec.evaluations),
        mining=_mining(spec, total),
    )


def _some(steps: list[int]) -> tuple[int, ...]:
    """The first ones and the last."""
    return tuple(steps if len(steps) <= 5 else [*steps[:4], steps[-1]])


def _mining(spec: JobSpec, total_steps: int) -> MiningPlan | None:
    """Raises UsageError: the job would end before it mines."""
    mining, negatives = spec.job_mining, spec.data.negatives
    if mining is None:
        return None
    assert negatives is not None  # the spec's own rule
    if mining.every_steps is not None and mining.every_steps >= total_steps:
        raise UsageError(
            f"mining.every_steps is {mining.every_steps}, and the job has {total_steps} steps: it would never mine "
            "again. Lower it, or leave it out."
        )
    versions = [era for era in eras(mining, total_steps) if era.version]
    return MiningPlan(
        before_training=mining.model if mining.before_training else None,
        every_steps=mining.every_steps,
        versions=len(versions),
        steps=_some([era.start for era in versions]),
        mined=mining.count,
        in_batch=negatives.count,
    )


def contrast_in(spec: JobSpec) -> Contrast:
    """The contrast of a spec, by what it says of frozen towers."""

    def trained(side: str) -> bool:
        tower = spec.model.tower_of(side)
        return tower is not None and not spec.model.towers()[tower].frozen

    return contrast_of(spec.objective, spec.data, trained)
