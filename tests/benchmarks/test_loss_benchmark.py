"""The benchmark of the losses at tiny sizes, without its peers: test_peers.py has those."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.distributed.nn

from tests.benchmarks.loss import AIMS, summary, table
from tests.benchmarks.loss_cuda import measure_cuda
from tests.benchmarks.loss_measure import Plan, Result, Skipped, measure, skipped
from tests.benchmarks.loss_wire import SentBytes
from tests.ranks import run_ranks


def test_tandem_is_measured() -> None:
    plan = Plan("image-text", ["tandem"], [16, 256], d=8, repetitions=2, memory_bytes=1e9)
    results = measure(plan, 2)
    for batch in plan.batches:
        tandem = results[batch, "tandem"]
        assert isinstance(tandem, Result)
        assert len(tandem.seconds) == len(tandem.cpu_seconds) == 2
        assert min(tandem.seconds) > 0
        assert tandem.peak_bytes >= 0
        # Features and their gradients once, 1 byte of validity a row, log-sum-exps twice, the scale's gradient.
        m = batch // 2
        assert tandem.sent_bytes == 2 * m * 8 * 4 + m + 2 * batch * 4 + 4


def _traffic() -> list[tuple[float, dict[str, int]]]:
    """Of each collective, on 3 ranks, for 4 floats a rank."""
    own, all_ = torch.ones(4), torch.ones(12)
    pieces = list(all_.split(4))
    rank = dist.get_rank()
    calls = [
        lambda: dist.all_gather(pieces, own),
        lambda: dist.reduce_scatter_tensor(own, all_),
        lambda: dist.all_reduce(all_),
        lambda: dist.broadcast(all_, 0),
        lambda: dist.scatter(own, pieces if rank == 0 else None, 0),
        lambda: dist.all_to_all_single(torch.empty(12), all_),
        lambda: [work.wait() for work in (dist.isend(own, (rank + 1) % 3), dist.irecv(all_[:4], (rank - 1) % 3))],
        dist.barrier,
    ]
    found = []
    for call in calls:
        with SentBytes() as sent:
            call()
        found.append((sent.count, dict(sent.collectives)))
    return found


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_bytes_of_collectives() -> None:
    of_ranks = run_ranks(_traffic, 3)
    names = ["allgather", "reduce_scatter_base", "allreduce", "broadcast", "scatter", "alltoall_base"]
    counts = [32, 32, 64, 32, 32, 32]
    for rank, found in enumerate(of_ranks):
        counts[4] = 32 if rank == 0 else 0
        assert found[:6] == [(count, {name: 1}) for count, name in zip(counts, names, strict=True)]
        assert found[6] == (16, {"send": 1, "recv": 1})
        assert found[7] == (0, {"barrier": 1})


def test_the_summary_and_the_table() -> None:
    def result(seconds: float, peak: int, sent: int) -> Result:
        return Result([seconds], [2 * seconds], peak, sent, loss=1.0)

    results = {
        "image-text": {
            (8, "tandem"): result(1.0, 100, 10),
            (8, "open_clip"): result(2.0, 900, 19),
            (16, "tandem"): result(4.0, 200, 20),
            (16, "open_clip"): result(10.0, 3600, 40),
            (32, "tandem"): result(16.0, 400, 40),
            (32, "open_clip"): Skipped(2.0**40),
        }
    }
    told = summary(results)  # type: ignore[arg-type]
    assert told["ratios"] == {
        "image-text open_clip time at 8": 2.0,
        "image-text open_clip cpu at 8": 2.0,
        "image-text open_clip memory at 8": 9.0,
        "image-text open_clip bytes": 1.9,
        "image-text open_clip time at 16": 2.5,
        "image-text open_clip cpu at 16": 2.5,
        "image-text open_clip memory at 16": 18.0,
    }
    assert told["aims"] == AIMS
    assert (told["benchmark"], list(told)[-1]) == ("loss", "machine")
    assert table("image-text", results["image-text"]).row_count == 6  # type: ignore[arg-type]


def test_what_the_machine_can_not_hold_is_skipped() -> None:
    plan = Plan("image-text", ["tandem", "open_clip"], [16, 256], d=8, repetitions=2, memory_bytes=1e5)
    assert skipped(plan, 16) == {}
    assert skipped(plan, 256).keys() == {"open_clip"}


def test_the_gpu_part_runs_anywhere() -> None:
    heading, line = measure_cuda((64,), d=8, repetitions=1, device="cpu")
    assert heading.startswith("on cpu, one rank, d = 8")
    assert line.startswith("B = 64:")
