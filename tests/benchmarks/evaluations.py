"""What evaluations beside training cost its throughput where they have cores of their own: `make bench-evaluations`.

The digits job on one worker of one core, alone and with an evaluation task of one core that is never idle: a checkpoint
every few steps, each of which is scored. Where the machine has fewer than two cores to spare, they share what there is,
and the ratio says so. Runs take turns in coming first, on one Ray.

Throughput is samples a second over the steps that were made while an evaluation ran; of the run alone, over all but the
first. The ratio is that beside evaluations over that alone, of medians of the repetitions. The last line is JSON.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import statistics
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jobspecs.cluster import Cluster
from orchestrator.driver import Driver
from orchestrator.interrupt import Interrupt
from orchestrator.ledger import Ledger
from orchestrator.prepare import prepare
from orchestrator.ray_cluster import start_ray
from orchestrator.views.lines import LinesView
from tests.benchmarks.machine import machine
from tests.orchestrator.conftest import digits_spec
from workers.data.demo import write_demo

AIMS = {"evaluations beside training": 0.95}
WARM_UP_STEPS = 20
"""Of an attempt, that are not counted: allocators and caches fill."""
JOB = ("cluster.workers=1", "training.steps=100000", "checkpoint.every_steps=25")
PLAYS = {"alone": "evaluations=[]", "beside": "evaluations.0.every_checkpoints=1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=90.0, help="of each run, from its first attempt on")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tandem-bench-evaluations-") as folder:
        found = measure(Path(folder), args.repetitions, args.seconds)
    Console(width=88).print(table(found))
    print(json.dumps(summary(found)))


def measure(folder: Path, repetitions: int, seconds: float) -> dict[str, list[float]]:
    """Samples a second of each repetition, by play."""
    import ray

    write_demo("digits", folder / "digits")
    start_ray(Cluster(workers=1))
    found: dict[str, list[float]] = {play: [] for play in PLAYS}
    try:
        for number in range(repetitions):
            for play in list(PLAYS)[:: -1 if number % 2 else 1]:
                job = prepare(digits_spec(folder / "digits", folder, *JOB, f"name={play}-{number}", PLAYS[play]))
                ledger, interrupt = Ledger(job.storage, job.run), Interrupt()
                threading.Timer(seconds, interrupt.request).start()
                Driver(job, LinesView(Console(file=io.StringIO())), interrupt).run()
                found[play].append(throughput(list(ledger.metrics()), evaluated(ledger.events())))
    finally:
        ray.shutdown()
    return found


def evaluated(events: Iterable[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """When evaluations ran, in Unix seconds."""
    began: dict[tuple[int, str], float] = {}
    spans = []
    for event in events:
        key = event.get("step", 0), event.get("evaluation", "")
        if event["event"] == "evaluation_started":
            began[key] = event["time"]
        elif event["event"] == "evaluation_finished":
            spans.append((began.pop(key), event["time"]))
    return spans


def throughput(metrics: Sequence[Mapping[str, Any]], spans: Sequence[tuple[float, float]]) -> float:
    """Samples a second between consecutive steps within one of the spans; without spans, between all."""
    samples, seconds = 0, 0.0
    counted = metrics[WARM_UP_STEPS:]
    for before, after in itertools.pairwise(counted):
        if not spans or any(begin <= before["time"] and after["time"] <= end for begin, end in spans):
            samples += after["samples"] - before["samples"]
            seconds += after["time"] - before["time"]
    assert seconds, "no two steps while an evaluation ran: give it more --seconds"
    return samples / seconds


def table(found: Mapping[str, Sequence[float]]) -> Table:
    """A row for each play. ± is half of the range of the repetitions."""
    made = Table()
    for heading in ("training", "samples/s", "±"):
        made.add_column(heading, justify="left" if heading == "training" else "right")
    for play, rates in found.items():
        name = "alone" if play == "alone" else "beside evaluations"
        made.add_row(name, f"{statistics.median(rates):.0f}", f"{(max(rates) - min(rates)) / 2:.0f}")
    return made


def summary(found: Mapping[str, Sequence[float]]) -> dict[str, object]:
    """The JSON line."""
    ratio = statistics.median(found["beside"]) / statistics.median(found["alone"])
    return {
        "benchmark": "evaluations",
        "ratios": {"evaluations beside training": round(ratio, 3)},
        "aims": AIMS,
        "machine": machine(),
    }


if __name__ == "__main__":
    main()
