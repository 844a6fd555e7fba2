"""What a job takes of its machines, network and storage: counted from spec and plan before anything is started.

Towers are counted as skeletons, activations on fake tensors (workers/models/activations.py): seconds, and no memory.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from jobspecs.checkpoint import Checkpoint
from jobspecs.job import JobSpec
from orchestrator.goodput import Goodput, goodput, stall_seconds
from orchestrator.plan import Plan, contrast_in
from orchestrator.prepare import Prepared

SAMPLES_PER_SECOND = 1_000
"""Where no other rate is aimed at: what it needs of network and storage grows in proportion."""


@dataclass(frozen=True)
class TowerCosts:
    """A tower."""

    parameters: int
    trained: int


@dataclass(frozen=True)
class Costs:
    """The JSON of `costs` in `tandem plan -o json`. Bytes are those of one rank where nothing else is said."""

    towers: dict[str, TowerCosts]
    parameters: int
    device: str
    """cuda, or cpu where this machine has no GPU: their optimizers need different memory."""
    device_memory: dict[str, int]
    """Estimated: parameters, optimizer, gradients, activations, the loss and the reduction; `peak` is the most that
    they are at a time."""
    host_memory: int
    """Loader processes, and the buffers of a checkpoint."""
    reduced_bytes_per_step: int
    """Received for gradients, and for parameters that ZeRO spreads."""
    read_bytes_per_step: int
    """Of tars, by all ranks together, at most: what filters leave out is counted in."""
    samples_per_second: int
    """The rate that is aimed at: what it needs is told by the next two."""
    network_bytes_per_second: int
    """Received by a rank at that rate, loss and reduction together."""
    storage_bytes_per_second: int
    """Read by all ranks at that rate."""
    checkpoint_bytes: int
    """Of one checkpoint: parameters, moments, the average of the weights where there is one."""
    goodput: Goodput | None
    """Where the time between two commits is known."""


def costs_of(
    job: Prepared,
    *,
    seconds_per_step: float | None = None,
    failures_per_day: float = 1.0,
    samples_per_second: int = SAMPLES_PER_SECOND,
) -> Costs | None:
    """The costs of a job; None while one of its tokenizers is still to be trained. Raises UsageError."""
    spec, plan = job.spec, job.plan
    if not job.tokenizers.keys() >= spec.data.texts.keys():
        return None
    import torch

    from workers.models.build import activations_of, tower_sizes
    from workers.train.memory import device_memory

    training, ranks = spec.training.on_ranks(plan.workers), plan.workers
    sizes = tower_sizes(spec.model, spec.data, job.tokenizers)
    total, trained = (sum(getattr(size, name) for size in sizes.values()) for name in ("parameters", "trained"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    memory = device_memory(
        training,
        contrast_in(spec),
        parameters=total,
        trained=trained,
        activations=activations_of(
            spec.model,
            spec.data,
            job.tokenizers,
            training.precision,
            gradient_checkpointing=training.gradient_checkpointing,
        ),
        ranks=ranks,
        rows=plan.rows_per_rank,
        width=spec.model.embedding_dim,
        device=device,
    )
    checkpoint = 4 * (total + trained * (2 + (training.ema is not None)))
    reduced = reduced_bytes(training.zero_stage, total, trained, ranks)
    read = round(
        sum(
            # Samples that filters leave out are read past.
            int(index.sizes.sum()) / int(index.samples.sum()) * source.slots
            for index, source in zip(job.indexes, plan.sources, strict=True)
        )
    )
    steps_per_second = samples_per_second / plan.global_batch
    interval = seconds_between_commits(spec.checkpoint, seconds_per_step)
    return Costs(
        towers={name: TowerCosts(size.parameters, size.trained) for name, size in sizes.items()},
        parameters=total,
        device=device.type,
        device_memory={**asdict(memory), "peak": memory.peak},
        host_memory=plan.loader_memory.total + checkpoint // ranks,
        reduced_bytes_per_step=reduced,
        read_bytes_per_step=read,
        samples_per_second=samples_per_second,
        network_bytes_per_second=round((plan.gathered_bytes_per_step + reduced) * steps_per_second),
        storage_bytes_per_second=round(read * steps_per_second),
        checkpoint_bytes=checkpoint,
        goodput=None if interval is None else goodput(interval, stall_seconds(checkpoint, ranks), failures_per_day),
    )


def seconds_between_commits(checkpoint: Checkpoint, seconds_per_step: float | None) -> float | None:
    """By steps or by minutes, whichever comes first; None where steps count and nobody knows how long they take."""
    given = []
    if checkpoint.every_minutes is not None:
        given.append(60 * checkpoint.every_minutes)
    if checkpoint.every_steps is not None:
        if seconds_per_step is None:
            return None
        given.append(checkpoint.every_steps * seconds_per_step)
    return min(given)


def reduced_bytes(stage: int, parameters: int, trained: int, ranks: int) -> int:
    """Bytes that a rank receives a step for gradients and parameters, fp32, as a ring carries them: an all-reduce of
    the gradients; from stage 1 on a reduce-scatter of them and a gather of the updated weights, which is as much; at
    stage 3 a gather of the weights for the forward pass and one for the backward pass."""
    once = 4 * (ranks - 1) / ranks
    return round(once * (trained + (2 * parameters if stage == 3 else trained)))


def warnings_of(spec: JobSpec, plan: Plan) -> tuple[str, ...]:
    """What a person would want to know before the job runs."""
    found = []
    if plan.shards < plan.lanes:
        found.append(
            f"{plan.shards} shards for {plan.lanes} lanes: several lanes read the same shard, each up to its own part "
            "unless the index knows where samples begin (`tandem index --read`)."
        )
    padding = plan.padding_rows / plan.global_batch
    if padding > 0.05:
        found.append(
            f"{plan.workers} workers compute {padding:.0%} of rows that only pad. Use "
            f"{_nearest(plan.even_workers, plan.workers)} workers."
        )
    if plan.steps_per_pass == 1:
        found.append(
            "A pass is a single batch: every sample meets the same negatives each time. Lower training.global_batch."
        )
    warmup = spec.training.schedule.warmup_steps
    if warmup >= plan.total_steps:
        found.append(f"The learning rate warms up for {warmup:,} steps, and the job has {plan.total_steps:,}.")
    if plan.checkpoints == 1 and spec.checkpoint.every_minutes is None:
        found.append("There is one commit, at the end: a failure costs all of the work. Lower checkpoint.every_steps.")
    if plan.workers == 1 and spec.training.zero_stage > 1:  # 1 is the default: nobody counts on it
        found.append(
            "One worker shares nothing out: it holds all gradients and moments, whatever training.zero_stage says "
            f"({spec.training.zero_stage})."
        )
    return tuple(found)


def _nearest(numbers: tuple[int, ...], workers: int) -> str:
    below = [number for number in numbers if number <= workers]
    above = [number for number in numbers if number > workers]
    return " or ".join(str(number) for number in [*below[-1:], *above[:1]])
