"""The losses against their peers: `make bench-loss`.

Measures, in one run, forward and backward pass of a loss over features of width 512 on four ranks of this machine
(gloo, one thread each): Tandem, open_clip (`local_loss`, `gather_with_grad`) and sentence-transformers (with gathering
over the ranks), from the same features. The cases: image-text pairs in both directions with global batches of 2,048
to 32,768 rows, the sigmoid loss, and queries with seven hard negatives each. loss_contestants.py says how each is set
up, loss_measure.py how time, memory and traffic are measured. A size whose score matrices a contestant can't hold in
this machine's memory is skipped, and that is said.

A ratio is another's time, peak memory or bytes over Tandem's; `cpu` are the ratios of processor time, which other work
on the machine changes little. The last line is JSON: all ratios, and the aims by the same names.

Where torch has CUDA, loss_cuda.py measures the loss alone on the GPU as well. Inf-CL, whose kernels are written for
CUDA alone, is not among the contestants.
"""

from __future__ import annotations

import argparse
import json
import statistics

import psutil
import torch
from rich.console import Console
from rich.table import Table

from tests.benchmarks.loss_contestants import CASES
from tests.benchmarks.loss_cuda import measure_cuda
from tests.benchmarks.loss_measure import Plan, Result, Results, Skipped, measure
from tests.benchmarks.machine import machine
from tests.benchmarks.peers import INSTALL, installed

AIMS = {
    "image-text open_clip time at 8192": 1.8,
    "image-text open_clip memory at 16384": 8.0,
    "image-text open_clip bytes": 2.0,
    "hard negatives sentence_transformers bytes": 5.0,
}
_GPU_NEEDED = "On a GPU the loss is measured at B = 64k and 256k too; torch finds none here."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--batches", nargs="+", type=int, metavar="B", help="of every case")
    parser.add_argument("--only", nargs="+", help="contestants")
    parser.add_argument("--width", type=int, default=512, help="of a feature")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--repetitions", type=int, default=3)
    args = parser.parse_args()
    if args.only != ["tandem"] and not installed():
        parser.error(INSTALL)
    results: dict[str, Results] = {}
    for name in args.cases:
        contestants = [one for one in CASES[name].contestants if not args.only or one in args.only]
        plan = Plan(
            case=name,
            contestants=contestants,
            batches=args.batches or list(CASES[name].batches),
            d=args.width,
            repetitions=args.repetitions,
            memory_bytes=0.9 * psutil.virtual_memory().available,
        )
        results[name] = measure(plan, args.ranks)
    console = Console(width=120)
    for name, of_case in results.items():
        console.print(table(name, of_case))
        for (batch, contestant), result in of_case.items():
            if isinstance(result, Skipped):
                needed = result.needed_bytes / 2**30
                print(f"{contestant} at B = {batch:,}: skipped, its score matrices need {needed:.0f} GiB.")
    print(*(measure_cuda() if torch.cuda.is_available() else [_GPU_NEEDED]), sep="\n")
    print(json.dumps(summary(results)))


def summary(results: dict[str, Results]) -> dict[str, object]:
    """The JSON line: each case's ratios to each contestant."""
    ratios: dict[str, float] = {}
    for case, of_case in results.items():
        for key, result in of_case.items():
            batch, contestant = key
            tandem = of_case.get((batch, "tandem"))
            if contestant == "tandem" or not isinstance(result, Result) or not isinstance(tandem, Result):
                continue
            for what, ratio in zip(("time", "cpu", "memory"), _ratios(result, tandem), strict=False):
                ratios[f"{case} {contestant} {what} at {batch}"] = ratio
            # The same at every size, but for what grows with B alone: the least of them.
            of_bytes = _ratios(result, tandem)[3]
            name = f"{case} {contestant} bytes"
            ratios[name] = min(of_bytes, ratios.get(name, of_bytes))
    return {
        "benchmark": "loss",
        "ratios": {name: round(ratio, 3) for name, ratio in ratios.items()},
        "aims": AIMS,
        "machine": machine(),
    }


def table(case: str, results: Results) -> Table:
    """A row for each size and contestant. Time ± is half of the range of the repetitions."""
    shown = Table(title=case, title_justify="left")
    shown.add_column("B", justify="right")
    shown.add_column("contestant")
    for heading in ("time, s", "±", "peak, MiB", "sent, MiB", "time", "cpu", "memory", "bytes"):
        shown.add_column(heading, justify="right")
    for (batch, contestant), result in results.items():
        if isinstance(result, Skipped):
            shown.add_row(f"{batch:,}", contestant, "skipped")
            continue
        tandem = results.get((batch, "tandem"))
        ratios = [""] * 4
        if isinstance(tandem, Result) and contestant != "tandem":
            ratios = [f"{ratio:.2f} ×" for ratio in _ratios(result, tandem)]
        shown.add_row(
            f"{batch:,}",
            contestant,
            f"{statistics.median(result.seconds):.3f}",
            f"{(max(result.seconds) - min(result.seconds)) / 2:.3f}",
            f"{result.peak_bytes / 2**20:,.0f}",
            f"{result.sent_bytes / 2**20:,.1f}",
            *ratios,
        )
    return shown


def _ratios(other: Result, tandem: Result) -> list[float]:
    """Of time, processor time, memory and bytes: the other's over Tandem's."""
    return [
        statistics.median(other.seconds) / statistics.median(tandem.seconds),
        statistics.median(other.cpu_seconds) / statistics.median(tandem.cpu_seconds),
        other.peak_bytes / tandem.peak_bytes,
        other.sent_bytes / tandem.sent_bytes,
    ]


if __name__ == "__main__":
    main()
