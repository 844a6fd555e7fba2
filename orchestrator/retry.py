"""(failure, history, sizes, spec) -> what to do. Pure: the draw for the delay comes in.

What follows on a failure is another attempt after a delay, perhaps with smaller micro-batches or on fewer workers, or
the end of the job. An attempt takes the largest size that there is room for (`elastic.py`); on fewer it goes where:

    node_lost, before its first step      room was counted that is not there: the next smaller size, until a new commit

A job ends:

    spec, diverged                at once: another attempt would end the same way
    checkpoint                    never for it: it takes a commit away, and the one before takes its place
    fenced                        never for it: the next attempt has the next number
    out_of_memory                 where micro-batches can't be smaller
    bug                           when the same exception comes at the same step again
    any but preempted             after `max_failures_without_commit` attempts with no new commit between them
    each                          after its budget's `retries` with no new commit between them
    any but preempted             after `max_attempts` in all, where that is set
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jobspecs.retry import Budget, Retry
from orchestrator.elastic import smaller_size
from orchestrator.failure import Encoded, Failure, Kind


@dataclass(frozen=True)
class Again:
    """Start another attempt."""

    delay_seconds: float = 0.0
    micro_batch: int | None = None
    """Rows that a rank shall encode at a time; None: as the spec says."""
    most_workers: int | None = None
    """Workers that it may have; None: any of the job's sizes."""


@dataclass(frozen=True)
class GiveUp:
    """The job has failed."""

    reason: str
    """Why there is no further attempt, and what to do."""


REMEDY = {
    Kind.SPEC: "Correct the spec.",
    Kind.DIVERGED: "Another attempt would meet the same batches. The cause names what to change.",
    Kind.DATA: "Mend the shards, or leave them out for a new run.",
    Kind.STORAGE: "Look after the storage: does it answer, is there room, do the credentials still hold?",
    Kind.OUT_OF_MEMORY: "Set training.micro_batch, use training.gradient_checkpointing or more workers.",
    Kind.HOST_OUT_OF_MEMORY: "Use fewer data.loader.processes, a smaller data.loader.read_ahead or nodes with more "
    "memory; `tandem plan` shows what the loaders take.",
    Kind.WORKER_LOST: "Look into the worker's log for what ended it; the kernel's log tells when memory ran out.",
    Kind.NODE_LOST: "Look after the cluster's nodes.",
    Kind.PREEMPTED: "Use nodes that are not taken away so often, or commit more often (checkpoint).",
    Kind.HANG: "The stacks of all ranks lie in the run directory. A rank that is only slow needs a longer "
    "retry.hang_after_seconds.",
    Kind.BUG: "The event log has the traceback.",
}
"""What a person can do about a kind of failure."""
FREE = frozenset({Kind.CHECKPOINT, Kind.FENCED})
"""Kinds that cost no budget."""


def decide(
    failure: Failure, history: Sequence[Failure], retry: Retry, sizes: Sequence[int], *, draw: float = 0.5
) -> Again | GiveUp:
    """What follows on `failure`.

    history: the failures before it in this go of the job, oldest first, those that are `FREE` left out. sizes: numbers
    of workers that the job may run on, ascending. draw: uniform in [0, 1].
    """
    kind = failure.kind
    if kind in (Kind.SPEC, Kind.DIVERGED):
        return GiveUp(REMEDY[kind])
    failures = [*history, failure]
    delay = 0.0
    if kind not in FREE:
        if (reason := _exhausted(failures, retry)) is not None:
            return GiveUp(f"{reason}. {REMEDY[kind]}")
        if kind is Kind.OUT_OF_MEMORY and (reason := _smallest(failure.encoded)) is not None:
            return GiveUp(reason)
        of_kind = [each for each in _since_progress(failures) if each.kind is kind]
        delay = delay_seconds(budget_of(kind, retry), len(of_kind), draw)
    return Again(delay, micro_batch(failures), most_workers(failures, sizes))


def micro_batch(failures: Sequence[Failure]) -> int | None:
    """Rows that a rank shall encode at a time behind these failures, oldest first: half of what was too much last. It
    stays so for good, whatever is committed. None: nothing was."""
    rows = [failure.encoded.rows for failure in failures if failure.encoded is not None]
    return -(-rows[-1] // 2) if rows else None


def most_workers(failures: Sequence[Failure], sizes: Sequence[int]) -> int | None:
    """Workers that an attempt may have right behind these failures, oldest first: fewer than the last group that did
    not come up since the last new commit, but at least the smallest of `sizes`. None: any of them."""
    missing = [failure.world_size for failure in _since_progress(failures) if not failure.came_up]
    if not missing:
        return None
    most = smaller_size(sizes, missing[0])
    return most if most < sizes[-1] else None


def budget_of(kind: Kind, retry: Retry) -> Budget:
    """The budget of a kind that may be tried again."""
    budget: Budget = getattr(retry, kind)
    return budget


def delay_seconds(budget: Budget, failures: int, draw: float) -> float:
    """The wait after the `failures`-th failure in a row: between a half and the whole of what has doubled since the
    first, and at most `max_delay_seconds`."""
    doubled = budget.delay_seconds * 2.0 ** min(failures - 1, 60)
    return min(budget.max_delay_seconds, doubled) * (0.5 + 0.5 * draw)


def _exhausted(failures: Sequence[Failure], retry: Retry) -> str | None:
    """Why no further attempt is left behind these failures, oldest first, or None."""
    *history, failure = failures
    kind = failure.kind
    recent = _since_progress(failures)
    counted = [each for each in recent if _is_failed_attempt(each)]
    of_kind = [each for each in recent if each.kind is kind]
    in_all = sum(map(_is_failed_attempt, failures))
    if kind is Kind.BUG and any(_same_bug(failure, each) for each in history):
        return f"The same exception came at step {failure.step} again"
    if _is_failed_attempt(failure):
        if retry.max_attempts is not None and in_all >= retry.max_attempts:
            return f"{in_all} of {retry.max_attempts} attempts failed (retry.max_attempts)"
        if len(counted) >= retry.max_failures_without_commit:
            return f"{_times(len(counted))} with no new commit in between (retry.max_failures_without_commit)"
    budget = budget_of(kind, retry)
    if len(of_kind) > budget.retries:
        return f"{_times(len(of_kind))} of kind {kind} with no new commit in between (retry.{kind}.retries)"
    return None


def _smallest(encoded: Encoded | None) -> str | None:
    """Why a rank can't encode fewer rows at a time, and what to do; None where it can."""
    assert encoded is not None, "told of an attempt that ran out of memory"
    if not encoded.divisible:
        return (
            "A tower has batch normalisation, so that a rank can't encode its rows in parts. Use more workers, "
            "training.gradient_checkpointing, or a tower with layer or group normalisation."
        )
    if encoded.rows <= 1:
        return (
            "A rank encodes one row at a time already. Use training.gradient_checkpointing, more workers with a higher "
            "training.zero_stage, or smaller towers."
        )
    return None


def _since_progress(failures: Sequence[Failure]) -> list[Failure]:
    """Those with no new commit between them that end with the last of `failures`, newest first."""
    recent = list(failures[-1:])
    for before in reversed(failures[:-1]):
        if recent[-1].committed > before.committed:
            break
        recent.append(before)
    return recent


def _is_failed_attempt(failure: Failure) -> bool:
    """Not one whose node was taken away, nor what failed between two attempts, which its own budget bounds."""
    return failure.kind is not Kind.PREEMPTED and failure.world_size > 0


def _same_bug(one: Failure, other: Failure) -> bool:
    return other.kind is Kind.BUG and (one.fingerprint, one.step) == (other.fingerprint, other.step)


def _times(count: int) -> str:
    return f"{count} failure{'s' if count > 1 else ''}"
