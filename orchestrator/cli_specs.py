"""`tandem init`, `schema`, `validate`, `plan`, `diff`: specs, and nothing is started."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from jobspecs.errors import UsageError
from orchestrator.command import (
    WRONG,
    Endpoint,
    Output,
    OutputOption,
    Overrides,
    Root,
    Spec,
    Workers,
    given_s3,
    told,
    with_workers,
)


def add_to(app: typer.Typer) -> None:
    """Adds the commands to `tandem`."""
    for command in (init, schema, validate, plan, diff):
        app.command()(command)


def init(
    example: Annotated[
        str | None, typer.Argument(help="An example; with --from-shards, the new file.", show_default=False)
    ] = None,
    file: Annotated[
        Path | None, typer.Argument(help="The new file; by default named as the example.", show_default=False)
    ] = None,
    from_shards: Annotated[
        list[str], typer.Option(metavar="URL", help="Tars, or a folder of them, that the spec shall fit.")
    ] = [],  # noqa: B006 - typer reads it
    endpoint: Endpoint = None,
) -> None:
    """Start a spec: list the examples, copy one, or write one that fits tars of your own.

    With --from-shards a few samples are looked at: which columns they have, how large the images are, how long the
    texts. The spec has towers, a batch and a length that fit, holds the last of several shards out for an evaluation,
    and says why; tandem plan and tandem run take it as it is.
    """
    with told(WRONG):
        from jobspecs.starters import SCHEMA, about, starter, starters, write_spec

        if from_shards:
            if file is not None:
                raise UsageError(f"--from-shards takes one file, not {example} and {file}. Leave the example out.")
            from jobspecs.storage import S3
            from orchestrator.from_shards import spec_for

            text, path = spec_for(from_shards, given_s3(endpoint) or S3()), Path(example or "job.yaml")
        elif example is None:
            for name, content in starters().items():
                print(f"{name}: {about(content)}")
            print("tandem init EXAMPLE copies one; --from-shards URL writes one for tars of your own")
            return
        else:
            text, path = starter(example), file or Path(f"{example.removesuffix('.yaml')}.yaml")
        write_spec(text, path)
    print(f"{path}: written, and {path.parent / SCHEMA} for your editor. Next: tandem plan {path}")


def schema() -> None:
    """Print the JSON schema of a spec, by which editors complete and check one.

    tandem schema > tandem.schema.json, and in the spec's first line:
    # yaml-language-server: $schema=tandem.schema.json
    """
    from jobspecs.schema import json_schema

    print(json.dumps(json_schema(), indent=1, ensure_ascii=False))


def validate(spec: Spec, overrides: Overrides = []) -> None:  # noqa: B006
    """Check a spec: all faults at once, each with its line and a remedy. Looks at no data."""
    with told(WRONG):
        from jobspecs.load import load

        job = load(spec, tuple(overrides))
    print(f"{spec}: valid ({job.name}, experiment {job.experiment_hash()[:16]})")


def plan(
    spec: Spec,
    workers: Workers = None,
    overrides: Overrides = [],  # noqa: B006
    step_seconds: Annotated[
        float | None, typer.Option(min=1e-6, help="Of a step, to estimate the goodput by.", show_default=False)
    ] = None,
    failures_per_day: Annotated[float, typer.Option(min=1e-6, help="Of the whole job, for the goodput.")] = 1.0,
    samples_per_second: Annotated[
        int, typer.Option(min=1, help="The rate that is aimed at: what it needs of network and storage is told.")
    ] = 1_000,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what would run and what it takes: samples, steps, rows per rank; memory, bytes, rates, checkpoints.

    Tars without counts beside them, and those of sources with filters, are read for it, many of them on Ray; what was
    found is kept below <storage.root>/indexes for the next time.

    The plan is that of the run of this name if it is the same experiment, else that of a new run.
    """
    with told(WRONG):
        from jobspecs.load import load
        from orchestrator.costs import costs_of, warnings_of
        from orchestrator.prepare import prepare

        prepared = prepare(load(spec, with_workers(overrides, workers)), only_plan=True)
        costs = costs_of(
            prepared,
            seconds_per_step=step_seconds,
            failures_per_day=failures_per_day,
            samples_per_second=samples_per_second,
        )
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


def diff(
    before: Annotated[str, typer.Argument(help="A spec, or a run by directory, URI or name.", show_default=False)],
    after: Annotated[str, typer.Argument(help="Another.", show_default=False)],
    endpoint: Endpoint = None,
    root: Root = "runs",
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what differs between two specs, and what it means.

    cosmetic: training does not look at it. resumable: a run goes on with it. another experiment: other batches, losses
    or parameters; it takes another name.
    """
    with told(WRONG):
        from orchestrator.compare import compare

        found = compare(before, after, given_s3(endpoint), root)
    if output is Output.JSON:
        print(json.dumps(found.as_json(), indent=2))
        return
    from jobspecs.identity import Effect

    for effect in reversed(Effect):
        for each in (each for each in found.differences if each.meaning.effect is effect):
            print(f"{effect.value}: {each}\n    {each.meaning.why}")
    print(found.verdict)
