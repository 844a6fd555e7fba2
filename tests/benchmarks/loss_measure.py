"""Time, memory and traffic of losses on gloo ranks of this machine. Called by `loss.py`.

Each rank has one thread. A contestant's first run at a size is not timed: there bytes are counted, and the libraries
make their own buffers. In the runs that follow time is taken and memory is read, the contestants taking turns and
beginning with another one each round.
"""

from __future__ import annotations

import ctypes
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from tests.benchmarks.loss_contestants import CASES, Features, random_features
from tests.benchmarks.loss_wire import SentBytes
from tests.ranks import run_ranks

_FP32_BYTES = 4
_LONGEST_SECONDS = 3600.0


@dataclass(frozen=True)
class Plan:
    """What is measured of one case, the same on all ranks."""

    case: str
    contestants: list[str]
    batches: list[int]
    """B: rows of the global batch."""
    d: int
    repetitions: int
    memory_bytes: float
    """What a size may take on this machine, over all ranks."""


@dataclass(frozen=True)
class Result:
    """Of one contestant at one size."""

    seconds: list[float]
    """Forward and backward pass of each repetition; that of the slowest rank."""
    cpu_seconds: list[float]
    """Processor time of the same, over all ranks: other work on the machine changes it little."""
    peak_bytes: int
    """The resident set's high-water mark above what it was before the pass, features included in the latter. Of the
    rank with most; the median of the repetitions."""
    sent_bytes: int
    """By a rank in one pass, as `loss_wire` counts."""
    loss: float
    """Mean over the ranks."""


@dataclass(frozen=True)
class Skipped:
    """A size that the contestant can't hold in this machine's memory."""

    needed_bytes: float
    """Over all ranks, about."""


Results = dict[tuple[int, str], Result | Skipped]
"""By global batch and contestant."""


def measure(plan: Plan, ranks: int) -> Results:
    """Measures in fresh processes. What it measures now is said on stderr."""
    results: Results = run_ranks(_on_rank, ranks, plan, timeout_seconds=_LONGEST_SECONDS)[0]
    return results


def skipped(plan: Plan, batch: int) -> dict[str, Skipped]:
    """The contestants whose score matrices, over all ranks, are more than the plan allows."""
    case = CASES[plan.case]
    needed = {
        name: case.contestants[name].matrices * batch * batch * (1 + case.K) * _FP32_BYTES for name in plan.contestants
    }
    return {name: Skipped(count) for name, count in needed.items() if count > plan.memory_bytes}


def _on_rank(plan: Plan) -> Results:
    case, N = CASES[plan.case], dist.get_world_size()
    # Connections are there, and everything is imported, before anything is measured.
    for name in plan.contestants:
        case.contestants[name].run(random_features(4, plan.d, case.K, dist.get_rank()))
    results: Results = {}
    for batch in plan.batches:
        features = random_features(batch // N, plan.d, case.K, dist.get_rank())
        left_out = skipped(plan, batch)
        fitting = [name for name in plan.contestants if name not in left_out]
        results |= {(batch, name): result for name, result in left_out.items()}
        first = {name: _traffic(plan.case, name, features) for name in fitting}
        runs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in fitting}
        for repetition in range(plan.repetitions):
            turn = repetition % max(1, len(fitting))
            for name in fitting[turn:] + fitting[:turn]:
                runs[name].append(_timed(plan.case, name, features))
                _say(f"{plan.case:16s} B = {batch:6d}  {name:30s} {runs[name][-1][0]:8.2f} s")
        for name in fitting:
            sent, loss = first[name]
            seconds, cpu_seconds, peaks = map(list, zip(*runs[name], strict=True))
            results[batch, name] = Result(seconds, cpu_seconds, int(statistics.median(peaks)), int(sent), loss)
    return results


def _traffic(case: str, name: str, features: Features) -> tuple[float, float]:
    """Sent bytes and loss; means over the ranks."""
    with SentBytes() as sent:
        loss = CASES[case].contestants[name].run(features)
    return _mean(sent.count), _mean(float(loss))


def _timed(case: str, name: str, features: Features) -> tuple[float, float, float]:
    """Seconds of the slowest rank, processor seconds of all, peak bytes of the rank with most."""
    _forget(features)
    before = _reset_peak()
    dist.barrier()
    began, began_cpu = time.perf_counter(), time.process_time()
    CASES[case].contestants[name].run(features)
    took, took_cpu = time.perf_counter() - began, time.process_time() - began_cpu
    peak = _peak() - before
    return (
        _over_ranks(took, dist.ReduceOp.MAX),
        _over_ranks(took_cpu, dist.ReduceOp.SUM),
        _over_ranks(peak, dist.ReduceOp.MAX),
    )


def _forget(features: Features) -> None:
    """Drops gradients, and gives back to the system what the allocator keeps of freed memory."""
    features.first.grad = features.second.grad = features.scale.grad = None
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _reset_peak() -> int:
    """The resident set now, in bytes, from which its high-water mark starts again (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def _over_ranks(value: float, op: dist.ReduceOp.RedOpType) -> float:
    tensor = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(tensor, op=op)
    return tensor.item()


def _mean(value: float) -> float:
    return _over_ranks(value, dist.ReduceOp.SUM) / dist.get_world_size()


def _say(line: str) -> None:
    if dist.get_rank() == 0:
        print(line, file=sys.stderr, flush=True)
