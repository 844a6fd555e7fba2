"""The training loop of one rank: loader -> encode -> gather -> loss -> step -> record -> checkpoint.

Called on every rank of an initialised process group, by Ray Train's workers and by torchrun alike
(`python -m workers.train`). What it needs to go on from anywhere is in `TrainTask`.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist

from jobspecs.errors import DataError, TandemError
from jobspecs.job import JobSpec
from workers.data.loader import Loader, RankBatch
from workers.data.order import rows_per_rank
from workers.data.shards import FAULTS
from workers.losses.gather import all_reduce_sum, global_mean
from workers.losses.infonce import infonce
from workers.models.build import build
from workers.run import RunDirectory, RunPlan
from workers.run_inputs import load_indexes, load_tokenizers
from workers.storage import Storage
from workers.train import checkpoint
from workers.train.batch import gather_batch
from workers.train.engine import Engine
from workers.train.record import Recorder, StepMetrics
from workers.train.schedule import learning_rate
from workers.train.stop import StopWatch


class DivergedError(TandemError):
    """The loss is no number any more."""


@dataclass(frozen=True)
class TrainTask:
    """One attempt's work, the same on all ranks."""

    spec: JobSpec
    plan: RunPlan
    run: RunDirectory
    attempt: int
    """From 1."""
    resume_from: str | None
    """URI of the checkpoint to go on from; None starts from the first weights."""


@dataclass(frozen=True)
class Outcome:
    """How an attempt that did not fail ended."""

    step: int
    """Optimizer steps done; they are committed."""


def train(task: TrainTask) -> Outcome:
    """Trains to the last step, or to the next one after a request to stop, and commits it.

    Raises DataError (too many samples could not be used), StorageError, CheckpointError, DivergedError.
    """
    spec, plan, run = task.spec, task.plan, task.run
    rank, world_size = dist.get_rank(), dist.get_world_size()
    device = torch.device("cuda", torch.cuda.current_device()) if spec.cluster.gpus_per_worker else torch.device("cpu")
    storage = Storage(spec.storage.s3)
    start = 0 if task.resume_from is None else checkpoint.read_manifest(storage, task.resume_from).step
    tokenizers = load_tokenizers(storage, run, spec.data)
    loader = Loader(
        load_indexes(storage, run, spec.data),
        plan.layout,
        spec.data,
        tokenizers,
        spec.storage.s3,
        rank=rank,
        world_size=world_size,
        first_step=start,
        last_step=plan.total_steps,
    )
    watch = StopWatch(storage, run.stop)
    # One rank looks; the others learn of it with the batch.
    with loader, watch if rank == 0 else contextlib.nullcontext():
        model = build(spec.model, spec.data, spec.objective, spec.seed, tokenizers)
        engine = Engine(model, spec.training, rows_per_rank(world_size, plan.layout), device)
        masked = 0 if task.resume_from is None else checkpoint.load(storage, task.resume_from, engine).masked_samples
        recorder = Recorder(storage, run, task.attempt, rank)
        step = start
        for wait_seconds, batch in _timed(loader):
            began = time.monotonic()
            seen = gather_batch(batch.rows, plan.layout, device, stop=watch.requested)
            masked += seen.masked
            rate = learning_rate(step, plan.total_steps, spec.training)
            loss, scale, grad_norm = _update(engine, batch, rate, device)
            step += 1
            seconds = wait_seconds + time.monotonic() - began
            metrics = StepMetrics(
                step=step,
                loss=loss,
                logit_scale=scale,
                learning_rate=rate,
                grad_norm=grad_norm,
                samples=step * plan.layout.global_batch,
                masked=seen.masked,
                samples_per_second=plan.layout.global_batch / seconds,
                data_wait_fraction=wait_seconds / seconds,
                batch_digest=seen.digest,
                world_size=world_size,
                attempt=task.attempt,
                time=time.time(),
            )
            recorder.step(metrics, batch.bad)
            _check(metrics, masked, spec.data.max_bad_fraction, recorder, plan, device)
            last = step == plan.total_steps or seen.stop
            if last or step % spec.checkpoint.every_steps == 0:
                recorder.flush()
                checkpoint.save(
                    storage,
                    run.checkpoint(step),
                    engine,
                    step=step,
                    spec_hash=plan.spec_hash,
                    index_fingerprint=plan.index_fingerprint,
                    masked_samples=masked,
                    attempt=task.attempt,
                )
            if last:
                break
    return Outcome(step)


def _timed(batches: Iterable[RankBatch]) -> Iterator[tuple[float, RankBatch]]:
    """Each batch with the seconds that it was waited for."""
    iterator = iter(batches)
    while True:
        began = time.monotonic()
        try:
            batch = next(iterator)
        except StopIteration:
            return
        yield time.monotonic() - began, batch


def _update(engine: Engine, batch: RankBatch, rate: float, device: torch.device) -> tuple[float, float, float]:
    """One optimizer step. Returns the loss of the global batch, the logit scale and the gradient's norm."""
    pixels = torch.from_numpy(batch.rows.columns["image"][:, 0]).to(device)
    tokens = torch.from_numpy(batch.rows.columns["text"]).to(device)
    valid = torch.from_numpy(batch.rows.valid).to(device)
    color = batch.rows.columns.get("color")
    # The colours' parameters stay on the CPU: change_colors knows then, without waiting, which views they change.
    views = {"pixels": pixels} | ({} if color is None else {"color": torch.from_numpy(color[:, 0])})
    logit_scale = engine.module.get_submodule("logit_scale")()
    loss = infonce(engine("image", views), engine("text", {"tokens": tokens}), logit_scale, valid)
    scale = float(logit_scale.detach())
    grad_norm = engine.update(loss, rate)
    return float(global_mean(loss)), scale, grad_norm


def _check(
    metrics: StepMetrics,
    masked: int,
    max_bad_fraction: float,
    recorder: Recorder,
    plan: RunPlan,
    device: torch.device,
) -> None:
    """Raises on all ranks alike where going on makes no sense."""
    # The gradient too: its update has spoilt the parameters, which must not be committed.
    for value, what in ((metrics.loss, "loss"), (metrics.grad_norm, "gradient's norm")):
        if not math.isfinite(value):
            recorder.flush()
            raise DivergedError(
                f"the {what} of step {metrics.step} is {value}. Lower training.optimizer.learning_rate, "
                "warm up longer, or lower objective.logit_scale.max."
            )
    # Ten batches at least: a few bad samples at the very start are no verdict on the data.
    of = max(metrics.samples, 10 * plan.layout.global_batch)
    if masked > max_bad_fraction * of:
        recorder.flush()
        counts = torch.tensor([recorder.causes[fault] for fault in FAULTS], device=device)
        all_reduce_sum(counts)
        causes = ", ".join(f"{fault} {int(n)}" for fault, n in zip(FAULTS, counts, strict=True) if n)
        raise DataError(
            f"{masked} of {metrics.samples} samples so far could not be used ({causes} in this attempt), "
            f"more than data.max_bad_fraction {max_bad_fraction:g} allows. They are listed in bad_samples/ "
            "of the run directory; mend the shards, or raise the fraction."
        )
