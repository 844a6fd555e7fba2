"""Ranks for tests: plain processes on this machine in one group, without Ray and without torchrun.

    results = run_ranks(function, 2, *args)      [function(*args) of rank 0, of rank 1]

The group is gloo's, or with `backend="nccl"` one with a GPU for each rank.

The first group of a session costs some seconds, for a server process that imports torch and DeepSpeed (`preload.py`);
then each rank is a fork of it, and a group costs a fraction of one. `function` must be importable (a module's own
function): the ranks are no forks of the test.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

GRACE_SECONDS = 10.0
"""Ranks that outlive a failed one by more than this are killed: they wait for it in a collective."""


class RanksFailedError(Exception):
    """At least one rank raised, died or ran out of time; the message holds each one's traceback."""

    def __init__(self, message: str, errors: dict[int, BaseException]) -> None:
        super().__init__(message)
        self.errors = errors
        """What each failed rank raised, where that could be brought back."""


@dataclass(frozen=True)
class _Failure:
    error: BaseException | None
    text: str


def run_ranks(
    function: Callable[..., Any], world_size: int, *args: Any, timeout_seconds: float = 600.0, backend: str = "gloo"
) -> list[Any]:
    """The results of `function(*args)` on `world_size` ranks of a group, by rank.

    Raises RanksFailedError. No process outlives the call.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.preload"])
    outcomes: dict[int, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        job = pickle.dumps((function, args))
        # Not inherited: the server that forks has the environment of its start.
        environment = dict(os.environ)
        receivers: dict[Any, int] = {}
        processes = []
        for rank in range(world_size):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(
                target=_main,
                args=(sender, job, environment, rank, world_size, f"{folder}/store", timeout_seconds, backend),
            )
            process.start()
            sender.close()
            processes.append(process)
            receivers[receiver] = rank
        try:
            _collect(receivers, processes, outcomes, time.monotonic() + timeout_seconds)
        finally:
            for process in processes:
                process.join(GRACE_SECONDS if len(outcomes) == world_size else 0)
                process.kill()
                process.join()
                process.close()
    failures = {rank: item for rank, item in sorted(outcomes.items()) if isinstance(item, _Failure)}
    if failures or len(outcomes) < world_size:
        missing = sorted(set(range(world_size)) - outcomes.keys())
        lines = [f"rank {rank} of {world_size}:\n{failure.text}" for rank, failure in failures.items()]
        lines += [f"rank {rank} of {world_size}: killed, it did not end in time" for rank in missing]
        raise RanksFailedError("\n".join(lines), {rank: f.error for rank, f in failures.items() if f.error is not None})
    return [outcomes[rank] for rank in range(world_size)]


def _collect(receivers: dict[Any, int], processes: list[Any], outcomes: dict[int, Any], deadline: float) -> None:
    open_ = set(receivers)
    while open_ and (left := deadline - time.monotonic()) > 0:
        for receiver in wait(list(open_), timeout=left):
            assert isinstance(receiver, Connection)
            rank = receivers[receiver]
            try:
                outcomes[rank] = pickle.loads(receiver.recv_bytes())
            except EOFError:
                processes[rank].join(60)
                outcomes[rank] = _Failure(None, f"died with exit code {processes[rank].exitcode}")
            open_.remove(receiver)
            receiver.close()
            if isinstance(outcomes[rank], _Failure):
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS)


def _main(
    sender: Connection,
    job: bytes,
    environment: dict[str, str],
    rank: int,
    world_size: int,
    store: str,
    timeout_seconds: float,
    backend: str,
) -> None:
    """The program of a rank."""
    os.environ |= environment
    # What torchrun would set, and loopback: this machine's name may not resolve.
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    try:
        device = torch.device("cuda", rank) if backend == "nccl" else None
        if device is not None:
            torch.cuda.set_device(device)
        dist.init_process_group(
            backend,
            store=dist.FileStore(store, world_size),
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=timeout_seconds),
            device_id=device,
        )
        function, args = pickle.loads(job)
        outcome = function(*args)
        dist.barrier()
    except BaseException as error:
        outcome = _Failure(error, traceback.format_exc())
    # Plain pickle, by value: torch's own would share memory with a process that ends here.
    try:
        sender.send_bytes(pickle.dumps(outcome))
    except Exception as error:  # an exception or a result that can't be pickled
        text = outcome.text if isinstance(outcome, _Failure) else f"its result can't be brought back: {error}"
        sender.send_bytes(pickle.dumps(_Failure(None, text)))
    sender.close()
    with contextlib.suppress(Exception):
        dist.destroy_process_group()
