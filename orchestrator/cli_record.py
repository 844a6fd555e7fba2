"""`tandem metrics`, `results`, `report`: what a run has written down."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from orchestrator.command import (
    WRONG,
    Endpoint,
    ResultsOutput,
    ResultsOutputOption,
    Root,
    Run,
    open_run,
    print_results,
    told,
)


def add_to(app: typer.Typer) -> None:
    """Adds the commands to `tandem`."""
    for command in (metrics, results, report):
        app.command()(command)


def metrics(run: Run, endpoint: Endpoint = None, root: Root = "runs") -> None:
    """Print one JSON object a step, in step order, without repeats after resumes."""
    with told(WRONG):
        for record in open_run(run, endpoint, root).metrics():
            print(json.dumps(record))


def results(
    run: Run, endpoint: Endpoint = None, root: Root = "runs", output: ResultsOutputOption = ResultsOutput.TABLE
) -> None:
    """Show the results of a run's evaluations: one table over all checkpoints."""
    with told(WRONG):
        found = open_run(run, endpoint, root).results()
    print_results(found, output)


def report(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN…", help="Runs, by directory, URI or name below --root.", show_default=False),
    ],
    out: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Where it goes: a path or URI. By default report.html in the run directory."),
    ] = None,
    model: Annotated[bool, typer.Option(help="Also neighbours, map and hard negatives, which need the model.")] = True,
    endpoint: Endpoint = None,
    root: Root = "runs",
) -> None:
    """Write a report of a run, finished or under way: one HTML file that needs nothing else.

    Curves, evaluations, health, what the model takes for near, masked samples, attempts, spec and plan. Of several runs
    the curves lie over each other, in comparison.html.
    """
    with told(WRONG):
        from orchestrator import api

        written = api.report([open_run(run, endpoint, root) for run in runs], out, model=model)
    print(written)
