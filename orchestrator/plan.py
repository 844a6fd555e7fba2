"""What would run: pure arithmetic on a spec and an index, printable before anything is started."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jobspecs.errors import DataError, UsageError
from jobspecs.job import JobSpec
from workers.data.index import Index
from workers.data.order import Layout, auto_lanes, rows_per_rank
from workers.run import RunPlan

_ID_BYTES = 16
"""Bytes a row in the gather of identities: a hash and the validity, as 64-bit integers."""
_FEATURE_BYTES = 4
"""Features travel in fp32."""


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
    """In one pass over the source, as stored."""
    samples_per_pass: int
    """Of these, how many a pass takes: whole global batches."""
    global_batch: int
    lanes: int
    window: int
    """Samples of a lane that are shuffled among each other."""
    steps_per_pass: int
    total_steps: int
    passes: float

    workers: int
    rows_per_rank: int
    """Rows that each rank computes a step, masked padding included."""
    padding_rows: int
    """Of the rows of all ranks, those that only pad."""
    even_workers: tuple[int, ...]
    """Numbers of workers that need no padding."""
    gathered_bytes_per_step: int
    """Bytes that each rank receives in the collectives of identities, features and log-sum-exps."""
    checkpoint_steps: tuple[int, ...]
    """Steps after which the job commits: the first ones and the last."""
    checkpoints: int
    """Commits in all."""
    evaluations: tuple[str, ...]


def fix(spec: JobSpec, index: Index) -> RunPlan:
    """What a new run of `spec` fixes. Raises DataError when the data are less than one global batch."""
    training = spec.training
    samples = sum(index.samples)
    steps_per_pass = samples // training.global_batch
    if steps_per_pass == 0:
        raise DataError(
            f"training.global_batch {training.global_batch} is larger than the data: source {index.source!r} "
            f"has {samples} samples in {len(index.uris)} shards. Lower the batch to {samples} or less, or "
            "add shards."
        )
    lanes = auto_lanes(training.global_batch) if spec.data.lanes == "auto" else spec.data.lanes
    if training.steps is not None:
        total = training.steps
    elif training.passes is not None:
        total = training.passes * steps_per_pass
    else:
        assert training.samples is not None
        total = math.ceil(training.samples / training.global_batch)
    window = max(1, spec.data.shuffle_window // lanes)
    return RunPlan(
        layout=Layout(spec.seed, training.global_batch, lanes, window),
        steps_per_pass=steps_per_pass,
        total_steps=total,
        spec_hash=spec.experiment_hash(),
        index_fingerprint=index.fingerprint(),
    )


def make(spec: JobSpec, index: Index, fixed: RunPlan, run_directory: str) -> Plan:
    """The whole plan. Raises UsageError when there are more workers than lanes."""
    layout, workers = fixed.layout, spec.cluster.workers
    if workers > layout.lanes:
        raise UsageError(
            f"cluster.workers is {workers}, but the run has {layout.lanes} lanes to share out: a rank "
            f"without a lane has nothing to do. Use at most {layout.lanes} workers, or (for a new run) set "
            f"data.lanes to a larger divisor of training.global_batch {layout.global_batch}."
        )
    rows = rows_per_rank(workers, layout)
    every, total = spec.checkpoint.every_steps, fixed.total_steps
    commits = [*range(every, total, every), total]
    return Plan(
        name=spec.name,
        run_directory=run_directory,
        spec_hash=fixed.spec_hash,
        index_fingerprint=fixed.index_fingerprint,
        shards=len(index.uris),
        shard_bytes=sum(index.sizes),
        samples=sum(index.samples),
        samples_per_pass=fixed.steps_per_pass * layout.global_batch,
        global_batch=layout.global_batch,
        lanes=layout.lanes,
        window=layout.window,
        steps_per_pass=fixed.steps_per_pass,
        total_steps=total,
        passes=total / fixed.steps_per_pass,
        workers=workers,
        rows_per_rank=rows,
        padding_rows=rows * workers - layout.global_batch,
        even_workers=tuple(n for n in range(1, layout.lanes + 1) if layout.lanes % n == 0),
        gathered_bytes_per_step=gathered_bytes(rows, workers, spec.model.embedding_dim),
        checkpoint_steps=tuple(commits if len(commits) <= 5 else [*commits[:4], commits[-1]]),
        checkpoints=len(commits),
        evaluations=tuple(evaluation.name for evaluation in spec.evaluations),
    )


def gathered_bytes(rows: int, workers: int, width: int) -> int:
    """Bytes that a rank receives a step for the loss, with m = `rows` on each of N = `workers` ranks.

    From each of the other N - 1 ranks: its identities (all-gather), its m features (all-gather) and its
    part of the gradient of ours (reduce-scatter), and the validity of its rows. The two all-reduces of
    log-sum-exps over the B = N·m columns take 2·(N - 1)/N · B floats each, as a ring does them.
    """
    others = workers - 1
    features = 2 * others * rows * width * _FEATURE_BYTES
    log_sum_exps = 2 * 2 * others * rows * _FEATURE_BYTES
    return features + log_sum_exps + others * rows * (_ID_BYTES + 1)
