"""Watches the ranks of an attempt: each beats, an actor listens, the driver asks it whether they hang.

    monitor = Monitor(storage, run, attempt=3, world_size=2, hang_after_seconds=300)     in the driver
    with Beating(monitor.beats, rank): train(task)                                       on each rank
    hang = monitor.look()                                                                the driver, once a second
    if hang: monitor.end()                                           until Ray Train has ended: stacks, SIGKILL
    monitor.close()

A rank may stand still in any way: in a system call, in a collective, stopped by a signal. So whoever ends it does not
ask it: its process is killed by a task on its node. (Ray Train's own way takes 9 s where a process is stopped, and
for ever where it was stopped before Ray Train had started it.)
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import psutil

from jobspecs.errors import StorageError
from orchestrator.hang import Hang, Heard, find_hang
from workers.run import RunDirectory
from workers.storage import Storage
from workers.train.pulse import Moment, pulse

BEAT_SECONDS = 2.0
ANSWER_SECONDS = 10.0
"""Patience with Ray: with a call of an actor, with the tasks that kill."""
STACKS_SECONDS = 3 * BEAT_SECONDS
"""Ranks that beat answer in this time with their stacks."""
_WORKER = "RayTrainWorker"
"""Ray Train's name for the class of its workers."""


@dataclass(frozen=True)
class Beat:
    """A rank is alive."""

    rank: int
    node: str
    """Ray's id of its node."""
    moment: Moment


# --- the actor -----------------------------------------------------------------------------------------


class Beats:
    """What the ranks of an attempt said last. The driver runs it as an actor; its clock alone counts."""

    def __init__(self, world_size: int, hang_after_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._hang_after_seconds = hang_after_seconds
        self._clock = clock
        began = clock()
        self._heard = {rank: Heard(rank, None, None, began, began) for rank in range(world_size)}
        self._wants_stacks = False
        self._stacks: dict[int, str] = {}

    def beat(self, beat: Beat) -> bool:
        """Takes a beat. Returns whether the rank shall say where its threads are."""
        before = self._heard.get(beat.rank)
        if before is None:  # it has left: this came late
            return False
        now = self._clock()
        # Another shard of the same batch is headway too.
        moved = before.moved if before.moment == beat.moment else now
        self._heard[beat.rank] = Heard(beat.rank, beat.node, beat.moment, now, moved)
        return self._wants_stacks and beat.rank not in self._stacks

    def leave(self, rank: int) -> None:
        """The rank is done, or has failed: Ray Train will say which."""
        self._heard.pop(rank, None)

    def look(self) -> tuple[Hang | None, set[str]]:
        """The hang, if there is one, and the nodes that have ranks."""
        heard = list(self._heard.values())
        nodes = {one.node for one in heard if one.node is not None}
        return find_hang(heard, self._clock(), self._hang_after_seconds), nodes

    def ask_for_stacks(self) -> set[int]:
        """From now on ranks that beat are asked for their stacks. Returns those that beat just now."""
        self._wants_stacks = True
        return {one.rank for one in self._heard.values() if self._clock() - one.beat < STACKS_SECONDS}

    def take_stacks(self, rank: int, stacks: str) -> None:
        """Takes what a rank was asked for."""
        self._stacks[rank] = stacks

    def stacks(self) -> dict[int, str]:
        """Those that came, by rank."""
        return self._stacks


# --- on a rank -----------------------------------------------------------------------------------------


class Beating:
    """Beats for a rank, in a thread, while the context is open."""

    def __init__(self, beats: Any, rank: int) -> None:
        self._beats = beats
        self._rank = rank
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="beating", daemon=True)

    def __enter__(self) -> Beating:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The thread is not waited for: what it may still send comes too late, and is not heard.
        self._closing.set()
        self._beats.leave.remote(self._rank)

    def _beat_on(self) -> None:
        import ray
        from ray.exceptions import RayError

        node = ray.get_runtime_context().get_node_id()
        while True:
            # No answer: the next beat tries again; silence is what it is for.
            with contextlib.suppress(RayError):
                beat = Beat(self._rank, node, pulse.read())
                if ray.get(self._beats.beat.remote(beat), timeout=ANSWER_SECONDS):
                    self._beats.take_stacks.remote(self._rank, python_stacks())
            if self._closing.wait(BEAT_SECONDS):
                return


def python_stacks() -> str:
    """Where each Python thread of this process is."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    stacks = [
        f"thread {names.get(ident, ident)}\n" + "".join(traceback.format_stack(frame))
        for ident, frame in sys._current_frames().items()
    ]
    return "\n".join(stacks)


# --- in the driver -------------------------------------------------------------------------------------


class Monitor:
    """Watches one attempt."""

    def __init__(
        self, storage: Storage, run: RunDirectory, *, attempt: int, world_size: int, hang_after_seconds: float
    ) -> None:
        """Starts the actor on this node, which the driver needs anyway."""
        import ray

        self._storage = storage
        self._run = run
        self._attempt = attempt
        self._nodes: set[str] = set()
        self._hang: Hang | None = None
        self._is_ending = False
        # One that died starts anew, and hears all that beat.
        actor = ray.remote(num_cpus=0, max_restarts=-1)(Beats)
        here = ray.get_runtime_context().get_node_id()
        self.beats: Any = actor.options(scheduling_strategy=_on(here)).remote(world_size, hang_after_seconds)
        """The actor, for the ranks' `Beating`."""

    def look(self) -> Hang | None:
        """The hang, if there is one; it stays one. No answer is none: the next look asks again."""
        if self._hang is None:
            self._hang, self._nodes = self._ask(self.beats.look) or (None, self._nodes)
        return self._hang

    def nodes(self) -> set[str]:
        """Ray's ids of the nodes that had ranks at the last look."""
        return self._nodes

    def end(self) -> None:
        """Ends the attempt: writes down where its ranks are, the first time, and kills them. Ray Train then gives up by
        itself. To be called until it has: workers that are still to come can't be killed yet."""
        if not self._is_ending:
            self._is_ending = True
            self._write_stacks()
        kill_workers()

    def close(self) -> None:
        """The attempt is over."""
        import ray

        ray.kill(self.beats)

    def _write_stacks(self) -> None:
        beating = self._ask(self.beats.ask_for_stacks) or set()
        deadline = time.monotonic() + STACKS_SECONDS
        stacks: dict[int, str] = {}
        while beating - stacks.keys() and time.monotonic() < deadline:
            time.sleep(BEAT_SECONDS / 4)
            stacks = self._ask(self.beats.stacks) or stacks
        for rank, text in stacks.items():
            # What explains the end must not stand in its way.
            with contextlib.suppress(StorageError):
                self._storage.write(self._run.stacks(self._attempt, rank), text.encode())

    @staticmethod
    def _ask(method: Any) -> Any:
        """What a method of the actor says, or None."""
        import ray
        from ray.exceptions import RayError

        try:
            return ray.get(method.remote(), timeout=ANSWER_SECONDS)
        except RayError:
            return None


def kill_workers() -> None:
    """Kills all workers of Ray Train that this job of Ray has, whatever they do, and waits for it.

    A job has one attempt at a time. Of a worker that never beat, Ray alone knows the process.
    """
    import ray

    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    kill = ray.remote(num_cpus=0, max_retries=0)(_kill_tree)
    killing = [
        kill.options(scheduling_strategy=_on(actor["Address"]["NodeID"])).remote(actor["Pid"])
        for actor in ray._private.state.actors(job_id=job).values()
        if actor["ActorClassName"] == _WORKER and actor["State"] != "DEAD" and actor["Pid"]
    ]
    # A node that is gone has taken its workers along.
    ray.wait(killing, num_returns=len(killing), timeout=ANSWER_SECONDS)


def _kill_tree(pid: int) -> None:
    """SIGKILL for a worker of Ray on this node and all that it has started; nothing where it is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        worker = psutil.Process(pid)
        # A number that came again is some other process's.
        if not worker.cmdline() or not worker.cmdline()[0].startswith("ray::"):
            return
        children = worker.children(recursive=True)
        worker.kill()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


def _on(node: str) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)
