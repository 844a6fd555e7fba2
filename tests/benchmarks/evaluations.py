"""What evaluations cost training's throughput that run on resources of their own: `make bench-evaluations`.

The digits job of one worker, in three plays that take turns in coming first:

- alone;
- beside a stranger: a process that multiplies matrices all the time and has nothing to do with Tandem;
- beside evaluations: a task that scores the next checkpoint as soon as it is done with one.

The machine is cut in two nodes of one Ray, each with half of its cores and no process on the other half. The first has
the job: its driver, its ranks with their loaders, and what Ray needs for them. The other has the evaluations or the
stranger. What both halves share all the same (memory, caches, power) slows training as well, whoever works beside it:
the stranger tells how much.

Throughput is samples a second over the steps that were made while an evaluation ran, in the other plays over all but
the first. Ratios are of medians of the repetitions. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

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

AIMS = {"evaluations / alone": 0.95}
WARM_UP_STEPS = 20
"""Of an attempt, that are not counted: allocators and caches fill."""
JOB = ("cluster.workers=1", "cluster.cpus_per_worker=2", "training.steps=100000", "checkpoint.every_steps=25")
"""A worker asks for two CPUs of Ray's, which the first node alone has, and an evaluation for one: so each finds its
node. To Ray they are but names: a rank has the threads of OMP_NUM_THREADS."""
PLAYS = {
    "alone": ("evaluations=[]",),
    "stranger": ("evaluations=[]",),
    "evaluations": ("evaluations.0.every_checkpoints=1", "evaluations.0.resources={cpus: 1}"),
}
STRANGER = """
import time, torch
matrix, end = torch.rand(512, 512), time.monotonic() + float({seconds})
while time.monotonic() < end:
    matrix @ matrix
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=90.0, help="of each run, from its start on")
    args = parser.parse_args()
    whole = machine()
    with tempfile.TemporaryDirectory(prefix="tandem-bench-evaluations-") as folder, two_nodes() as others:
        found = measure(Path(folder), args.repetitions, args.seconds, others)
    Console(width=88).print(table(found))
    print(json.dumps(summary(found) | {"machine": whole}))


@contextlib.contextmanager
def two_nodes() -> Iterator[set[int]]:
    """A Ray of two nodes, this process on the cores of the first. Yields the cores of the other."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("training and evaluations need a core each: this process may use one alone")
    first, others = cores[: len(cores) // 2], cores[len(cores) // 2 :]
    os.environ["OMP_NUM_THREADS"] = str(len(first))
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        os.sched_setaffinity(0, first)  # what a process starts has its cores
        cluster.add_node(num_cpus=2)
        os.sched_setaffinity(0, others)
        cluster.add_node(num_cpus=1)
        os.sched_setaffinity(0, first)
        with mock.patch.dict(os.environ, RAY_ADDRESS=cluster.address):
            yield set(others)
    finally:
        cluster.shutdown()


@contextlib.contextmanager
def stranger(seconds: float, cores: set[int]) -> Iterator[None]:
    """A process on those cores that has no pause, for so long at most."""
    code = STRANGER.format(seconds=seconds)
    with subprocess.Popen([sys.executable, "-c", code], preexec_fn=lambda: os.sched_setaffinity(0, cores)) as process:
        try:
            yield
        finally:
            process.kill()


def measure(folder: Path, repetitions: int, seconds: float, others: set[int]) -> dict[str, list[float]]:
    """Samples a second of each repetition, by play."""
    import ray

    write_demo("digits", folder / "digits")
    start_ray(Cluster(workers=1))
    found: dict[str, list[float]] = {play: [] for play in PLAYS}
    try:
        for number in range(repetitions):
            for play in list(PLAYS)[:: -1 if number % 2 else 1]:
                job = prepare(digits_spec(folder / "digits", folder, *JOB, f"name={play}-{number}", *PLAYS[play]))
                ledger, interrupt = Ledger(job.storage, job.run), Interrupt()
                threading.Timer(seconds, interrupt.request).start()
                with stranger(2 * seconds, others) if play == "stranger" else contextlib.nullcontext():
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
    names = {"alone": "alone", "stranger": "beside a stranger", "evaluations": "beside evaluations"}
    for play, rates in found.items():
        made.add_row(names[play], f"{statistics.median(rates):.0f}", f"{(max(rates) - min(rates)) / 2:.0f}")
    return made


def summary(found: Mapping[str, Sequence[float]]) -> dict[str, object]:
    """The JSON line."""
    rate = {play: statistics.median(rates) for play, rates in found.items()}
    return {
        "benchmark": "evaluations",
        "ratios": {
            f"evaluations / {play}": round(rate["evaluations"] / rate[play], 3) for play in ("alone", "stranger")
        },
        "aims": AIMS,
    }


if __name__ == "__main__":
    main()
