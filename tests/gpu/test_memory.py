"""What training is said to hold on a GPU, against what its allocator gave; and `micro_batch: auto` where a step does
not fit."""

from __future__ import annotations

import pytest
import torch

from tests.ranks import run_ranks
from tests.workers.train.held import Case, estimate, train

CUDA = torch.device("cuda")
CASES = {
    "weights": Case(width=1024, layers=8, batch=4, stage=0),
    "activations": Case(width=512, layers=8, batch=1024, stage=1),
    "activations, bf16": Case(width=512, layers=8, batch=1024, stage=1, precision="bf16"),
    "activations, fp16": Case(width=512, layers=8, batch=1024, stage=0, precision="fp16"),
}


def _measure(cases: list[Case]) -> list[tuple[int, int]]:
    found = []
    train(Case(width=32, layers=1, batch=4, stage=1), CUDA)  # libraries' own
    for case in cases:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        train(case, CUDA)
        found.append((torch.cuda.max_memory_allocated() - before, estimate(case, CUDA)))
    return found


@pytest.fixture(scope="module")
def measured() -> dict[str, tuple[int, int]]:
    found = run_ranks(_measure, 1, list(CASES.values()), timeout_seconds=600, backend="nccl")[0]
    return dict(zip(CASES, found, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_the_estimate_is_within_15_percent(measured: dict[str, tuple[int, int]], name: str) -> None:
    held, estimated = measured[name]
    assert estimated == pytest.approx(held, rel=0.15), (held >> 20, estimated >> 20)


def _shrink(case: Case, limit: int) -> tuple[int, int, list[float]]:
    """Rows at a time and kept graphs at the end, and the losses."""
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(CUDA).total_memory)
    try:
        return train(case, CUDA, micro_batch="auto", steps=6)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_auto_halves_until_a_step_fits() -> None:
    """The allocator is told to give no more than a third of what the whole share at once takes."""
    case = Case(width=512, layers=8, batch=1024, stage=1)
    whole = run_ranks(_shrink, 1, case, 80 << 30, timeout_seconds=600, backend="nccl")[0]
    assert whole[:2] == (1024, 1)
    rows, kept, losses = run_ranks(_shrink, 1, case, estimate_of(case) // 3, timeout_seconds=600, backend="nccl")[0]
    assert 64 <= rows < 1024
    assert kept >= 1
    assert losses == pytest.approx(whole[2], rel=1e-4)


def estimate_of(case: Case) -> int:
    """In a process of its own: it asks for the number of ranks."""
    found: int = run_ranks(estimate, 1, case, CUDA)[0]
    return found
