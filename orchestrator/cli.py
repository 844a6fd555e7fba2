"""The command `tandem`: one function a command, no logic in it.

Each command imports what it needs: `tandem --help` and `tandem validate` need neither torch nor Ray.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from orchestrator import cli_doctor, cli_jobs, spec_commands
from orchestrator.cli_render import render
from orchestrator.command import (
    DEBUG_VARIABLE,
    DONE,
    FAILED,
    WRONG,
    Address,
    Endpoint,
    EvaluatedModel,
    Follow,
    Format,
    JobName,
    Model,
    Output,
    OutputOption,
    Overrides,
    Quiet,
    ResultsOutput,
    ResultsOutputOption,
    Root,
    Run,
    Spec,
    VectorType,
    Workers,
    drive,
    given_s3,
    job_of,
    open_run,
    print_results,
    section,
    show_of,
    told,
    with_workers,
)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

app.add_typer(render, name="render")


def main() -> None:
    """Entry point of the console script."""
    # Imports make tens of thousands of objects that stay: looking through them again and again for garbage takes a
    # tenth of the time that `tandem validate` does.
    gc.set_threshold(50_000, 20, 20)
    app()


@app.callback()
def tandem(
    debug: Annotated[
        bool, typer.Option("--debug", envvar=DEBUG_VARIABLE, help="Show tracebacks of errors, also of your own.")
    ] = False,
) -> None:
    """Contrastive training on Ray clusters: one job spec, the same experiment on any cluster."""
    os.environ.pop(DEBUG_VARIABLE, None)  # it may say 0
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"


@app.command()
def run(
    spec: Spec,
    workers: Workers = None,
    overrides: Overrides = [],  # noqa: B006 - typer reads it
    quiet: Quiet = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Run a job on this machine, or go on with it: train, checkpoint, evaluate.

    The run directory is <storage.root>/<name>. Run again, the job goes on from its newest checkpoint; a
    finished job is left as it is. Ctrl-C saves a checkpoint first.

    A terminal shows one live view, anything else lines; -o json writes an object a line: events, progress, the status.
    """
    with told(WRONG):
        from orchestrator.api import Run as ApiRun

        show = show_of(output, quiet)
    drive(lambda: ApiRun.from_spec(spec, *with_workers(overrides, workers)), show)


@app.command()
def validate(spec: Spec, overrides: Overrides = []) -> None:  # noqa: B006
    """Check a spec: all faults at once, each with its line and a remedy. Looks at no data."""
    with told(WRONG):
        from jobspecs.load import load

        job = load(spec, tuple(overrides))
    print(f"{spec}: valid ({job.name}, experiment {job.experiment_hash()[:16]})")


@app.command()
def plan(
    spec: Spec,
    workers: Workers = None,
    overrides: Overrides = [],  # noqa: B006
    step_seconds: Annotated[
        float | None, typer.Option(min=1e-6, help="Of a step, to estimate the goodput by.", show_default=False)
    ] = None,
    failures_per_day: Annotated[float, typer.Option(min=1e-6, help="Of the whole job, for the goodput.")] = 1.0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what would run and what it takes: samples, steps, rows per rank; memory, bytes, rates, checkpoints.

    Tars without counts beside them, and those of sources with filters, are read for it, on Ray; what was found
    is kept below <storage.root>/indexes for the next time.

    The plan is that of the run of this name if it is the same experiment, else that of a new run.
    """
    with told(WRONG):
        from jobspecs.load import load
        from orchestrator.costs import costs_of, warnings_of
        from orchestrator.prepare import prepare

        prepared = prepare(load(spec, with_workers(overrides, workers)), only_plan=True)
        costs = costs_of(prepared, seconds_per_step=step_seconds, failures_per_day=failures_per_day)
        warnings = warnings_of(prepared.spec, prepared.plan)
    if output is Output.JSON:
        found = {"costs": None if costs is None else asdict(costs), "warnings": warnings}
        print(json.dumps({**asdict(prepared.plan), **found}, indent=2))
    else:
        from rich.console import Console

        from orchestrator.costs_view import show_costs
        from orchestrator.tables import plan_table

        console = Console()
        console.print(plan_table(prepared.plan))
        show_costs(console, costs, warnings)


@app.command()
def status(
    job: JobName,
    follow: Follow = False,
    endpoint: Endpoint = None,
    address: Address = None,
    root: Root = "runs",
    output: OutputOption = Output.TABLE,
) -> None:
    """Show how a job is doing, on this machine or on a cluster; with --follow until it ends, as `tandem run` does."""
    with told(WRONG):
        found = job_of(job, root, endpoint, address)
        if follow:
            from orchestrator.follow import follow_run

            with contextlib.suppress(KeyboardInterrupt):
                follow_run(found.ledger, show_of(output, quiet=False))
            return
        answer = found.status()
    if output is Output.JSON:
        print(json.dumps(asdict(answer), indent=2))
    else:
        from rich.console import Console

        from orchestrator.tables import show_results, status_table

        console = Console()
        console.print(status_table(answer))
        show_results(console, answer, "evaluations")


@app.command()
def metrics(run: Run, endpoint: Endpoint = None) -> None:
    """Print one JSON object a step, in step order, without repeats after resumes."""
    with told(WRONG):
        for record in open_run(run, endpoint).metrics():
            print(json.dumps(record))


@app.command()
def results(run: Run, endpoint: Endpoint = None, output: ResultsOutputOption = ResultsOutput.TABLE) -> None:
    """Show the results of a run's evaluations: one table over all checkpoints."""
    with told(WRONG):
        found = open_run(run, endpoint).results()
    print_results(found, output)


@app.command()
def report(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN…", help="Run directories or their URIs.", show_default=False)
    ],
    out: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Where it goes: a path or URI. By default report.html in the run directory."),
    ] = None,
    model: Annotated[bool, typer.Option(help="Also neighbours, map and hard negatives, which need the model.")] = True,
    endpoint: Endpoint = None,
) -> None:
    """Write a report of a run, finished or under way: one HTML file that needs nothing else.

    Curves, evaluations, health, what the model takes for near, masked samples, attempts, spec and plan. Of several runs
    the curves lie over each other, in comparison.html.
    """
    with told(WRONG):
        from orchestrator import api

        written = api.report([open_run(run, endpoint) for run in runs], out, model=model)
    print(written)


@app.command("eval")
def evaluate(
    model: EvaluatedModel,
    spec: Annotated[
        Path | None,
        typer.Option(help="A spec whose evaluations are done, in place of the run's; of another model also its data."),
    ] = None,
    only: Annotated[list[str], typer.Option(metavar="NAME", help="Only the evaluation of that name.")] = [],  # noqa: B006
    raw: Annotated[bool, typer.Option(help="The weights as trained, where the run averages them.")] = False,
    endpoint: Endpoint = None,
    root: Root = "runs",
    output: ResultsOutputOption = ResultsOutput.TABLE,
) -> None:
    """Score a model in this process.

    Results of the run's own evaluations are kept in the run directory; those of another spec, or of raw weights, are
    printed alone.

    MODEL may also be one of someone else: a folder of transformers or sentence-transformers, or a name on the hub
    such as openai/clip-vit-base-patch32. --spec then says data and evaluations; image preparation, tokenizer, context
    length and prompts are the model's own.
    """

    def tell(message: str) -> None:
        print(message, file=sys.stderr)

    with told(WRONG):
        from orchestrator.evaluate_alone import chosen, evaluate_alone
        from orchestrator.evaluate_pretrained import evaluate_pretrained, is_pretrained
        from orchestrator.find_checkpoint import find_checkpoint

        s3 = given_s3(endpoint)
        theirs = is_pretrained(model)
        if not theirs:
            found = find_checkpoint(model, s3, root)
            evaluations = chosen(found, spec, only)
    with told(FAILED):
        if theirs:
            done = evaluate_pretrained(model, spec, only, tell, raw=raw, s3=s3)
        else:
            done = evaluate_alone(found, evaluations, raw=raw, keep=spec is None and not raw, tell=tell)
    print_results(done, output)
    sys.exit(FAILED if any("failed" in result for result in done) else DONE)


@app.command()
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


@app.command()
def export(
    model: Model,
    directory: Annotated[Path, typer.Argument(help="A new or empty local folder.", show_default=False)],
    format_: Annotated[Format, typer.Option("--format", help="Which library shall load it.")] = Format.TRANSFORMERS,
    endpoint: Endpoint = None,
    root: Root = "runs",
) -> None:
    """Write a model for other libraries, which load it without Tandem.

    transformers: one CLIPModel or SiglipModel where the towers are theirs, else each tower by itself and the few
    lines of Python that pool and project. sentence-transformers: text towers, or CLIP's or SigLIP's two. safetensors:
    all weights in one file by name, a config.json, and tokenizers. Each with tokenizer, image preparation, and a
    README.md: Python that embeds, the spec, what the data were, and the scores.
    """
    with told(WRONG):
        from orchestrator.exporting import export_model
        from orchestrator.find_checkpoint import find_checkpoint

        export_model(find_checkpoint(model, given_s3(endpoint), root), format_.value, directory)
    print(f"{directory}: {format_.value}; README.md says how to use it")


@app.command()
def embed(
    model: Model,
    urls: Annotated[
        list[str], typer.Argument(help="Tars, as in data.sources: braces count, * lists.", show_default=False)
    ],
    out: Annotated[str, typer.Option(help="Folder or URI that the Parquet files go to.", show_default=False)],
    side: Annotated[
        str | None, typer.Option(help="image, text, query or document. By default image, or else document.")
    ] = None,
    field: Annotated[
        list[str], typer.Option("--field", metavar="FIELD", help="A field of the samples' JSON to go with the vectors.")
    ] = [],  # noqa: B006 - typer reads it
    dtype: Annotated[VectorType, typer.Option(help="How vectors are stored.")] = VectorType.FLOAT32,
    workers: Annotated[int | None, typer.Option(min=1, help="Shards at a time, at most.")] = None,
    endpoint: Endpoint = None,
    root: Root = "runs",
    output: OutputOption = Output.TABLE,
) -> None:
    """Embed tars into Parquet files, one a shard, ready for a vector store.

    Columns: key, shard, row, vector (L2-normalised), and the fields. Runs as Ray tasks; called again, it goes on
    with the shards that are not done. Samples that can't be decoded are left out, and counted by cause.
    _manifest.json, written last, says what the files are.
    """
    with told(WRONG):
        from orchestrator.embedding import embed_with_ray, find_work, settings_of
        from orchestrator.find_checkpoint import find_checkpoint
        from workers.storage import absolute

        found = find_checkpoint(model, given_s3(endpoint), root)
        settings = settings_of(found, side, dtype.value, tuple(field))
        work = find_work(found.storage, urls, absolute(out), settings)
    with told(FAILED):
        embedded = embed_with_ray(found, work, workers)
    if output is Output.JSON:
        print(json.dumps(asdict(embedded), indent=2))
    else:
        skipped = "".join(f", {count:,} {cause}" for cause, count in embedded.skipped.items())
        print(f"{out}: {embedded.rows:,} {settings.side} embeddings of {len(embedded.shards):,} shards{skipped}")


@app.command()
def mine(
    spec: Spec,
    out: Annotated[str, typer.Option(help="Folder or URI that the new tars go to.", show_default=False)],
    model: Annotated[
        str | None,
        typer.Option(help="A run, the folder of a checkpoint, or bm25: as mining.model.", show_default=False),
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


@app.command()
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


for command in (spec_commands.init, spec_commands.schema, spec_commands.diff, cli_doctor.doctor):
    app.command()(command)
cli_jobs.add_to(app)

if __name__ == "__main__":
    main()
