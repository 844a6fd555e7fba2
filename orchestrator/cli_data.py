"""`tandem data`, `index`, `mine`: tars."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.command import (
    FAILED,
    WRONG,
    Endpoint,
    Output,
    OutputOption,
    Overrides,
    Spec,
    section,
    told,
)


def add_to(app: typer.Typer) -> None:
    """Adds the commands to `tandem`."""
    for command in (data, index, mine):
        app.command()(command)


def data(
    kind: Annotated[str, typer.Argument(help="digits, glyphs or stdlib.", show_default=False)],
    directory: Annotated[Path, typer.Argument(help="Where the tars go.", show_default=False)],
    seed: Annotated[int, typer.Option(help="Seed of splits, captions and negatives.")] = 0,
) -> None:
    """Write demo data as WebDataset tars in img2dataset's layout."""
    with told(WRONG):
        from workers.data.demo import write_demo

        summary = write_demo(kind, directory, seed=seed)
    for split in summary.splits:
        print(f"{split.directory}: {split.samples:,} samples in {split.shards} shard{'s' if split.shards > 1 else ''}")


def index(
    urls: Annotated[
        list[str], typer.Argument(help="Tars, as in data.sources: braces count, * lists.", show_default=False)
    ],
    out: Annotated[str | None, typer.Option(help="Where to keep the index, for a source's `index`.")] = None,
    read: Annotated[bool, typer.Option("--read", help="Read all tars, also those with counts beside them.")] = False,
    name: Annotated[str, typer.Option(help="Name of the source.")] = "index",
    endpoint: Endpoint = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Index shards: count their samples and find damaged ones, so that a job need not.

    Counts come from img2dataset's files beside the tars, else the tars are read. Reading them also finds where
    samples begin, so that a loader starts in the middle of a shard with one request. An index that is at --out
    already is brought up to date: unchanged shards are not read again.
    """
    with told(WRONG):
        from jobspecs.cluster import Cluster
        from jobspecs.data import Source
        from jobspecs.storage import S3
        from orchestrator.indexing import index_source
        from orchestrator.scanning import scan_with_ray
        from workers.storage import Storage, absolute

        source = section(Source, name=name, urls=urls)
        storage = Storage(section(S3, endpoint=endpoint), read_ahead=2)
        place = None if out is None else absolute(out)
        summary = index_source(source, storage, scan_with_ray(storage, Cluster()), place, read_all=read)
    if output is Output.JSON:
        print(json.dumps(asdict(summary), indent=2))
    else:
        from rich.console import Console

        from orchestrator.tables import index_table

        Console().print(index_table(summary))


def mine(
    spec: Spec,
    out: Annotated[str, typer.Option(help="Folder or URI that the new tars go to.", show_default=False)],
    model: Annotated[
        str | None,
        typer.Option(help="A run of Tandem, the folder of a checkpoint, or bm25: as mining.model.", show_default=False),
    ] = None,
    overrides: Overrides = [],  # noqa: B006 - typer reads it
    workers: Annotated[int | None, typer.Option(min=1, help="Tasks at a time, at most.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Mine hard negatives: copies of the spec's tars, each sample with a negatives.json.

    How is said by the spec's section mining. A model ranks all documents of the corpus for each query (or all texts for
    each image); of those behind the known answers, some that are near, but not nearer than the answer allows, become
    negatives. The tars go to OUT/<source>; a spec that names them, with data.negatives, trains with them. Runs as Ray
    tasks; called again, it goes on with the tars that are not done. _manifest.json, written last, says what they are.
    """
    with told(WRONG):
        from jobspecs.load import load
        from orchestrator.mining import mine_with_ray
        from orchestrator.mining_work import find_mining
        from workers.storage import absolute

        # What the spec's own job would mine, and when, is not asked here.
        alone = ["mining.before_training=false", "mining.every_steps=null"]
        named = [] if model is None else [f"mining.model={json.dumps(model)}", *alone]
        work = find_mining(load(spec, (*overrides, *named)), absolute(out))
    with told(FAILED):
        mined = mine_with_ray(work, workers)
    if output is Output.JSON:
        print(json.dumps(asdict(mined), indent=2))
    else:
        fewer = f", {mined.fewer:,} of them fewer than {work.mining.count}" if mined.fewer else ""
        left_out = f"; {mined.left_out:,} samples left out" if mined.left_out else ""
        print(f"{out}: {mined.negatives:,} negatives for {mined.mined:,} of {mined.samples:,} samples{fewer}{left_out}")
