"""The rank's side of the search for ranks that hang: it beats for the actor that listens (`desk.py`), in a thread.

with Beating(desk, attempt, rank): train(task)
"""

from __future__ import annotations

import contextlib
import sys
import threading
import traceback
from types import TracebackType
from typing import Any

from orchestrator.beats import BEAT_SECONDS, Beat
from orchestrator.ray_cluster import ANSWER_SECONDS
from workers.repeating import Repeating
from workers.train.pulse import pulse


class Beating:
    """Beats for a rank while the context is open."""

    def __init__(self, desk: Any, attempt: int, rank: int) -> None:
        """desk: a handle of the actor."""
        self._desk = desk
        self._attempt = attempt
        self._rank = rank
        self._beating = Repeating("beating", BEAT_SECONDS, self._beat)

    def __enter__(self) -> Beating:
        self._beating.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The thread is not waited for: what it may still send comes too late, and is not heard.
        self._beating.stop()
        self._desk.leave.remote(self._attempt, self._rank)

    def _beat(self) -> None:
        import ray
        from ray.exceptions import RayError

        # No answer: the next beat tries again; silence is what it is for.
        with contextlib.suppress(RayError):
            beat = Beat(self._attempt, self._rank, ray.get_runtime_context().get_node_id(), pulse.read())
            if ray.get(self._desk.beat.remote(beat), timeout=ANSWER_SECONDS):
                self._desk.take_stacks.remote(self._attempt, self._rank, python_stacks())


def python_stacks() -> str:
    """Where each Python thread of this process is."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    stacks = [
        f"thread {names.get(ident, ident)}\n" + "".join(traceback.format_stack(frame))
        for ident, frame in sys._current_frames().items()
    ]
    return "\n".join(stacks)
