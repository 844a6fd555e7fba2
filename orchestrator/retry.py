"""(failure, history, spec) -> what to do. Pure: the draw for the delay comes in.

What follows on a failure is another attempt after a delay, perhaps with smaller micro-batches, or the end of the job.
On how many workers, `elastic.py` says when the time has come. A job ends:

    spec, diverged, fenced        at once: another attempt would end the same way, or is another driver's
    checkpoint                    never for it: it takes a commit away, and the one before takes its place
    out_of_memory                 where micro-batches can't be smaller
    bug                           when the same exception comes at the same step again
    any but preempted             after `max_failures_without_commit` with no new commit between them
    each                          after its budget's `retries` with no new commit between them
    any but preempted             after `max_attempts` in all, where that is set
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jobspecs.retry import Budget, Retry
from orchestrator.failure import Failure, Kind


@dataclass(frozen=True)
class Again:
    """Start another attempt."""

    delay_seconds: float
    smaller_micro_batch: int | None = None
    """Rows that a rank shall encode at a time; None leaves them as they are."""


@dataclass(frozen=True)
class GiveUp:
    """The job has failed."""

    reason: str
    """Why there is no further attempt, and what to do."""


@dataclass(frozen=True)
class Encoded:
    """How the failed attempt encoded its batches."""

    rows: int
    """Rows that a rank encoded at a time."""
    divisible: bool
    """False where a tower normalises over the batch: then it can't be encoded in parts."""


REMEDY = {
    Kind.SPEC: "Correct the spec.",
    Kind.DIVERGED: "Another attempt would meet the same batches. The cause names what to change.",
    Kind.FENCED: "Another process has taken over this run, and goes on with it.",
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


def decide(
    failure: Failure,
    history: Sequence[Failure],
    retry: Retry,
    *,
    encoded: Encoded | None = None,
    draw: float = 0.5,
) -> Again | GiveUp:
    """What follows on `failure`.

    history: the failures before it in this go of the job, oldest first, those of checkpoints left out. encoded: of an
    attempt that ran out of memory. draw: uniform in [0, 1].
    """
    kind = failure.kind
    if kind in (Kind.SPEC, Kind.DIVERGED, Kind.FENCED):
        return GiveUp(REMEDY[kind])
    if kind is Kind.CHECKPOINT:
        return Again(0.0)
    reason = _exhausted(failure, history, retry)
    if reason is not None:
        return GiveUp(f"{reason}. {REMEDY[kind]}")
    smaller = None
    if kind is Kind.OUT_OF_MEMORY:
        assert encoded is not None, "told of an attempt that ran out of memory"
        if not encoded.divisible:
            return GiveUp(
                "A tower has batch normalisation, so that a rank can't encode its rows in parts. Use more workers, "
                "training.gradient_checkpointing, or a tower with layer or group normalisation."
            )
        if encoded.rows <= 1:
            return GiveUp(
                "A rank encodes one row at a time already. Use training.gradient_checkpointing, a higher "
                "training.zero_stage, or smaller towers."
            )
        smaller = -(-encoded.rows // 2)
    of_kind = [each for each in _since_progress(failure, history) if each.kind is kind]
    return Again(delay_seconds(budget_of(kind, retry), len(of_kind), draw), smaller)


def budget_of(kind: Kind, retry: Retry) -> Budget:
    """The budget of a kind that may be tried again."""
    budget: Budget = getattr(retry, kind)
    return budget


def delay_seconds(budget: Budget, failures: int, draw: float) -> float:
    """The wait after the `failures`-th failure in a row: between a half and the whole of what has doubled since the
    first, and at most `max_delay_seconds`."""
    doubled = budget.delay_seconds * 2.0 ** min(failures - 1, 60)
    return min(budget.max_delay_seconds, doubled) * (0.5 + 0.5 * draw)


def _exhausted(failure: Failure, history: Sequence[Failure], retry: Retry) -> str | None:
    """Why no further attempt is left, or None."""
    kind = failure.kind
    recent = _since_progress(failure, history)
    counted = [each for each in recent if each.kind is not Kind.PREEMPTED]
    of_kind = [each for each in recent if each.kind is kind]
    in_all = 1 + sum(each.kind is not Kind.PREEMPTED for each in history)
    if kind is Kind.BUG and any(_same_bug(failure, each) for each in history):
        return f"The same exception came at step {failure.step} again"
    if kind is not Kind.PREEMPTED:
        if retry.max_attempts is not None and in_all >= retry.max_attempts:
            return f"{in_all} of {retry.max_attempts} attempts failed (retry.max_attempts)"
        if len(counted) >= retry.max_failures_without_commit:
            return f"{_times(len(counted))} with no new commit in between (retry.max_failures_without_commit)"
    budget = budget_of(kind, retry)
    if len(of_kind) > budget.retries:
        return f"{_times(len(of_kind))} of kind {kind} with no new commit in between (retry.{kind}.retries)"
    return None


def _since_progress(failure: Failure, history: Sequence[Failure]) -> list[Failure]:
    """The failures with no new commit between them that end with this one, newest first."""
    recent = [failure]
    for before in reversed(history):
        if recent[-1].committed > before.committed:
            break
        recent.append(before)
    return recent


def _same_bug(one: Failure, other: Failure) -> bool:
    return other.kind is Kind.BUG and (one.fingerprint, one.step) == (other.fingerprint, other.step)


def _times(count: int) -> str:
    return f"{count} failure{'s' if count > 1 else ''}"
