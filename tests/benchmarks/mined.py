"""What mined negatives bring: `make bench-mined`. Text towers on Python's standard library, scored by retrieval in
modules that they have never seen (jobspecs/examples/stdlib_text.yaml).

Two ways to train, the same in all but where the hard negatives of a query come from, as many of them in each batch:

    random      drawn at random from all docstrings but the query's own: what a larger batch would bring
    mined       mined by the job itself, before training by BM25, and half way by what it has trained by then

Steps, batch and first weights are equal, so that a step costs the same; that the one with mining takes longer is not
counted. Each seed trains both. Batches are smaller and steps fewer than in the example, to be done in a quarter of an
hour on two cores. The table is Markdown; ± is half of the range over the seeds. The last line is JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from jobspecs.cluster import Cluster
from jobspecs.job import JobSpec
from jobspecs.load import load
from orchestrator.driver import Driver
from orchestrator.interrupt import Interrupt
from orchestrator.ledger import Ledger, State
from orchestrator.prepare import prepare
from orchestrator.ray_cluster import start_ray
from orchestrator.views.lines import LinesView
from tests.benchmarks.machine import machine
from workers.data.demo import write_demo
from workers.data.demo_stdlib import stdlib
from workers.data.demo_tar import Split, TextPair, pack_shard, shard_stats
from workers.data.keyed import permutation

EXAMPLE = Path(__file__).parents[2] / "jobspecs" / "examples" / "stdlib_text.yaml"
MEASURES = ("nDCG@10", "MRR@10")
LISTED = 8
"""Negatives of a sample, of which each pass draws those of its batch: as many as are mined."""
Scores = dict[str, float]
"""By measure."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--negatives", type=int, default=1, help="that go with each query")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tandem-bench-mined-") as folder:
        found = measure(Path(folder), args.seeds, args.steps, args.batch, args.negatives)
    print(table(found))
    print(json.dumps(summary(found)))


def measure(folder: Path, seeds: int, steps: int, batch: int, negatives: int) -> dict[str, list[Scores]]:
    """The scores of each seed, by the kind of negatives."""
    import ray

    write_demo("stdlib", folder / "stdlib")
    train = stdlib(0).splits[0]
    start_ray(Cluster(workers=2))
    found: dict[str, list[Scores]] = {"random": [], "mined": []}
    try:
        for seed in range(seeds):
            write_with_random_negatives(train, folder / f"train-{seed}", seed)
            for kind, scores in found.items():
                began = time.monotonic()
                scores.append(trained(job(folder, kind, seed, steps, batch, negatives)))
                told = ", ".join(f"{name} {scores[-1][name]:.3f}" for name in MEASURES)
                print(f"{kind}, seed {seed}: {told} ({time.monotonic() - began:.0f} s)", flush=True)
    finally:
        ray.shutdown()
    return found


def write_with_random_negatives(split: Split, folder: Path, seed: int) -> None:
    """The shards of a split, with other negatives."""
    folder.mkdir()
    documents = sorted({pair.document for pair in split.samples if isinstance(pair, TextPair)})
    for shard in range(split.shards):
        pairs = [pair for pair in split.shard(shard) if isinstance(pair, TextPair)]
        drawn = [
            TextPair(pair.query, pair.document, random_negatives(documents, pair.document, seed, shard, number))
            for number, pair in enumerate(pairs)
        ]
        (folder / f"{shard:05d}.tar").write_bytes(pack_shard(shard, drawn))
        (folder / f"{shard:05d}_stats.json").write_bytes(shard_stats(drawn))


def random_negatives(documents: Sequence[str], own: str, *about: int) -> tuple[str, ...]:
    """`LISTED` different documents, none of them the query's own."""
    drawn = (documents[number] for number in permutation(len(documents), "random negatives", *about)[: LISTED + 1])
    return tuple(document for document in drawn if document != own)[:LISTED]


def job(folder: Path, kind: str, seed: int, steps: int, batch: int, negatives: int) -> JobSpec:
    """The example, shorter, with one kind of negatives."""
    mining = f"{{model: bm25, before_training: true, every_steps: {-(-steps // 2)}, count: {LISTED}}}"
    return load(
        EXAMPLE,
        (
            f"name=stdlib-{kind}-{seed}",
            f"seed={seed}",
            f"storage.root={folder}/runs",
            f"data.sources.0.urls=['{folder}/train-{seed}/*.tar']",
            f"evaluations.0.data.urls=['{folder}/stdlib/test/*.tar']",
            f"data.negatives={{count: {negatives}}}",
            f"training.global_batch={batch}",
            f"training.steps={steps}",
            f"training.schedule.warmup_steps={steps // 8}",
            *([f"mining={mining}"] if kind == "mined" else []),
        ),
    )


def trained(spec: JobSpec) -> Scores:
    """The scores of a run's end."""
    prepared = prepare(spec)
    view = LinesView(Console(file=io.StringIO()))
    state = Driver(prepared, view, Interrupt()).run()
    assert state is State.SUCCEEDED, state
    ledger = Ledger(prepared.storage, prepared.run)
    for event in ledger.events():
        if event["event"] == "negatives_mined":  # some samples get fewer than they are given at random
            print(f"{event['message']}; none for {event['none']:,}", flush=True)
    (result,) = ledger.results()
    return {name: result["scores"][name] for name in MEASURES}


def table(found: Mapping[str, Sequence[Scores]]) -> str:
    """A row for each kind of negatives, and one for what mining adds, seed by seed."""
    lines = [
        "| hard negatives | " + " | ".join(MEASURES) + " |",
        "|---|" + "---|" * len(MEASURES),
        *(_row(kind, {name: [each[name] for each in scores] for name in MEASURES}) for kind, scores in found.items()),
        _row("mined - random", {name: _gains(found, name) for name in MEASURES}, sign="+"),
    ]
    return "\n".join(lines)


def _row(title: str, columns: Mapping[str, Sequence[float]], sign: str = "") -> str:
    cells = (
        f"{statistics.mean(values):{sign}.3f} ± {(max(values) - min(values)) / 2:.3f}" for values in columns.values()
    )
    return f"| {title} | {' | '.join(cells)} |"


def _gains(found: Mapping[str, Sequence[Scores]], name: str) -> list[float]:
    """What mining adds to a measure, of each seed."""
    return [mined[name] - random[name] for random, mined in zip(found["random"], found["mined"], strict=True)]


def summary(found: Mapping[str, Sequence[Scores]]) -> dict[str, object]:
    """The JSON line. No ratio is aimed at: it says what came out."""
    means = {kind: {name: statistics.mean(each[name] for each in found[kind]) for name in MEASURES} for kind in found}
    return {
        "benchmark": "mined",
        "ratios": {f"{name} by random": round(means["mined"][name] / means["random"][name], 3) for name in MEASURES},
        "aims": {},
        "scores": {kind: list(scores) for kind, scores in found.items()},
        "machine": machine(),
    }


if __name__ == "__main__":
    main()
