"""What a benchmark ran on, for its last line."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import psutil


def machine() -> str:
    """Cores, processor, memory, Python."""
    described = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else ""
    models = [line.split(":")[1].strip() for line in described.splitlines() if line.startswith("model name")]
    memory = psutil.virtual_memory().total / 2**30
    model = models[0] if models else platform.machine()
    return f"{cores()} cores of {model}, {memory:.0f} GiB, Python {platform.python_version()}"


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))
