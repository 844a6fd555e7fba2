"""Many Ray tasks of one kind, so many at a time: their answers as they come, or the first error."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from jobspecs.errors import JobFailedError, TandemError
from jobspecs.schedule import TaskResources
from orchestrator import ray_cluster
from orchestrator.holders import holders
from orchestrator.scanning import progress

if TYPE_CHECKING:
    from ray.exceptions import RayError

C = TypeVar("C")

_TASKS_AT_A_TIME = 1000
"""Ray looks at all tasks that it waits for."""
LOOK_SECONDS, QUIET_SECONDS, AGAIN_SECONDS = 10.0, 60.0, 600.0
"""Where no task ends: how often the nodes are looked at, when it is told, and when again."""


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
    needs: TaskResources | None = None,
    wait_seconds: float = math.inf,
) -> Iterator[tuple[C, Any]]:
    """Starts a task for each of `total` calls, and yields call and answer in the order in which they end.

    start: a call -> the reference of its answer. A task answers with a TandemError instead of raising it, as Ray would
    wrap it in one of its own. doing, what: "embedding", "shards", as progress and errors have it. at_a_time: None
    as many as the cluster has room for. check: called each second; what it raises ends the tasks, as does whatever else
    keeps the caller from the answers. needs: what a task reserves, where it is told. wait_seconds: how long a node is
    waited for that has as much.

    Raises the TandemError of a task; TasksLostError: one died again and again; JobFailedError: one raised another
    error, or no node can hold one. Both end with `remedy`.
    """
    import ray
    from ray.exceptions import RayError

    left = iter(calls)
    waiting: dict[Any, C] = {}
    patience = _Patience(f"{doing} {total:,} {what}", needs, wait_seconds, remedy)
    with progress(f"{doing} {total:,} {what}", total) as advance, _cancelled(waiting):
        while True:
            room = (at_a_time or _TASKS_AT_A_TIME) - len(waiting)
            waiting |= {start(call): call for call in islice(left, room)}
            if not waiting:
                return
            check()
            done, _ = ray.wait(list(waiting), timeout=1.0)
            try:
                found = ray.get(done)
            except RayError as error:
                last = str(error).strip().splitlines()[-1]
                lost = _lost(error)
                failed = JobFailedError if lost is None else TasksLostError
                raise failed(f"{doing} failed: {last}. {remedy}") from (lost or error)
            patience.look(ended=bool(done))
            for reference, answer in zip(done, found, strict=True):
                if isinstance(answer, TandemError):
                    raise answer
                advance(1)
                yield waiting.pop(reference), answer


def fits(needs: TaskResources) -> bool:
    """Whether a node that is alive has what a task reserves, in use or not."""
    return any(node.cpus >= needs.cpus and node.gpus >= needs.gpus for node in ray_cluster.nodes())


class _Patience:
    """While no task ends: says what is waited for, and ends the wait for a node that does not come."""

    def __init__(self, doing: str, needs: TaskResources | None, wait_seconds: float, remedy: str) -> None:
        self._doing = doing
        self._needs = needs
        self._wait_seconds = wait_seconds
        self._remedy = remedy
        self._begin()

    def _begin(self) -> None:
        self._quiet_since = time.monotonic()
        self._next_look = self._quiet_since + LOOK_SECONDS
        self._next_word = self._quiet_since + QUIET_SECONDS
        self._no_node_since: float | None = None

    def look(self, ended: bool) -> None:
        """ended: whether a task has. Raises JobFailedError."""
        if ended:
            self._begin()
        elif (now := time.monotonic()) >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            self._look(now)

    def _look(self, now: float) -> None:
        from ray.exceptions import RayError

        with contextlib.suppress(RayError):  # a head that is away tells nothing of the nodes
            if self._needs is not None and not fits(self._needs):
                self._no_node(now, self._needs)
            else:
                self._no_node_since = None
                self._quiet(now)

    def _no_node(self, now: float, needs: TaskResources) -> None:
        wanted = f"a node with {_words(needs)}"
        if self._no_node_since is None:
            self._no_node_since = now
            most = "" if math.isinf(self._wait_seconds) else f" up to {self._wait_seconds:.0f} s"
            _tell(f"{self._doing}: waiting{most} for {wanted}, which the cluster has none of")
        if now - self._no_node_since >= self._wait_seconds:
            raise JobFailedError(
                f"{self._doing}: waited {now - self._no_node_since:.0f} s for {wanted} (cluster.wait_seconds), and "
                "there is none. Add nodes, or let a task reserve less: by --cpus and --gpus of `tandem embed`, by "
                f"cluster.cpus_per_worker and cluster.gpus_per_worker of a spec. {self._remedy}"
            )

    def _quiet(self, now: float) -> None:
        if now < self._next_word:
            return
        self._next_word = now + AGAIN_SECONDS
        each = "" if self._needs is None else f"; each needs {_words(self._needs)}"
        before = ", ".join(map(str, holders()))
        behind = f", and others hold {before}" if before else ""
        _tell(f"{self._doing}: none has ended for {now - self._quiet_since:.0f} s{each}{behind}")


def _words(needs: TaskResources) -> str:
    return f"{needs.cpus} CPU" + (f" and {needs.gpus} GPU" if needs.gpus else "")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _lost(error: RayError) -> RayError | None:
    """What Ray lost; None where a task raised an error of its own."""
    from ray.exceptions import RayError, RayTaskError

    cause = error.cause if isinstance(error, RayTaskError) else error  # of an argument that was lost, for one
    return cause if isinstance(cause, RayError) else None


@contextlib.contextmanager
def _cancelled(waiting: Iterable[Any]) -> Iterator[None]:
    """Whatever is raised in it, a KeyboardInterrupt too, ends the tasks whose answers are waited for."""
    import ray

    try:
        yield
    except BaseException:
        for reference in waiting:
            ray.cancel(reference, force=True)
        raise
