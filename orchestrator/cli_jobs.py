"""`tandem list`, `status`, `logs`, `stop`: jobs that are there, on a cluster or here."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from orchestrator.command import (
    DONE,
    WRONG,
    Address,
    Endpoint,
    Follow,
    JobName,
    Output,
    OutputOption,
    Root,
    given_s3,
    job_of,
    named_cluster,
    show_of,
    told,
)


def add_to(app: typer.Typer) -> None:
    """Adds the commands to `tandem`."""
    for command in (status, logs, stop):
        app.command()(command)
    app.command("list")(list_jobs)


def list_jobs(
    address: Address = None,
    root: Root = "runs",
    endpoint: Endpoint = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the jobs of a cluster, where one is named, and the runs below --root."""
    with told(WRONG):
        from orchestrator.jobs import listed

        found = listed(named_cluster(address), root, given_s3(endpoint))
    if output is Output.JSON:
        print(json.dumps([asdict(job) for job in found], indent=2))
    else:
        from rich.console import Console

        from orchestrator.tables import jobs_table

        Console().print(jobs_table(found))


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
            from orchestrator.follow import follow_job, follow_run

            show = show_of(output, quiet=False)
            with contextlib.suppress(KeyboardInterrupt):
                if found.jobs is None or found.entry is None or found.entry.is_over:
                    follow_run(found.ledger, show)
                else:  # its run may not have begun yet
                    follow_job(found.jobs, found.entry.submission_id, found.ledger, show)
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


def logs(
    job: JobName,
    follow: Follow = False,
    rank: Annotated[int | None, typer.Option(min=0, help="What this rank wrote, in place of the driver.")] = None,
    attempt: Annotated[int | None, typer.Option(min=1, help="Of this attempt; by default the newest.")] = None,
    address: Address = None,
    endpoint: Endpoint = None,
    root: Root = "runs",
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what a job's driver or its ranks wrote; also of ranks and attempts that are gone.

    Ranks' logs are kept in the run directory, 4 MiB at most of each and attempt: the beginning and the newest.
    """
    with told(WRONG):
        from orchestrator.following import lines_of

        found = job_of(job, root, endpoint, address)
        try:
            for line in lines_of(found, rank=rank, attempt=attempt, follow=follow):
                print(json.dumps(asdict(line)) if output is Output.JSON else line.text, flush=True)
        except KeyboardInterrupt:
            sys.exit(DONE)


def stop(
    job: JobName,
    now: Annotated[bool, typer.Option("--now", help="Without a commit: what came after the last one is lost.")] = False,
    address: Address = None,
    endpoint: Endpoint = None,
    root: Root = "runs",
    output: OutputOption = Output.TABLE,
) -> None:
    """Ask a job to stop: after its next step, with a commit. `tandem resume` goes on with it."""
    with told(WRONG):
        from orchestrator.stopping import stop as stop_job

        done = stop_job(job_of(job, root, endpoint, address), now=now, connect=lambda: named_cluster(address))
    print(json.dumps(asdict(done), indent=2) if output is Output.JSON else done.message)
