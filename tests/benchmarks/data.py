"""The data path against its peers: `make bench-data`.

Measures, in one run, how fast 512x384 and 1024x768 JPEGs become batches for a 224x224 image tower: Tandem,
open_clip's webdataset pipeline, MosaicML Streaming, litData (data_contestants.py says how each is set up),
and the bare calls to the libraries, which bound what any loader can reach (data_bare.py). From disk with a
warm page cache, and from `rclone serve s3` on this machine, which works on the same cores. As many loader
processes as cores; the consumer only touches the batches.

Contestants take turns; each run is a fresh process. The tables show medians: the time from the loader's
start to the first batch, samples/s after the first batches (data_run.py), samples per second of CPU
time of the contestant's processes, which other work on the machine changes little, and the highest memory of
its process tree. A ratio is Tandem's rate over another's. The last line is JSON: for each other contestant,
the lowest ratio of all cases, in samples/s (`ratios`, what `aims` are for) and in samples/s/core.

Photos are generated once (photos.py) and kept below build/.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from tests.benchmarks.data_contestants import CONTESTANTS
from tests.benchmarks.data_measure import Result, measure
from tests.benchmarks.data_stores import prepare
from tests.benchmarks.machine import cores, machine
from tests.benchmarks.s3_server import s3_server

AIMS = {"webdataset": 2.0, "streaming": 1.0, "litdata": 1.0, "bare": 0.85}
NAMES = ["bare", *CONTESTANTS]
PLACES = ["disk", "s3"]

Key = tuple[str, str, str]
"""Size, place, contestant."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["512x384", "1024x768"], metavar="WIDTHxHEIGHT")
    parser.add_argument("--places", nargs="+", default=PLACES, choices=PLACES)
    parser.add_argument("--only", nargs="+", default=NAMES, choices=NAMES, help="contestants")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="of each run, after its first batches")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--megabytes", type=float, default=640, help="photos of each size")
    parser.add_argument("--folder", type=Path, default=Path("build/benchmarks/data"), help="where the photos are kept")
    args = parser.parse_args()
    folder = args.folder.absolute()
    for size in args.sizes:
        print(f"{_prepared(folder / size, size, args.megabytes)} photos of {size}", file=sys.stderr)
    results: dict[Key, list[Result]] = {}
    began, busy = time.perf_counter(), _busy_seconds()
    with s3_server(folder) if "s3" in args.places else contextlib.nullcontext() as endpoint:
        for repetition in range(args.repetitions):
            for size in args.sizes:
                for key in _turns(size, args.places, args.only, repetition):
                    result = measure(
                        key[2],
                        folder / size,
                        endpoint=endpoint if key[1] == "s3" else None,
                        processes=cores(),
                        batch=args.batch,
                        seconds=args.seconds,
                    )
                    results.setdefault(key, []).append(result)
                    print(f"{' '.join(key):32s} {result.samples_per_second:8.0f} samples/s", file=sys.stderr)
    other_load = max(0.0, (_busy_seconds() - busy) / (time.perf_counter() - began) / cores())
    medians = {key: _median(runs) for key, runs in results.items()}
    console = Console(width=88)
    for size in args.sizes:
        for place in args.places:
            console.print(_table(size, place, medians))
    print(f"Other programs took {other_load:.0%} of the cores' time meanwhile.")
    print(json.dumps(summary(medians) | {"other_load": round(other_load, 2)}))


def summary(medians: dict[Key, Result]) -> dict[str, object]:
    """The JSON line. A contestant that was not measured beside Tandem has no ratio."""
    return {
        "benchmark": "data",
        "ratios": _lowest_ratios(medians, lambda result: result.samples_per_second),
        "ratios_per_core": _lowest_ratios(medians, lambda result: result.samples_per_cpu_second),
        "aims": AIMS,
        "machine": machine(),
    }


def _lowest_ratios(medians: dict[Key, Result], rate: Callable[[Result], float]) -> dict[str, float]:
    lowest: dict[str, float] = {}
    for (size, place, contestant), tandem in medians.items():
        for other in AIMS:
            result = medians.get((size, _place_of(other, place), other))
            if contestant == "tandem" and result is not None:
                ratio = round(rate(tandem) / rate(result), 3)
                lowest[other] = min(ratio, lowest.get(other, ratio))
    return lowest


def _busy_seconds() -> float:
    """CPU time of all programs on this machine but this one and those that it waited for, and stolen time."""
    all_cores = psutil.cpu_times()
    ours = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    busy = all_cores.user + all_cores.nice + all_cores.system + all_cores.steal
    return float(busy - sum(times.ru_utime + times.ru_stime for times in ours))


def _prepared(folder: Path, size: str, megabytes: float) -> int:
    """Writes the photos where they are missing, and has all of their files in the page cache."""
    width, height = map(int, size.split("x"))
    count = prepare(folder, width, height, megabytes * 1e6)
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while file.read(1 << 24):
                    pass
    return count


def _turns(size: str, places: list[str], only: list[str], repetition: int) -> list[Key]:
    """The runs of one round; each round begins with another one."""
    keys = [(size, place, name) for place in places for name in only if _place_of(name, place) == place]
    keys += [(size, "memory", "bare")] if "bare" in only else []
    first = repetition * len(keys) // 3 % len(keys)
    return keys[first:] + keys[:first]


def _place_of(contestant: str, place: str) -> str:
    return "memory" if contestant == "bare" else place


def _median(runs: list[Result]) -> Result:
    first = [run.first_batch_seconds for run in runs if run.first_batch_seconds is not None]
    return Result(
        samples_per_second=statistics.median(run.samples_per_second for run in runs),
        samples_per_cpu_second=statistics.median(run.samples_per_cpu_second for run in runs),
        first_batch_seconds=statistics.median(first) if first else None,
        peak_bytes=int(statistics.median(run.peak_bytes for run in runs)),
    )


def _table(size: str, place: str, medians: dict[Key, Result]) -> Table:
    table = Table(title=f"{size} to 224x224, from {place}", title_justify="left")
    table.add_column("contestant")
    for heading in ("first batch, s", "samples/s", "samples/s/core", "peak MiB", "Tandem is"):
        table.add_column(heading, justify="right")
    for name in NAMES:
        result = medians.get((size, _place_of(name, place), name))
        if result is None:
            continue
        first = "" if result.first_batch_seconds is None else f"{result.first_batch_seconds:.2f}"
        tandem = medians.get((size, place, "tandem"))
        ratio = "" if tandem in (None, result) else f"{tandem.samples_per_second / result.samples_per_second:.2f} ×"
        table.add_row(
            f"{name} calls" if name == "bare" else name,
            first,
            f"{result.samples_per_second:,.0f}",
            f"{result.samples_per_cpu_second:,.0f}",
            f"{result.peak_bytes / 2**20:,.0f}",
            ratio,
        )
    return table


if __name__ == "__main__":
    main()
