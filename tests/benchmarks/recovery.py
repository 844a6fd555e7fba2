"""How soon a job trains again after a worker has died, and how long a save stops training: `make bench-recovery`.

Recovery, from the SIGKILL of one of two workers to the first optimizer step of the next attempt, in parts:

    detect        until Tandem's driver has written `attempt_failed`, or Ray Train's controller has seen it
    start         until rank 0 calls `workers.train.loop.train`: the workers' processes and their imports
    load          until tokenizers, model, engine and checkpoint are there
    first step    until the first batch has been loaded and trained on

The peer is Ray Train's restart of the same loop (recovery_ray.py says how). `cold start` are the same parts of the
job's first attempt, without what is there to detect. Tandem waits two seconds by default before it tries again, Ray
Train does not: here `retry.worker_lost.delay_seconds` is 0. Contestants take turns, on one Ray.

A save: recovery_save.py says how it is measured.

Seconds are those of the clock, medians of the repetitions. A ratio is another's seconds over Tandem's; `recovery
cold_start` that of Tandem's own cold start over its recovery. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks.machine import machine
from tests.benchmarks.recovery_ray import measure_recovery
from tests.benchmarks.recovery_save import Saves, measure_saves
from tests.benchmarks.recovery_timeline import PARTS, Parts, Timeline, cold_start, recovery

AIMS = {"recovery ray_train": 1.0, "recovery cold_start": round(1 / 1.3, 3), "save deepspeed": 5.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recoveries", type=int, default=5, help="repetitions; 0 leaves this part out")
    parser.add_argument("--saves", type=int, default=3, help="repetitions; 0 leaves this part out")
    args = parser.parse_args()
    console = Console(width=88)
    timelines: dict[str, list[Timeline]] = {}
    saves = None
    if args.recoveries:
        with tempfile.TemporaryDirectory(prefix="tandem-bench-recovery-") as folder:
            timelines = measure_recovery(Path(folder), args.recoveries)
        console.print(recovery_table(timelines))
    if args.saves:
        saves = measure_saves(args.saves)
        console.print(save_table(saves))
    print(json.dumps(summary(timelines, saves)))


def summary(timelines: Mapping[str, Sequence[Timeline]], saves: Saves | None) -> dict[str, object]:
    """The JSON line, of the parts that were measured."""
    ratios: dict[str, float] = {}
    if timelines:
        tandem = _median([recovery(one) for one in timelines["tandem"]])
        ratios["recovery ray_train"] = _median([recovery(one) for one in timelines["ray_train"]]) / tandem
        ratios["recovery cold_start"] = _median([cold_start(one) for one in timelines["tandem"]]) / tandem
    if saves is not None:
        ratios["save deepspeed"] = statistics.median(saves.deepspeed) / statistics.median(saves.tandem)
    return {
        "benchmark": "recovery",
        "ratios": {name: round(ratio, 3) for name, ratio in ratios.items()},
        "aims": AIMS,
        "machine": machine(),
    }


def recovery_table(timelines: Mapping[str, Sequence[Timeline]]) -> Table:
    """Seconds, a row for each contestant's cold start and recovery. ± is half of the range of the repetitions."""
    table = Table()
    for heading in ("", "contestant", *PARTS, "in all, s", "±"):
        table.add_column(heading, justify="left" if heading in ("", "contestant") else "right")
    for what, parts_of in (("cold start", cold_start), ("recovery", recovery)):
        for contestant, of_repetitions in timelines.items():
            parts = [parts_of(one) for one in of_repetitions]
            medians = [statistics.median(one[name] for one in parts) if name in parts[0] else None for name in PARTS]
            table.add_row(
                what,
                contestant,
                *("" if seconds is None else f"{seconds:.2f}" for seconds in medians),
                f"{_median(parts):.2f}",
                f"{_half_range([sum(one.values()) for one in parts]):.2f}",
            )
    return table


def save_table(saves: Saves) -> Table:
    """What stops training, and what goes on beside it."""
    table = Table()
    for heading in ("save", "stands still, s", "±", "then in background, s", "GB"):
        table.add_column(heading, justify="left" if heading == "save" else "right")
    for name, seconds, background, size in (
        ("tandem", saves.tandem, f"{statistics.median(saves.background):.2f}", saves.tandem_bytes),
        ("deepspeed", saves.deepspeed, "", saves.deepspeed_bytes),
    ):
        table.add_row(
            name, f"{statistics.median(seconds):.3f}", f"{_half_range(seconds):.3f}", background, f"{size / 1e9:.2f}"
        )
    return table


def _median(of_repetitions: Sequence[Parts]) -> float:
    """Of the sums of their parts."""
    return statistics.median(sum(parts.values()) for parts in of_repetitions)


def _half_range(seconds: Sequence[float]) -> float:
    return (max(seconds) - min(seconds)) / 2


if __name__ == "__main__":
    main()
