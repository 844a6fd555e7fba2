"""What runs in the process of one run: `python -m tests.benchmarks.data_run CONTESTANT --folder=… …`.

Prints one JSON line: `data_measure.Result` without the memory.

With W loader processes, a DataLoader's first W batches arrive together, then W more. So the clock of the
steady rate starts after the first W batches, and stops, at the earliest after the given seconds, after a
multiple of W; or at the end of the data.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.data_bare import bare_rate
from tests.benchmarks.data_contestants import CONTESTANTS, Case, Start

_CLOCK_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
"""What processor time is counted in: a run shorter than that would seem to take none."""


def loader_rate(start: Start, case: Case, seconds: float) -> dict[str, float]:
    """Rates and time to the first batch of a loader whose consumer does nothing but touch the batches."""
    began = time.perf_counter()
    number = 0
    first = steady = steady_cpu = 0.0
    rate: dict[str, float] = {}
    for number, (images, tokens) in enumerate(start(), start=1):
        assert len(images) == len(tokens) == case.batch
        _touch(images)
        now = time.perf_counter()
        if number == 1:
            first = now - began
        if number == case.processes:
            steady, steady_cpu = now, _cpu_seconds()
        elif number > case.processes and number % case.processes == 0:
            samples = (number - case.processes) * case.batch
            rate = {
                "samples_per_second": samples / (now - steady),
                "samples_per_cpu_second": samples / max(_cpu_seconds() - steady_cpu, _CLOCK_TICK_SECONDS),
                "first_batch_seconds": first,
            }
            if now - steady >= seconds:
                break
    assert rate, f"{number} batches are too few: measure with more data or smaller batches"
    return rate


def _touch(images: Any) -> None:
    """Reads a value of each page."""
    images.reshape(-1)[:: 4096 // images.dtype.itemsize].sum()


def _cpu_seconds() -> float:
    """Of this process and those below it."""
    this = psutil.Process()
    times = [process.cpu_times() for process in (this, *this.children(recursive=True))]
    return sum(time.user + time.system for time in times)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("contestant", choices=["bare", *CONTESTANTS])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--endpoint")
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    given = vars(parser.parse_args())
    contestant, seconds = given.pop("contestant"), given.pop("seconds")
    case = Case(**given)
    if contestant == "bare":
        result: dict[str, Any] = bare_rate(case, seconds)
    else:
        result = loader_rate(CONTESTANTS[contestant](case), case, seconds)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
