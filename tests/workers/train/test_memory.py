"""What training is said to hold on a device, against the resident memory of ranks that train."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

import pytest
import torch

from tests.ranks import run_ranks
from tests.workers.train.held import Case, estimate, train
from workers.losses.memory import loss_bytes
from workers.train import memory, step

CPU = torch.device("cpu")
CASES = {
    "weights": (1, Case(width=512, layers=4, batch=4, stage=0)),
    "activations": (1, Case(width=128, layers=6, batch=160, stage=0)),
    "bf16": (1, Case(width=128, layers=6, batch=160, stage=0, precision="bf16")),
    "one rank of two": (2, Case(width=512, layers=4, batch=4, stage=0)),
    "stage 1": (2, Case(width=512, layers=4, batch=4, stage=1)),
    "stage 2": (4, Case(width=512, layers=4, batch=4, stage=2)),
    "stage 3": (2, Case(width=512, layers=4, batch=4, stage=3)),
    "stage 3, activations": (2, Case(width=128, layers=6, batch=160, stage=3)),
}
_M_MMAP_THRESHOLD = -3  # mallopt(3)


@pytest.mark.parametrize("name", CASES)
def test_the_estimate_is_within_15_percent(name: str) -> None:
    ranks, case = CASES[name]
    for measured, estimated in run_ranks(_measure, ranks, case, timeout_seconds=600):
        assert estimated == pytest.approx(measured, rel=0.15), (measured >> 20, estimated >> 20)


def _measure(case: Case) -> tuple[int, int]:
    """Bytes that a rank's training added to what it held before, and what they are said to be."""
    torch.set_num_threads(1)
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(_M_MMAP_THRESHOLD, 128 << 10)  # tensors that are gone are given back, and leave no holes in a heap
    train(Case(width=32, layers=1, batch=4, stage=case.stage, precision=case.precision), CPU)  # libraries' own
    gc.collect()
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    train(case, CPU)
    return _status("VmHWM") - before, estimate(case, CPU)


def test_a_step_reserves_for_the_loss_what_the_estimate_says() -> None:
    for reserved, estimated in run_ranks(_asked, 2, Case(width=32, layers=1, batch=4, stage=1), timeout_seconds=600):
        assert reserved == estimated


def _asked(case: Case) -> tuple[object, object]:
    """What the loss is said to take in a step, and in the estimate."""
    asked = []
    for module in (step, memory):
        module.loss_bytes = lambda *given, **more: asked.append((given, more)) or loss_bytes(*given, **more)
    train(case, CPU, micro_batch="auto", steps=1)
    of_step = asked[0]
    estimate(case, CPU)
    return of_step, asked[-1]


def _status(field: str) -> int:
    """Bytes (proc(5), status)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)
