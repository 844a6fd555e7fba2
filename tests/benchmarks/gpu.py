"""Peak memory of a GPU, where the benchmarks find one."""

from __future__ import annotations

import torch


def reset_peak(device: str) -> int:
    """Begins to look for the peak. Returns the bytes that are in use now; 0 on a CPU."""
    if device != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def peak(device: str) -> int:
    """The most bytes that were in use since `reset_peak`; 0 on a CPU."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else 0
