"""The training loop of one rank: loader -> encode -> gather -> loss -> step -> record -> checkpoint.

Called on every rank of an initialised process group, by Ray Train's workers and by torchrun alike
(`python -m workers.train`).
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist

from jobspecs.errors import DataError
from workers.data.loader import Loader, RankBatch
from workers.data.order import rows_per_rank
from workers.data.rows import BadSample
from workers.data.shards import FAULTS
from workers.losses.gather import all_reduce_sum, traffic
from workers.mining.versions import era_of
from workers.models.build import build
from workers.objectives import contrast_of
from workers.run import RunPlan
from workers.run_inputs import load_indexes, load_negatives, load_tokenizers
from workers.storage import Storage
from workers.train import checkpoint
from workers.train.batch import content_keys, gather_batch
from workers.train.checkpoint import Manifest
from workers.train.command import Command, SaveSchedule
from workers.train.engine import Engine
from workers.train.health import Watch, measure_health
from workers.train.micro_batch import MicroBatch
from workers.train.pulse import pulse
from workers.train.record import Recorder, StepMetrics
from workers.train.saver import Saver
from workers.train.schedule import learning_rate
from workers.train.step import ContrastiveStep
from workers.train.stop import StopWatch
from workers.train.task import Outcome, TrainTask

Heard = Callable[[StepMetrics, list[BadSample]], None]
"""Is told each step of this rank, and what it masked; it must be quick, and raise nothing."""


def train(task: TrainTask, heard: Heard | None = None) -> Outcome:
    """Trains to the last step, or to the next one after a request to stop, and commits it; or to the step where the
    job mines anew, and the next attempt goes on with what that found.

    Raises DataError (too many samples could not be used; negatives are not those that were mined), StorageError,
    CheckpointError, DivergedError, FencedError.
    """
    spec, plan, run = task.spec, task.plan, task.run
    rank, world_size = dist.get_rank(), dist.get_world_size()
    training = spec.training.on_ranks(world_size)
    device = torch.device("cuda", torch.cuda.current_device()) if spec.cluster.gpus_per_worker else torch.device("cpu")
    pulse.phase("start", step=0)
    storage = Storage(spec.storage.s3)
    start = 0 if task.resume_from is None else checkpoint.read_manifest(storage, task.resume_from).step
    pulse.phase("load", "indexes and tokenizers")
    tokenizers = load_tokenizers(storage, run, spec.data)
    era = era_of(spec.job_mining, plan.total_steps, start)
    negatives = None if spec.job_mining is None else load_negatives(storage, run, era.version)
    loader = Loader(
        load_indexes(storage, run, spec.data),
        plan.layout,
        spec.data,
        tokenizers,
        spec.storage.s3,
        rank=rank,
        world_size=world_size,
        first_step=start,
        last_step=era.end,
        negatives=negatives,
        ahead=page_locked if device.type == "cuda" else None,
    )
    watch = StopWatch(storage, run.stop)
    recorder = Recorder(storage, run, task.attempt, rank)
    with contextlib.ExitStack() as closing:
        closing.enter_context(recorder)
        closing.enter_context(loader)
        if rank == 0:  # one rank looks; the others learn of it with the batch
            closing.enter_context(watch)
        pulse.phase("load", "model")
        model = build(
            spec.model,
            spec.data,
            spec.objective,
            spec.seed,
            tokenizers,
            gradient_checkpointing=training.gradient_checkpointing,
            compile=training.compile,
        )
        contrast = contrast_of(spec.objective, spec.data, model.trained)
        rows = rows_per_rank(world_size, plan.layout)
        micro_batch = MicroBatch(
            training.micro_batch,
            rows,
            device,
            divisible=not model.has_batch_norm,
            alone=training.zero_stage < 3,
        )
        pulse.phase("load", "engine")
        engine = Engine(model, training, rows, device, spec.deepspeed)
        pulse.phase("load", "checkpoint")
        masked = 0 if task.resume_from is None else checkpoint.load(storage, task.resume_from, engine).masked_samples
        max_age_seconds = 60 * spec.checkpoint.max_age_minutes
        saver = closing.enter_context(
            Saver(storage, run, task.attempt, engine, recorder, max_age_seconds, driver=task.driver)
        )
        saves = SaveSchedule(spec.checkpoint, start, time.monotonic())
        width = spec.model.embedding_dim
        update = ContrastiveStep(engine, contrast, micro_batch, width=width, seed=spec.seed, device=device)
        health_watch = Watch(spec.objective.logit_scale.init, training.schedule.warmup_steps)
        step, read_bytes = start, 0
        for wait_seconds, batch in _timed(loader, start):
            began = time.monotonic()
            pulse.phase("gather")
            traffic.take()
            keys = content_keys(batch.rows, contrast.kinds)
            command = Command.GO
            if rank == 0 and saver.failed:
                command = Command.FAIL
            elif rank == 0:
                command = saves.command(step + 1, began, busy=saver.busy, stop=watch.requested)
            seen = gather_batch(batch.rows, keys, plan.layout, device, command=command)
            if seen.command is Command.FAIL:
                saver.wait()
            masked += seen.masked
            rate = learning_rate(step, plan.total_steps, training)
            checked = (step + 1) % training.health_every == 0
            scaling = engine.loss_scale  # before the step: one that overflowed at the smallest scale has no excuse
            done = update(batch.rows, seen, step, rate, measure=checked)
            received = traffic.take().received_bytes  # without those of health
            # Features that are no numbers have no spectrum; the loss says the same on all ranks.
            health = measure_health(done, seen, contrast) if checked and math.isfinite(done.loss) else None
            step += 1
            seconds = wait_seconds + time.monotonic() - began
            read_before, read_bytes = read_bytes, loader.read_bytes
            metrics = StepMetrics(
                step=step,
                loss=done.loss,
                logit_scale=done.logit_scale,
                learning_rate=rate,
                grad_norm=done.grad_norm,
                samples=step * plan.layout.global_batch,
                masked=seen.masked,
                samples_per_second=plan.layout.global_batch / seconds,
                data_wait_fraction=wait_seconds / seconds,
                gathered_bytes=received,
                micro_batch=micro_batch.rows,
                skipped=engine.overflowed,
                health=health,
                batch_digest=seen.digest(negatives.digest if negatives else ""),
                negatives=era.version,
                phase_seconds=pulse.take_seconds(),
                storage_bytes=read_bytes - read_before,
                world_size=world_size,
                attempt=task.attempt,
                time=time.time(),
            )
            pulse.phase("save", "metrics")
            recorder.step(metrics, batch.bad)
            if heard is not None:
                heard(metrics, batch.bad)
            health_watch.step(step, done, excused=scaling is not None and not scaling.at_minimum)
            if health is not None:
                health_watch.health(step, health)
            _check_data(metrics, masked, spec.data.max_bad_fraction, recorder, plan, device)
            last = step == era.end or seen.command is Command.SAVE_AND_END
            if last or seen.command is Command.SAVE:
                pulse.phase("save", "checkpoint")
                saver.save(
                    Manifest(
                        step=step,
                        spec_hash=plan.spec_hash,
                        index_fingerprint=plan.index_fingerprint,
                        masked_samples=masked,
                        attempt=task.attempt,
                        world_size=world_size,
                        shapes={name: tuple(shape) for name, shape in engine.shapes.items()},
                        skipped_steps=engine.skipped_steps,
                        loss_scale=engine.loss_scale,
                        averaged=engine.averaged,
                    )
                )
            if last:
                saver.wait()
                break
    return Outcome(step)


def page_locked(nbytes: int) -> memoryview:
    """Zeros that a GPU copies at the full speed of its bus, while it computes."""
    content: Any = torch.zeros(nbytes, dtype=torch.uint8, pin_memory=True).numpy()
    return memoryview(content)


def _timed(loader: Loader, start: int) -> Iterator[tuple[float, RankBatch]]:
    """Each batch from step `start` on, with the seconds that it was waited for."""
    iterator = iter(loader)
    for step in itertools.count(start + 1):
        pulse.phase("data", loader.reading, step=step)
        if step == start + 1:
            pulse.take_seconds()  # what it took to come here is no step's
        began = time.monotonic()
        try:
            batch = next(iterator)
        except StopIteration:
            return
        yield time.monotonic() - began, batch


def _check_data(
    metrics: StepMetrics,
    masked: int,
    max_bad_fraction: float,
    recorder: Recorder,
    plan: RunPlan,
    device: torch.device,
) -> None:
    """Raises DataError, on all ranks alike, where too many samples can't be used."""
    # Ten batches at least: a few bad samples at the very start are no verdict on the data.
    of = max(metrics.samples, 10 * plan.layout.global_batch)
    if masked > max_bad_fraction * of:
        counts = torch.tensor([recorder.causes[fault] for fault in FAULTS], device=device)
        all_reduce_sum(counts)
        causes = ", ".join(f"{fault} {int(n)}" for fault, n in zip(FAULTS, counts, strict=True) if n)
        raise DataError(
            f"{masked} of {metrics.samples} samples so far could not be used ({causes} in this attempt), "
            f"more than data.max_bad_fraction {max_bad_fraction:g} allows. They are listed in bad_samples/ "
            "of the run directory; mend the shards, or raise the fraction."
        )
