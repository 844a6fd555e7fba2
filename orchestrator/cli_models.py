"""`tandem eval`, `export`, `embed`: a trained model is put to use."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.command import (
    DONE,
    FAILED,
    WRONG,
    Endpoint,
    EvaluatedModel,
    Format,
    Model,
    Output,
    OutputOption,
    ResultsOutput,
    ResultsOutputOption,
    Root,
    VectorType,
    given_s3,
    print_results,
    told,
)


def add_to(app: typer.Typer) -> None:
    """Adds the commands to `tandem`."""
    for command in (export, embed):
        app.command()(command)
    app.command("eval")(evaluate)


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
    cpus: Annotated[
        int | None, typer.Option(min=1, help="CPUs that each of them reserves. By default as a worker of the run.")
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option(min=0, max=1, help="GPUs, 0 or 1. By default 1 where a worker of the run has one."),
    ] = None,
    endpoint: Endpoint = None,
    root: Root = "runs",
    output: OutputOption = Output.TABLE,
) -> None:
    """Embed tars into Parquet files, one a shard, ready for a vector store.

    Columns: key, shard, row, vector (L2-normalised), and the fields. Runs as Ray tasks; called again, it goes on
    with the shards that are not done. Samples that can't be decoded are left out, and counted by cause.
    _manifest.json, written last, says what the files are.

    On a machine of its own without GPUs it embeds on CPUs. On a cluster without them say --gpus 0.
    """
    with told(WRONG):
        from orchestrator.embedding import embed_with_ray, find_work, reserving, settings_of
        from orchestrator.find_checkpoint import find_checkpoint
        from workers.storage import absolute

        found = reserving(find_checkpoint(model, given_s3(endpoint), root), cpus, gpus)
        settings = settings_of(found, side, dtype.value, tuple(field))
        work = find_work(found.storage, urls, absolute(out), settings)
    with told(FAILED):
        embedded = embed_with_ray(found, work, workers)
    if output is Output.JSON:
        print(json.dumps(asdict(embedded), indent=2))
    else:
        skipped = "".join(f", {count:,} {cause}" for cause, count in embedded.skipped.items())
        print(f"{out}: {embedded.rows:,} {settings.side} embeddings of {len(embedded.shards):,} shards{skipped}")
