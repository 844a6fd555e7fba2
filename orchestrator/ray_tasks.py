"""Many Ray tasks of one kind, so many at a time: their answers as they come, or the first error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from jobspecs.errors import JobFailedError, TandemError
from orchestrator.scanning import progress

if TYPE_CHECKING:
    from ray.exceptions import RayError

C = TypeVar("C")

_TASKS_AT_A_TIME = 1000
"""Ray looks at all tasks that it waits for."""


class TasksLostError(JobFailedError):
    """A task's process or node died, again and again, or its inputs with them: nothing is wrong with the task. Its
    cause is Ray's error."""


def answers(
    start: Callable[[C], Any],
    calls: Iterable[C],
    total: int,
    doing: str,
    what: str,
    remedy: str,
    at_a_time: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> Iterator[tuple[C, Any]]:
    """Starts a task for each of `total` calls, and yields call and answer in the order in which they end.

    start: a call -> the reference of its answer. A task answers with a TandemError instead of raising it, as Ray would
    wrap it in one of its own. doing, what: "embedding", "shards", as progress and errors have it. at_a_time: None
    as many as the cluster has room for. check: called each second; what it raises ends the tasks.

    Raises the TandemError of a task; TasksLostError: one died again and again; JobFailedError: one raised another
    error. Both end with `remedy`.
    """
    import ray
    from ray.exceptions import RayError

    left = iter(calls)
    waiting: dict[Any, C] = {}
    with progress(f"{doing} {total:,} {what}", total) as advance:
        while True:
            room = (at_a_time or _TASKS_AT_A_TIME) - len(waiting)
            waiting |= {start(call): call for call in islice(left, room)}
            if not waiting:
                return
            try:
                check()
            except BaseException:
                _cancel(waiting)
                raise
            done, _ = ray.wait(list(waiting), timeout=1.0)
            try:
                found = ray.get(done)
            except RayError as error:
                _cancel(waiting)
                last = str(error).strip().splitlines()[-1]
                lost = _lost(error)
                failed = JobFailedError if lost is None else TasksLostError
                raise failed(f"{doing} failed: {last}. {remedy}") from (lost or error)
            for reference, answer in zip(done, found, strict=True):
                if isinstance(answer, TandemError):
                    _cancel(waiting)
                    raise answer
                advance(1)
                yield waiting.pop(reference), answer


def _lost(error: RayError) -> RayError | None:
    """What Ray lost; None where a task raised an error of its own."""
    from ray.exceptions import RayError, RayTaskError

    cause = error.cause if isinstance(error, RayTaskError) else error  # of an argument that was lost, for one
    return cause if isinstance(cause, RayError) else None


def _cancel(waiting: Iterable[Any]) -> None:
    import ray

    for reference in waiting:
        ray.cancel(reference, force=True)
